"""For `rdt bench recorder`: a whole robot on its topics, with textured pictures, and a camera that fails on demand."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, JointState

from rdt_ros import jpeg
from rdt_ros.nodes import messages
from rdt_ros.nodes.bench_cameras import PICTURES, textured
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Picture

FAULTS = ("none", "unplugged", "frozen", "slow", "late", "early")
SLOW_DIVISOR = 3  # 10 of 30 Hz
OFF_NS = 100_000_000  # by which late and early stamps are wrong
SWING_RAD = 0.1  # of all joints, so that nothing looks motionless
POSE = np.array([0.3, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True)
class BenchRobotConfig:
    """What is sent, and what goes wrong."""

    robot: str = option("agilex", doc="Robot file: a shipped name or a path")
    joint_rate_hz: float = option(200.0, unit="Hz", low=1, high=1000, doc="Rate of every topic that is no camera")
    fault: str = option("none", choices=FAULTS, doc="Of the second camera, from the signal USR1 on")


class BenchRobotNode(Node):
    """Cameras at the robot file's rate; joints with effort, leader, base and poses at another; stamped when sent."""

    def __init__(self) -> None:
        super().__init__("bench_robot")
        self._config = load(self, BenchRobotConfig)
        self._robot = load_robot(self._config.robot)
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._cameras = [
            self.create_publisher(CompressedImage, f"{camera.topic}/compressed", qos) for camera in self._robot.cameras
        ]
        self._arms = [
            (group, role, self.create_publisher(JointState, group.topic(role).topic, qos))
            for group in self._robot.groups
            for role in ("measured", "leader")
            if role == "measured" or group.leader is not None
        ]
        self._poses = [self.create_publisher(PoseStamped, pose.topic, qos) for pose in self._robot.poses]
        base = self._robot.base
        self._base = self.create_publisher(Odometry, base.odometry, qos) if base else None
        camera = self._robot.cameras[0]
        frames = (jpeg.encode(textured(camera.width, camera.height, seed)) for seed in range(PICTURES))
        self._messages = [messages.compressed_msg(Picture("bench", 0, frame)) for frame in frames]
        self._count = self._joint_count = 0
        self._failing = False
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_failing", True))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / camera.rate_hz, self._send_pictures, clock=steady)
        self.create_timer(1 / self._config.joint_rate_hz, self._send_joints, clock=steady)

    def _send_pictures(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._count += 1
        for i, publisher in enumerate(self._cameras):
            fault = self._config.fault if self._failing and i == 1 else "none"
            if fault == "unplugged" or fault == "slow" and self._count % SLOW_DIVISOR:
                continue
            msg = self._messages[0 if fault == "frozen" else self._count % PICTURES]
            off_ns = {"late": OFF_NS, "early": -OFF_NS}.get(fault, 0)
            msg.header.stamp = messages.stamp_msg(now_ns + off_ns)
            publisher.publish(msg)

    def _send_joints(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._joint_count += 1
        swing = SWING_RAD * np.sin(self._joint_count / self._config.joint_rate_hz)
        for group, role, publisher in self._arms:
            position = np.array(self._robot.home[-1])[group.columns] + swing
            effort = position if role == "measured" else None
            publisher.publish(
                messages.joint_state_msg(
                    self._robot, group, role, stamp_ns=now_ns, position=position, velocity=effort, effort=effort
                )
            )
        for publisher in self._poses:
            publisher.publish(messages.pose_msg(now_ns, POSE))
        if self._base is not None:
            self._base.publish(messages.odometry_msg(now_ns, np.array([swing, 0.0, swing])))


def main() -> None:
    """Runs the node."""
    run_node(BenchRobotNode)
