"""The `replay` node as a process, seen through the topics that it publishes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rdt_msgs.msg import ActionChunk  # noqa: E402
from rdt_msgs.msg import Observation as ObservationMsg  # noqa: E402
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage, JointState  # noqa: E402

from rdt_ros.episodes import bag  # noqa: E402
from rdt_ros.episodes.layout import Header  # noqa: E402
from rdt_ros.episodes.playback import Playback  # noqa: E402
from rdt_ros.episodes.recording import Recording  # noqa: E402
from rdt_ros.episodes.writer import EpisodeWriter  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402
from rdt_ros.share import share_dir  # noqa: E402
from rdt_ros.types import JointSample, Observation, Picture  # noqa: E402

pytestmark = pytest.mark.ros

ROBOT = load_robot("sim_aloha")
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()
PERIOD_NS = ROBOT.period_ns
DOMAIN = 62
RANDOM = np.random.default_rng(5)
JPEGS = [cv2.imencode(".jpg", RANDOM.integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes() for _ in range(5)]


@pytest.fixture(autouse=True)
def network(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))


def observation(tick: int) -> Observation:
    stamp_ns = tick * PERIOD_NS
    pictures = tuple(Picture(c.name, stamp_ns + 7 + i, JPEGS[(tick + i) % 5]) for i, c in enumerate(ROBOT.cameras))
    stamps = {f"camera/{p.camera}": p.stamp_ns for p in pictures}
    for group in ROBOT.groups:
        stamps |= {f"measured/{group.name}": stamp_ns, f"command/{group.name}": stamp_ns - PERIOD_NS}
    vectors = RANDOM.uniform(0, 1, (2, len(ROBOT.joints))).astype(np.float32)
    return Observation(
        stamp_ns,
        ROBOT.name,
        pictures,
        ROBOT.joint_names,
        vectors[0],
        velocity=vectors[1],
        command=vectors[1],
        source_stamps_ns=stamps,
    )


@pytest.fixture
def episode(tmp_path):
    """An episode of 20 steps."""
    recording = Recording(PERIOD_NS, ROBOT.action_offset_steps)
    writer = EpisodeWriter(tmp_path / "episode.hdf5", Header(ROBOT, ROBOT_TEXT, "fold"))
    for tick in range(100, 122):
        for step in recording.add(observation(tick)):
            writer.add(step)
    return writer.finish()


@pytest.fixture
def start():
    """Starts a replay with these parameters."""
    processes = []

    def run(**parameters) -> subprocess.Popen:
        given = {"robot": ROBOT.name, **parameters}
        arguments = [text for key, value in given.items() for text in ("-p", f"{key}:={json.dumps(value)}")]
        command = [sys.executable, "-m", "rdt_ros.nodes", "replay", "--ros-args", *arguments]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


class Listener:
    """Hears what the robot's topics carry; answers Observations as a policy would where told to."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list] = {}
        self._hear(Clock, "/clock")
        for camera in ROBOT.cameras:
            self._hear(CompressedImage, f"{camera.topic}/compressed")
        for group in ROBOT.groups:
            self._hear(JointState, group.measured.topic)
            self._hear(JointState, group.command.topic)

    def _hear(self, kind, topic: str) -> None:
        self.heard[topic] = []
        self.node.create_subscription(kind, topic, self.heard[topic].append, 1000)

    def wait(self, condition, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, {topic: len(heard) for topic, heard in self.heard.items()}
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.02)


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.node.destroy_node()
    made.context.try_shutdown()


def message(event):
    """What the robot sends for an event."""
    if isinstance(event.value, Picture):
        return messages.compressed_msg(event.value)
    role, _, name = event.source.partition("/")
    group = next(g for g in ROBOT.groups if g.name == name)
    parts = {
        field: None if value is None else value.astype(float)
        for field, value in (("position", event.value.position), ("velocity", event.value.velocity))
    }
    return messages.joint_state_msg(ROBOT, group, role, stamp_ns=event.stamp_ns, **parts)


def assert_replayed(listener: Listener, episode) -> None:
    """Every recorded message was heard once, with its stamp and its values."""
    with Playback(episode, ROBOT) as playback:
        events = list(playback.events())
    for topic in playback.topics:
        expected = [event for event in events if event.topic == topic]
        heard = listener.heard[topic]
        assert [messages.stamp_ns(m.header.stamp) for m in heard] == [event.stamp_ns for event in expected]
        for m, event in zip(heard, expected, strict=True):
            if isinstance(event.value, JointSample):
                assert serialize_message(m) == serialize_message(message(event))
            else:
                assert bytes(m.data) == event.value.jpeg
    clock = [messages.stamp_ns(m.clock) for m in listener.heard["/clock"]]
    assert clock == sorted({event.stamp_ns for event in events})


