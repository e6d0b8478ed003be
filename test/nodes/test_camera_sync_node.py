"""The `camera_sync` node as a process, between a robot that this file plays and a listener."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rdt_msgs.msg import Observation  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402

from rdt_ros import jpeg  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.robot.description import Robot, load_robot  # noqa: E402
from rdt_ros.share import share_dir  # noqa: E402
from rdt_ros.types import Picture  # noqa: E402

pytestmark = pytest.mark.ros

WIDTH, HEIGHT = 64, 48
RED = (200, 30, 20)
NAMED_S = 1.5  # a second, and what a busy machine adds
DOMAINS = itertools.count(151)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


@pytest.fixture(autouse=True, scope="module")
def local_discovery() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    """sim_aloha with small pictures and cameras that may freeze."""
    data = yaml.safe_load((share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text())
    for camera in data["cameras"]:
        camera |= {"width": WIDTH, "height": HEIGHT, "frozen_after_s": 0.5}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@contextmanager
def camera_sync(log: Path, domain: int, **parameters: Any) -> Iterator[None]:
    """The node; it has to end with code 0 and without a traceback after Ctrl-C."""
    arguments = [text for key, value in parameters.items() for text in ("-p", f"{key}:={json.dumps(value)}")]
    command = [sys.executable, "-m", "rdt_ros.nodes", "camera_sync", "--ros-args", *arguments]
    with log.open("w") as out:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=20)
    assert code == 0 and "Traceback" not in log.read_text(), log.read_text()


class Stage:
    """The robot's drivers and the listener, in one node. `pictures[camera](i)` makes the i-th message, None: none."""

    def __init__(self, robot: Robot, domain: int) -> None:
        self.robot = robot
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("stage", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.observations: list[Observation] = []
        self.said: dict[str, DiagnosticStatus] = {}
        self.node.create_subscription(Observation, "observation", self.observations.append, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.pictures: dict[str, Callable[[int], Any]] = {}
        self.sent: dict[tuple[str, int], bytes] = {}  # JPEG by camera and stamp
        self._senders: dict[str, Any] = {}
        self._joints = [
            (g, self.node.create_publisher(JointState, g.measured.topic, BEST_EFFORT)) for g in robot.groups
        ]
        self._commands = [(g, self.node.create_publisher(JointState, g.command.topic, 10)) for g in robot.groups]
        self.commanding = False
        self.joint_names: dict[str, list[str]] = {}
        self._count = 0
        self.node.create_timer(1 / 30, self._send_pictures)
        self.node.create_timer(1 / 60, self._send_joints)
        self.node.create_timer(1 / 25, self._send_commands)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, until: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def names(self, source: str, words: str, timeout_s: float) -> bool:
        """Whether diagnostics say it of the source in time, as an error, for the node as a whole too."""

        def said() -> bool:
            status, node = self.said.get(f"camera_sync: {source}"), self.said.get("camera_sync")
            return (
                status is not None
                and status.level == DiagnosticStatus.ERROR
                and words in status.message
                and (node.level == DiagnosticStatus.ERROR)
            )

        return self.spin(said, timeout_s)

    def compressed(self, camera: str, quality: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> None:
        """Lets a camera send JPEGs, all different."""
        self._open(camera, CompressedImage, "/compressed", quality)

        def make(i: int) -> CompressedImage:
            ns = self._now_ns()
            self.sent[camera, ns] = jpeg.encode(picture(i))
            return messages.compressed_msg(Picture(camera, ns, self.sent[camera, ns]))

        self.pictures[camera] = make

    def raw(self, camera: str, encoding: str = "rgb8") -> None:
        """Lets a camera send raw pictures, all different; `encoding` is only what it says."""
        self._open(camera, Image, "", ReliabilityPolicy.BEST_EFFORT)

        def make(i: int) -> Image:
            msg = messages.image_msg(camera, self._now_ns(), picture(i))
            msg.encoding = encoding
            return msg

        self.pictures[camera] = make

    def _open(self, camera: str, kind: type, suffix: str, reliability: ReliabilityPolicy) -> None:
        topic = next(c.topic for c in self.robot.cameras if c.name == camera)
        qos = QoSProfile(depth=5, reliability=reliability)
        self._senders[camera] = self.node.create_publisher(kind, topic + suffix, qos)

    def _now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.said |= {status.name: status for status in msg.status}

    def _send_pictures(self) -> None:
        self._count += 1
        for camera, make in self.pictures.items():
            self._senders[camera].publish(make(self._count))

    def _send_joints(self) -> None:
        for group, sender in self._joints:
            position = np.full(len(group.joints), 0.25)
            msg = messages.joint_state_msg(
                self.robot, group, "measured", stamp_ns=self._now_ns(), position=position, velocity=2 * position
            )
            msg.name = self.joint_names.get(group.name, msg.name)
            sender.publish(msg)

    def _send_commands(self) -> None:
        for group, sender in self._commands if self.commanding else ():
            position = np.full(len(group.joints), 0.5)
            tick_ns = self._now_ns() // self.robot.period_ns * self.robot.period_ns
            sender.publish(messages.joint_state_msg(self.robot, group, "command", stamp_ns=tick_ns, position=position))


def picture(i: int) -> np.ndarray:
    """Red, with a gray bar whose length tells pictures apart."""
    rgb = np.full((HEIGHT, WIDTH, 3), RED, np.uint8)
    rgb[:16, : i % WIDTH] = 100
    return rgb


@pytest.fixture
def stage(robot_file: Path, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(load_robot(robot_file), next(DOMAINS))
    yield stage
    stage.close()


def running(stage: Stage, tmp_path: Path, robot_file: Path, **parameters: Any):
    domain = stage.context.get_domain_id()
    return camera_sync(tmp_path / "log", domain, robot=str(robot_file), **parameters)


def test_sets_hold_what_was_sent(stage: Stage, tmp_path: Path, robot_file: Path) -> None:
    stage.raw("cam_high")
    stage.compressed("cam_left_wrist")
    stage.compressed("cam_right_wrist")
    stage.commanding = True
    with running(stage, tmp_path, robot_file):
        assert stage.spin(lambda: len(stage.observations) > 20, 20)
        assert stage.spin(lambda: "camera_sync" in stage.said and int(values(stage)["sets"]) > 20, 5)
    period_ns = stage.robot.period_ns
    for observation in map(messages.observation, stage.observations[5:]):
        assert observation.stamp_ns % period_ns == 0
        assert set(observation.source_stamps_ns) >= {f"camera/{name}" for name in CAMERAS}
        assert all(
            -period_ns <= stamp - observation.stamp_ns <= 50_000_000 for stamp in observation.source_stamps_ns.values()
        )
        for seen in observation.pictures[1:]:
            assert seen.jpeg == stage.sent[seen.camera, seen.stamp_ns]
        raw = jpeg.decode(observation.pictures[0].jpeg)
        assert np.abs(raw[20:].mean((0, 1)) - RED).max() < 4
        assert observation.measured == pytest.approx(np.full(14, 0.25))
        assert observation.velocity == pytest.approx(np.full(14, 0.5))
        assert observation.command is None or observation.command == pytest.approx(np.full(14, 0.5))
    assert sum(len(msg.command) == 14 for msg in stage.observations) > 10
    ticks = [messages.stamp_ns(msg.header.stamp) for msg in stage.observations]
    assert ticks == sorted(set(ticks))


def values(stage: Stage) -> dict[str, str]:
    return {item.key: item.value for item in stage.said["camera_sync"].values}


def test_what_is_absent_or_wrong_is_named_within_seconds(stage: Stage, tmp_path: Path, robot_file: Path) -> None:
    stage.raw("cam_high", encoding="bayer_rggb8")
    stage.compressed("cam_right_wrist")
    stage.joint_names["right_arm"] = [f"joint{i}" for i in (0, 1, 2, 3, 4, 5, 9)]
    with running(stage, tmp_path, robot_file):
        assert stage.spin(lambda: "camera_sync" in stage.said, 20)
        absent = "no publisher on /camera_l/color/image_raw or /camera_l/color/image_raw/compressed"
        assert stage.names("camera/cam_left_wrist", absent, 4)
        encoding = "cam_high: expected encoding rgb8, bgr8, mono8, found 'bayer_rggb8'"
        assert stage.names("camera/cam_high", encoding, 4)
        assert stage.names("measured/right_arm", "puppet/joint_right: expected joints joint0", 4)
        assert stage.spin(lambda: absent in (tmp_path / "log").read_text(), 8)
        stage.spin(lambda: False, 1.0)  # enough to repeat itself
    lines = (tmp_path / "log").read_text().splitlines()
    assert sum(absent in line for line in lines) == 1
    assert sum(encoding in line for line in lines) == 1
    assert stage.observations == []


def test_a_publisher_of_lesser_quality_is_named_within_a_second(stage: Stage, tmp_path: Path, robot_file: Path) -> None:
    stage.compressed("cam_right_wrist")
    with running(stage, tmp_path, robot_file, reliable=True):
        assert stage.spin(lambda: "camera_sync" in stage.said, 20)
        stage.compressed("cam_high", ReliabilityPolicy.BEST_EFFORT)
        mismatch = "QoS mismatch on /camera_f/color/image_raw/compressed: a publisher offers less reliability"
        assert stage.names("camera/cam_high", mismatch, NAMED_S)
    assert mismatch in (tmp_path / "log").read_text()


def test_a_camera_that_freezes_or_stops_is_named_within_a_second(
    stage: Stage, tmp_path: Path, robot_file: Path
) -> None:
    for camera in CAMERAS:
        stage.compressed(camera)
    with running(stage, tmp_path, robot_file):
        assert stage.spin(lambda: len(stage.observations) > 10, 20)
        alive = stage.pictures["cam_high"]
        stage.pictures["cam_high"] = lambda i: messages.compressed_msg(
            Picture("cam_high", stage._now_ns(), jpeg.encode(picture(0)))
        )
        assert stage.names("camera/cam_high", "frozen: the same picture for", NAMED_S)
        stage.pictures["cam_high"] = alive
        del stage.pictures["cam_left_wrist"]
        assert stage.names("camera/cam_left_wrist", "stopped: no new message for", NAMED_S)
        assert stage.spin(lambda: "camera/cam_high: well again" in (tmp_path / "log").read_text(), 10.0)
        given_up = "given_up missing camera/cam_left_wrist"
        assert stage.spin(lambda: int(values(stage).get(given_up, 0)) > 0, 2.0)


def test_a_wrong_setting_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "rdt_ros.nodes", "camera_sync", "--ros-args", "-p", "robot:=agilx"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next(DOMAINS))}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].endswith("found 'agilx', is 'agilex' meant?")
    assert "Traceback" not in result.stderr
