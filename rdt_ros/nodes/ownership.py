"""Who publishes on a topic: a robot's topics have one owner."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rclpy.node import Node

from rdt_ros.errors import InputError

DISCOVERY_S = 3.0  # until every publisher that is there already is known; 2 s were seen
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # what ROS says while it knows a publisher but not yet its node


def refuse_published(node: Node, topics: Iterable[str]) -> None:
    """Waits for discovery, then raises InputError where one of the topics has a publisher already."""
    time.sleep(DISCOVERY_S)
    for topic in topics:
        owners = [info.node_name for info in node.get_publishers_info_by_topic(topic)]
        if owners:
            owner = "another node" if owners[0] == UNKNOWN else owners[0]
            raise InputError(
                f"{node.get_name()}: {node.resolve_topic_name(topic)} is published by {owner} already; "
                "start in another ROS_DOMAIN_ID, or stop that node"
            )