def test_an_episode_is_replayed_in_its_time_and_the_process_ends(start, listener, episode):
    process = start(source=str(episode), rate=2.0)
    listener.wait(lambda: listener.heard["/clock"])
    begun_s = time.monotonic()
    listener.wait(lambda: len(listener.heard["camera_f/color/image_raw/compressed"]) == 20)
    seconds = time.monotonic() - begun_s
    assert 0.3 < seconds < 0.75  # 20 ticks of 40 ms, twice as fast
    listener.wait(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert_replayed(listener, episode)


@pytest.mark.slow
def test_a_bag_is_replayed_as_it_was_recorded(start, listener, episode, tmp_path):
    types = get_typestore(Stores.ROS2_KILTED)
    with (
        Playback(episode, ROBOT) as playback,
        Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        topics = {t: writer.add_connection(f"/{t}", kind, typestore=types) for t, kind in playback.topics.items()}
        for event in playback.events():
            writer.write(topics[event.topic], event.stamp_ns + 10**15, serialize_message(message(event)))
    process = start(source=str(tmp_path / "bag"), rate=4.0)
    listener.wait(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert_replayed(listener, episode)


def test_lock_step_waits_for_each_answer(start, listener, episode):
    listener.node.create_subscription(ObservationMsg, "observation", print, 10)  # as the policy does
    answers = listener.node.create_publisher(ActionChunk, "action_chunk", 10)
    process = start(source=str(episode), lockstep=True)
    ticks = range(101, 120)  # nobody knows whether there was a picture of tick 100 before its first
    last = listener.heard["camera_r/color/image_raw/compressed"]
    for tick in ticks:
        listener.wait(lambda tick=tick: last and messages.stamp_ns(last[-1].header.stamp) >= tick * PERIOD_NS)
        if tick % 6 == 0:
            listener.spin(0.3)
        assert messages.stamp_ns(last[-1].header.stamp) == tick * PERIOD_NS + 9  # and not one further
        chunk = ActionChunk()
        chunk.header.stamp = messages.stamp_msg(tick * PERIOD_NS)
        answers.publish(chunk)
    listener.wait(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert_replayed(listener, episode)


@pytest.mark.slow
def test_lock_step_without_an_answer_ends_with_the_tick(start, listener, episode):
    listener.node.create_subscription(ObservationMsg, "observation", print, 10)
    listener.node.create_publisher(ActionChunk, "action_chunk", 10)
    process = start(source=str(episode), lockstep=True, answer_wait_s=1.0)
    listener.wait(lambda: process.poll() is not None)
    assert process.returncode == 2
    assert "replay: expected an ActionChunk for tick 4.040 s, none within" in process.stderr.read()


@pytest.mark.parametrize("late", [False, True])
def test_a_topic_with_another_publisher_ends_it(start, listener, episode, late):
    if not late:
        listener.node.create_publisher(JointState, "puppet/joint_left", 10)
    process = start(source=str(episode), loop=True)
    if late:  # as one that discovery has missed
        listener.wait(lambda: listener.heard["/clock"])
        listener.node.create_publisher(JointState, "puppet/joint_left", 10)
    listener.wait(lambda: process.poll() is not None)
    assert process.returncode == 2
    errors = process.stderr.read().strip()
    assert re.match("replay: /puppet/joint_left is published by (listener|another node) already; ", errors), errors
    assert "\n" not in errors


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (lambda e: e.with_name("none.hdf5"), "none.hdf5: no such file"),
        (lambda e: e.with_name("none"), "none: no such bag"),
        (lambda e: e.write_bytes(e.read_bytes()[:-3000]) and e, "episode.hdf5: no readable HDF5 episode"),
        (lambda e: "", "replay.source: expected an episode or a bag, found nothing"),
    ],
)
def test_a_wrong_source_is_one_line_and_code_2(start, episode, prepare, line):
    process = start(source=str(prepare(episode)))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert line in errors and len(errors.strip().splitlines()) == 1


def test_bag_types_are_those_of_the_messages():
    from rdt_ros.nodes.replay import TYPES

    kinds = {route.kind for route in bag.robot_topics(load_robot("agilex"))}
    assert kinds <= set(TYPES)
    for kind, cls in TYPES.items():
        assert kind == cls.__module__.split(".")[0] + "/msg/" + cls.__name__
