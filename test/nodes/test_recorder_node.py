"""The `recorder` node as a process, seen through its topic and services."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rdt_msgs.msg import Observation as ObservationMsg  # noqa: E402
from rdt_msgs.msg import RecorderState  # noqa: E402
from rdt_msgs.srv import SetInstruction  # noqa: E402
from std_msgs.msg import Bool, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from rdt_ros.episodes.reader import EpisodeReader  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402
from rdt_ros.types import Observation, Picture  # noqa: E402

pytestmark = pytest.mark.ros

ROBOT = load_robot("sim_aloha")
DOMAIN = 79
PIXELS = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)
JPEG = cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()  # 130 KB: loss would show


@pytest.fixture(autouse=True)
def network(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))


@pytest.fixture
def start():
    """Starts a recorder with these parameters."""
    processes = []

    def run(**parameters) -> subprocess.Popen:
        given = {"robot": ROBOT.name, "instruction": "fold", "min_free_gb": 0.0, **parameters}
        arguments = [text for key, value in given.items() for text in ("-p", f"{key}:={json.dumps(value)}")]
        command = [sys.executable, "-m", "rdt_ros.nodes", "recorder", "--ros-args", *arguments]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


class Operator:
    """Sends Observations, calls services, hears the state."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("operator", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.states: list[RecorderState] = []
        self.node.create_subscription(RecorderState, "recorder/state", self.states.append, 50)
        self.publisher = self.node.create_publisher(ObservationMsg, "observation", 10)
        self.commands = self.node.create_publisher(String, "recorder/command", 10)
        self.pedal = self.node.create_publisher(Bool, "recorder/pedal", 10)
        self.tick = 0

    def wait(self, condition, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.states[-1:]
            self.executor.spin_once(timeout_sec=0.02)

    def wait_for_recorders(self, count: int) -> None:
        """The publisher knows a reader up to a second before the reader knows it; what is sent between is lost."""
        self.wait(lambda: self.publisher.get_subscription_count() == count)
        settled_s = time.monotonic() + 1.0
        self.wait(lambda: time.monotonic() > settled_s)

    def send(self, count: int, recorders: int = 1, period_s: float = 0.02) -> list[Observation]:
        self.wait_for_recorders(recorders)
        sent = []
        for _ in range(count):
            self.tick += 1
            stamp_ns = self.tick * ROBOT.period_ns
            vector = np.full(len(ROBOT.joints), self.tick, np.float32)
            pictures = tuple(Picture(camera.name, stamp_ns, JPEG) for camera in ROBOT.cameras)
            sent.append(Observation(stamp_ns, ROBOT.name, pictures, ROBOT.joint_names, vector, leader=vector))
            self.publisher.publish(messages.observation_msg(sent[-1]))
            self.executor.spin_once(timeout_sec=0)
            time.sleep(period_s)
        return sent

    def call(self, name: str, kind: type = Trigger, **request: str):
        client = self.node.create_client(kind, f"recorder/{name}")
        self.wait(client.service_is_ready)
        future = client.call_async(kind.Request(**request))
        self.wait(future.done)
        return future.result()


@pytest.fixture
def operator():
    made = Operator()
    yield made
    made.node.destroy_node()
    made.context.try_shutdown()


def test_two_recorders_in_one_folder_store_every_observation(start, operator, tmp_path):
    process = start(output=str(tmp_path / "out"))
    refused = operator.call("stop")
    assert not refused.success and refused.message == "recorder: not recording"
    first = operator.call("start")
    assert first.success and first.message == str(tmp_path / "out" / "episode_0000.hdf5")
    other = start(output=str(tmp_path / "out"), autostart=True)
    sent = operator.send(60, recorders=2)
    operator.wait(lambda: len({s.episode for s in operator.states if s.steps == 59}) == 2)
    other.send_signal(signal.SIGINT)  # finishes its episode
    assert other.wait(60) == 0
    done = operator.call("stop")
    assert done.success and done.message == first.message
    operator.wait(lambda: operator.states[-1].state == RecorderState.IDLE and operator.states[-1].episodes == 1)
    state = operator.states[-1]
    assert (state.steps, state.lost, state.instruction) == (59, 0, "fold")
    assert state.rate_hz == pytest.approx(25) and state.flushes >= 2 and state.free_bytes > 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["episode_0000.hdf5", "episode_0001.hdf5"]
    for path in (tmp_path / "out").iterdir():
        with EpisodeReader(path) as episode:
            assert len(episode) == 59
            for observation, read in zip(sent, episode.observations(), strict=False):
                assert (observation.stamp_ns, observation.pictures) == (read.stamp_ns, read.pictures)
                assert np.array_equal(observation.measured, read.measured)
            assert np.array_equal(episode.actions[:, 0], np.arange(2, 61))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_killed_recorder_leaves_what_was_flushed(start, operator, tmp_path):
    process = start(output=str(tmp_path), autostart=True, flush_period_s=0.2)
    operator.send(40)
    operator.wait(lambda: operator.states and operator.states[-1].steps == 39)
    flushed = operator.states[-1].flushes
    process.kill()
    process.wait()
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name == "episode_0000.hdf5.partial" and flushed >= 2
    with EpisodeReader(unfinished) as episode:
        assert len(episode) >= 20  # all but the last 0.2 s of 0.8 s, and a slow machine's share


def test_discard_removes_the_episode(start, operator, tmp_path):
    start(output=str(tmp_path), autostart=True)
    operator.send(5)
    assert operator.call("discard").success
    assert list(tmp_path.iterdir()) == []


def test_a_session_by_topic_and_pedal(start, operator, tmp_path):
    """A list of two instructions: one episode kept, one redone, one discarded after its end."""

    def command(word: str, notice: str) -> None:
        operator.commands.publish(String(data=word))
        operator.wait(lambda: operator.states[-1].notice.startswith(notice))

    def pedal(down: bool, state: int) -> None:
        for _ in range(3):  # a pedal that repeats itself counts once
            operator.pedal.publish(Bool(data=down))
        operator.wait(lambda: operator.states[-1].state == state)

    start(output=str(tmp_path), instruction="fold | 1 x stack", target=2)
    operator.wait_for_recorders(1)
    pedal(True, RecorderState.RECORDING)
    operator.send(5)
    pedal(False, RecorderState.RECORDING)
    pedal(True, RecorderState.IDLE)
    command("keep", "kept episode_0000.hdf5")
    command("discard", "recorder: nothing to discard")
    command("start", "recording episode_0001.hdf5")
    operator.send(5)
    command("redo", "discarded episode_0001.hdf5, recording episode_0001.hdf5")
    operator.send(5)
    command("stop", "finished episode_0001.hdf5: 4 steps, 0.1 s; its target is reached, next: stack")
    command("next", "next: fold")
    assert operator.call("set_instruction", SetInstruction, instruction="wipe").message == "wipe"
    command("start", "recording episode_0002.hdf5")
    operator.send(5)
    command("stop", "finished episode_0002.hdf5")
    command("discard", "discarded episode_0002.hdf5")
    command("jump", "recorder: expected one of start")
    state = operator.states[-1]
    assert (state.instructions, list(state.recorded)) == (["fold", "stack", "wipe"], [2, 0, 0])
    assert (list(state.targets), state.selected, state.episodes) == ([2, 1, 0], 2, 2)
    names = ["episode_0000.hdf5", "episode_0001.hdf5", "episode_0002.hdf5.discarded"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    for name in names[:2]:
        with EpisodeReader(tmp_path / name) as episode:
            assert (episode.instruction, len(episode)) == ("fold", 4)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"output": "/dev/null/out"}, "output /dev/null/out: cannot be written: Not a directory"),
        ({"robot": "aglex"}, "is 'agilex' meant?"),
        ({"flush_period_s": 0.0}, "flush_period_s"),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_2(start, tmp_path, parameters, line):
    process = start(**{"output": str(tmp_path), **parameters})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert line in errors and "Traceback" not in errors and len(errors.strip().splitlines()) == 1


def test_a_missing_instruction_is_a_warning(start, operator, tmp_path):
    start(output=str(tmp_path), instruction="", autostart=True)
    operator.wait(lambda: operator.states)
    assert operator.states[-1].state == RecorderState.RECORDING
    assert "no instruction: the episode will say nothing about its task" in operator.states[-1].warnings
