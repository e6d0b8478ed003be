"""For `rdt bench faults`: hands one topic on under another name, so that killing this process cuts that topic alone."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, JointState

from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option

KINDS = {"JointState": JointState, "CompressedImage": CompressedImage}


@dataclass(frozen=True)
class BenchRelayConfig:
    """Which topic becomes which."""

    source: str = option("", doc="Topic that is read")
    target: str = option("", doc="Topic that is written")
    kind: str = option("JointState", choices=tuple(KINDS), doc="Type of both")


class BenchRelayNode(Node):
    """Passes messages on as the bytes that came."""

    def __init__(self) -> None:
        super().__init__("bench_relay")
        config = load(self, BenchRelayConfig)
        publisher = self.create_publisher(KINDS[config.kind], config.target, 10)
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(KINDS[config.kind], config.source, publisher.publish, qos, raw=True)


def main() -> None:
    """Runs the node."""
    run_node(BenchRelayNode)
