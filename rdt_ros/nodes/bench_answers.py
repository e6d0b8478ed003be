"""For `rdt bench nodes`: from the newest sample of an Observation to its chunk, without the policy's step."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import rdt_msgs.msg
from rclpy.node import Node

from rdt_ros.nodes import messages
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.qos import OBSERVATIONS
from rdt_ros.options import option
from rdt_ros.types import NS_PER_S

WARM_UP = 5  # chunks, until all processes run evenly
BEGIN = "measuring"  # the line that says that the figures begin here
MS_PER_S = 1e3


@dataclass(frozen=True)
class BenchAnswersConfig:
    """How much to measure."""

    chunks: int = option(200, low=1, doc="Chunks of which the figures are taken")


class BenchAnswersNode(Node):
    """Prints BEGIN, then after the given number of chunks one line of JSON with the figures."""

    def __init__(self) -> None:
        super().__init__("bench_answers")
        self._wanted = load(self, BenchAnswersConfig).chunks
        self._newest_ns: dict[int, int] = {}  # Observation's stamp -> that of its newest sample
        self._chunks: list[tuple[int, int, float]] = []  # Observation's stamp, when published, seconds of the step
        self.create_subscription(rdt_msgs.msg.Observation, "observation", self._on_observation, OBSERVATIONS)
        self.create_subscription(rdt_msgs.msg.ActionChunk, "action_chunk", self._on_chunk, self._wanted)

    def _on_observation(self, msg: rdt_msgs.msg.Observation) -> None:
        observation = messages.observation(msg)
        self._newest_ns[observation.stamp_ns] = max(observation.source_stamps_ns.values())

    def _on_chunk(self, msg: rdt_msgs.msg.ActionChunk, info: dict[str, int]) -> None:
        self._chunks.append((messages.stamp_ns(msg.header.stamp), info["source_timestamp"], msg.inference_s))
        if len(self._chunks) == WARM_UP:
            print(BEGIN, flush=True)
        # One chunk more than is counted: an Observation may arrive after the chunk that answers it.
        if len(self._chunks) == WARM_UP + self._wanted + 1:
            print(json.dumps(self._figures()), flush=True)

    def _figures(self) -> dict[str, float | int]:
        counted = self._chunks[WARM_UP : WARM_UP + self._wanted]
        known = [chunk for chunk in counted if chunk[0] in self._newest_ns]
        step_ms = np.array([step_s for _, _, step_s in known]) * MS_PER_S
        whole_ns = [sent_ns - self._newest_ns[stamp_ns] for stamp_ns, sent_ns, _ in known]
        series = {"step_ms": step_ms, "nodes_ms": np.array(whole_ns) * MS_PER_S / NS_PER_S - step_ms}
        figures: dict[str, float | int] = {"chunks": len(known)}
        for name, values in series.items():
            p50, p99 = np.percentile(values, (50, 99))
            figures |= {f"{name}_p50": round(p50, 2), f"{name}_p99": round(p99, 2)}
        return figures


def main() -> None:
    """Runs the node."""
    run_node(BenchAnswersNode)
