"""A recorded run, replayed as episode and as bag, gives the same pictures, Observations and chunks as it gave live."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rdt_msgs.msg import ActionChunk, Observation  # noqa: E402
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from sensor_msgs.msg import CompressedImage, JointState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from rdt_ros import bringup  # noqa: E402
from rdt_ros.episodes.reader import EpisodeReader  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.nodes.qos import OBSERVATIONS  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402
from rdt_ros.supervisor import Supervisor  # noqa: E402

pytestmark = pytest.mark.ros

DOMAIN = 71
ROBOT = load_robot("sim_aloha")
TICKS = 25
POLICY = {"policy": "rdt", "checkpoint": "random:tiny", "instruction": "lift the cube", "lockstep": "true", "seed": "3"}
STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


class Listener:
    """Hears all Observations, all chunks, and, as a bag would, the robot's own messages as they are serialized."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("listener", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.observations: dict[int, object] = {}
        self.chunks: dict[int, object] = {}
        self.serialized: list[tuple[str, str, bytes]] = []
        self.node.create_subscription(Observation, "observation", self._on_observation, OBSERVATIONS)
        self.node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, 100)

    def record_topics(self) -> None:
        for camera in ROBOT.cameras:
            self._record(CompressedImage, f"{camera.topic}/compressed")
        for group in ROBOT.groups:
            self._record(JointState, group.measured.topic)
            self._record(JointState, group.command.topic)

    def _record(self, kind, topic: str) -> None:
        name = f"sensor_msgs/msg/{kind.__name__}"
        keep = lambda data: self.serialized.append((topic, name, data))  # noqa: E731
        self.node.create_subscription(kind, topic, keep, QoSProfile(depth=500), raw=True)

    def _on_observation(self, msg) -> None:
        observation = messages.observation(msg)
        self.observations[observation.stamp_ns] = observation

    def _on_chunk(self, msg) -> None:
        chunk = messages.action_chunk(msg)
        if len(chunk.rows):
            self.chunks[chunk.stamp_ns] = chunk

    def wait(self, condition, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, (len(self.observations), len(self.chunks))
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, service: str) -> None:
        """Calls until it is there and says yes: right after the start it may refuse."""
        client = self.node.create_client(Trigger, service)
        self.wait(client.service_is_ready)

        def done() -> bool:
            future = client.call_async(Trigger.Request())
            self.wait(future.done)
            return future.result().success

        self.wait(done)


@contextmanager
def deployed(deployment: str, log: Path, given: dict[str, str]):
    params = log.with_suffix(".yaml")
    params.write_text("/**/policy:\n  ros__parameters:\n    replan_rows: 1\n")
    plan = bringup.plan(deployment, {**given, "domain": str(DOMAIN), "params": str(params)})
    with log.open("w") as file, Supervisor(plan, lambda line: print(line, file=file, flush=True)) as supervisor:
        yield Listener(plan.namespace), supervisor


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """The run itself: what was seen, what was planned, the episode and two bags."""
    folder = tmp_path_factory.mktemp("live")
    given = {**POLICY, "sim": "true", "record": str(folder)}
    with deployed("inference", folder / "live.log", given) as (listener, _):
        listener.record_topics()
        listener.wait(lambda: listener.chunks)
        listener.call("recorder/start")
        listener.call("executor/enable")
        listener.wait(lambda: len(listener.observations) > TICKS + 3)
        listener.call("recorder/stop")
    bags = {name: write_bag(folder / name, plugin, listener.serialized) for name, plugin in STORAGE.items()}
    return listener, folder / "episode_0000.hdf5", bags


def write_bag(path: Path, plugin: StoragePlugin, serialized: list[tuple[str, str, bytes]]) -> Path:
    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for received, (topic, kind, data) in enumerate(serialized):
            if topic not in connections:
                connections[topic] = writer.add_connection(f"/sim/{topic}", kind, typestore=store)
            writer.write(connections[topic], received, data)
    return path


def replayed(source: Path, log: Path) -> Listener:
    given = {**POLICY, "source": str(source), "robot": ROBOT.name}
    with deployed("replay", log, given) as (listener, supervisor):
        listener.wait(lambda: supervisor.ended() is not None)
        assert supervisor.ended()[1] == 0, log.read_text()
        listener.executor.spin_once(timeout_sec=0.2)
    return listener


def assert_same(listener: Listener, live: Listener, ticks: list[int]) -> None:
    for tick in ticks:
        ours, theirs = listener.observations[tick], live.observations[tick]
        for field in dataclasses.fields(ours):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, f"{field.name} of tick {tick}"
    for tick in ticks[1:]:  # the first one has no older picture here
        np.testing.assert_array_equal(listener.chunks[tick].rows, live.chunks[tick].rows)
        assert listener.chunks[tick].instruction == POLICY["instruction"]


def test_the_episode_gives_the_same_observations_and_chunks(live, tmp_path):
    live_listener, path, _ = live
    with EpisodeReader(path) as episode:
        ticks = [int(tick) for tick in episode.ticks]
        stored = [observation.pictures for observation in episode.observations()]
    assert len(ticks) >= TICKS - 2
    assert stored == [live_listener.observations[tick].pictures for tick in ticks]
    assert_same(replayed(path, tmp_path / "episode.log"), live_listener, ticks)


@pytest.mark.parametrize("storage", ["mcap", pytest.param("sqlite3", marks=pytest.mark.slow)])
def test_a_bag_gives_the_same_observations_and_chunks(live, tmp_path, storage):
    live_listener, _, bags = live
    # the bag begins with the first tick and has no command for the last one that was seen
    ticks = sorted(live_listener.observations)[: TICKS - 1]
    assert_same(replayed(bags[storage], tmp_path / "bag.log"), live_listener, ticks)
