"""For `rdt bench sync`: three cameras with textured pictures and the arms, at the rates of a real robot."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from rdt_ros import jpeg
from rdt_ros.nodes import messages
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Picture

PICTURES = 8  # different ones, sent in turn
GRAIN = 3  # pixels; with this contrast a 640x480 picture is a JPEG of about 130 KB, as of a real scene
CONTRAST = 0.28
BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT


@dataclass(frozen=True)
class BenchCamerasConfig:
    """What is sent, and how often."""

    robot: str = option("agilex", doc="Robot file: a shipped name or a path")
    transport: str = option("compressed", choices=("raw", "compressed"), doc="How pictures travel")
    joint_rate_hz: float = option(200.0, unit="Hz", low=1, high=1000, doc="Rate of each arm's joint states")


class BenchCamerasNode(Node):
    """Sends all cameras at once at the robot file's rate, stamped at that moment."""

    def __init__(self) -> None:
        super().__init__("bench_cameras")
        config = load(self, BenchCamerasConfig)
        self._robot = load_robot(config.robot)
        raw = config.transport == "raw"
        kind, suffix = (Image, "") if raw else (CompressedImage, "/compressed")
        qos = QoSProfile(depth=1, reliability=BEST_EFFORT)
        self._cameras = [self.create_publisher(kind, camera.topic + suffix, qos) for camera in self._robot.cameras]
        self._arms = [(g, self.create_publisher(JointState, g.measured.topic, qos)) for g in self._robot.groups]
        camera = self._robot.cameras[0]
        pictures = [textured(camera.width, camera.height, seed) for seed in range(PICTURES)]
        self._messages = [
            messages.image_msg("bench", 0, rgb)
            if raw
            else messages.compressed_msg(Picture("bench", 0, jpeg.encode(rgb)))
            for rgb in pictures
        ]
        self._sent = 0
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / camera.rate_hz, self._send_pictures, clock=steady)
        self.create_timer(1 / config.joint_rate_hz, self._send_joints, clock=steady)

    def _send_pictures(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for publisher in self._cameras:
            msg = self._messages[self._sent % PICTURES]
            msg.header.stamp = stamp
            publisher.publish(msg)
            self._sent += 1

    def _send_joints(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        for group, publisher in self._arms:
            home = np.array(self._robot.home[-1])[group.columns]
            publisher.publish(messages.joint_state_msg(self._robot, group, "measured", stamp_ns=now_ns, position=home))


def textured(width: int, height: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8 of coloured grain, on which JPEG has as much to do as on a real scene."""
    grain = np.random.default_rng(seed).integers(0, 256, (height // GRAIN, width // GRAIN, 3), np.uint8)
    smooth = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(smooth, alpha=CONTRAST, beta=128 * (1 - CONTRAST))


def main() -> None:
    """Runs the node."""
    run_node(BenchCamerasNode)
