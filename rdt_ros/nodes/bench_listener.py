"""For `rdt bench sync`: receives Observations as the policy does and measures how old their newest picture is."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import rdt_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from rdt_ros.nodes import messages
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot
from rdt_ros.types import NS_PER_S

WARM_UP = 50  # Observations, until all processes run evenly
BEGIN = "measuring"  # the line that says that the figures begin here


@dataclass(frozen=True)
class BenchListenerConfig:
    """How long to measure."""

    robot: str = option("agilex", doc="Robot file: a shipped name or a path")
    seconds: float = option(20.0, unit="s", low=1, doc="Time over which the figures are taken")


class BenchListenerNode(Node):
    """Prints BEGIN, then after the given time one line of JSON with the figures."""

    def __init__(self) -> None:
        super().__init__("bench_listener")
        config = load(self, BenchListenerConfig)
        self._period_ns = load_robot(config.robot).period_ns
        self._wanted = round(config.seconds * NS_PER_S / self._period_ns)
        self._seen = self._last_ns = 0
        self._ticks: list[int] = []
        self._latencies_ms: list[float] = []
        self._bytes = 0
        self._lost: list[int] = []  # camera messages that camera_sync missed, at each of its reports
        self.create_subscription(rdt_msgs.msg.Observation, "observation", self._on_observation, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_observation(self, msg: rdt_msgs.msg.Observation) -> None:
        now_ns = time.time_ns()
        self._seen += 1
        if self._seen == WARM_UP:
            print(BEGIN, flush=True)
        if self._seen <= WARM_UP or len(self._ticks) and self._ticks[-1] >= self._last_ns:
            return
        if not self._ticks:
            self._last_ns = messages.stamp_ns(msg.header.stamp) + (self._wanted - 1) * self._period_ns
        self._ticks.append(messages.stamp_ns(msg.header.stamp))
        newest_ns = max(messages.stamp_ns(image.header.stamp) for image in msg.images)
        self._latencies_ms.append((now_ns - newest_ns) / 1e6)
        self._bytes += sum(len(image.data) for image in msg.images)
        if self._ticks[-1] >= self._last_ns:
            print(json.dumps(self._figures()), flush=True)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        cameras = [status for status in msg.status if status.name.startswith("camera_sync: camera/")]
        if cameras and self._seen > WARM_UP:
            self._lost.append(sum(int(v.value) for status in cameras for v in status.values if v.key == "lost"))

    def _figures(self) -> dict[str, float | int]:
        sent = (self._ticks[-1] - self._ticks[0]) // self._period_ns + 1
        received = len(self._ticks)
        p50, p99 = np.percentile(self._latencies_ms, (50, 99))
        return {
            "rate_hz": round((received - 1) * NS_PER_S / (self._ticks[-1] - self._ticks[0]), 2),
            "latency_ms_p50": round(p50, 2),
            "latency_ms_p99": round(p99, 2),
            "sent": sent,
            "received": received,
            "lost": sent - received,
            "camera_messages_lost": self._lost[-1] - self._lost[0] if self._lost else 0,
            "kb_per_picture": round(self._bytes / received / 3000),
        }


def main() -> None:
    """Runs the node."""
    run_node(BenchListenerNode)
