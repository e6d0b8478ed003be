"""For `rdt bench executor`: plays the policy, and passes on what the executor says about its own ticks."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import rdt_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rdt_ros.nodes import messages
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.policy.interface import HORIZON_ROWS
from rdt_ros.robot.description import load_robot
from rdt_ros.types import NS_PER_S, ActionChunk

SWING_RAD = 0.1  # around home, where the bench's arms are measured all the time: no following error
SWING_S = 4.0


@dataclass(frozen=True)
class BenchChunksConfig:
    """What is planned, and how often."""

    robot: str = option("agilex", doc="Robot file: a shipped name or a path")
    interval_s: float = option(0.12, unit="s", low=0.01, doc="Time between two chunks: that of an inference")


class BenchChunksNode(Node):
    """Lets all arm joints swing around home; prints the executor's figures as JSON while it follows."""

    def __init__(self) -> None:
        super().__init__("bench_chunks")
        config = load(self, BenchChunksConfig)
        self._robot = load_robot(config.robot)
        self._state = rdt_msgs.msg.ExecutorState()
        self._sent = 0
        self._chunks = self.create_publisher(rdt_msgs.msg.ActionChunk, "action_chunk", 10)
        self.create_subscription(
            rdt_msgs.msg.ExecutorState, "executor/state", lambda msg: setattr(self, "_state", msg), 10
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(config.interval_s, self._send, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _send(self) -> None:
        robot, now_ns = self._robot, self.get_clock().now().nanoseconds
        stamp_ns = now_ns // robot.period_ns * robot.period_ns
        due_ns = stamp_ns + (np.arange(HORIZON_ROWS) + robot.action_offset_steps) * robot.period_ns
        swing = SWING_RAD * np.sin(2 * np.pi * (due_ns % round(SWING_S * NS_PER_S)) / (SWING_S * NS_PER_S))
        rows = np.array(robot.home[-1]) + swing[:, None] * ~robot.is_gripper
        self._sent += 1
        chunk = ActionChunk(
            stamp_ns=stamp_ns,
            robot=robot.name,
            period_s=robot.period_ns / NS_PER_S,
            offset_steps=robot.action_offset_steps,
            channels=robot.channels,
            rows=rows,
            epoch=self._state.epoch,
            chunk_id=self._sent,
        )
        self._chunks.publish(messages.action_chunk_msg(chunk))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "executor" and self._state.state == rdt_msgs.msg.ExecutorState.RUNNING:
                print(json.dumps({value.key: value.value for value in status.values}), flush=True)


def main() -> None:
    """Runs the node."""
    run_node(BenchChunksNode)
