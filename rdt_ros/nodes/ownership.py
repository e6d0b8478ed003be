"""Who publishes on a topic: a robot's topics have one owner."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rclpy.node import Node

from rdt_ros.errors import InputError

DISCOVERY_S = 3.0  # until every publisher that is there already is known; 2 s were seen, and more on a loaded machine
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # what ROS says while it knows a publisher but not yet its node


def refuse_published(node: Node, topics: Iterable[str]) -> None:
    """Waits for discovery, then `refuse_others`: before a node makes its own publishers of these topics."""
    time.sleep(DISCOVERY_S)
    refuse_others(node, topics, own_count=0)


def refuse_others(node: Node, topics: Iterable[str], own_count: int = 1) -> None:
    """Raises InputError where one of the topics has publishers beside the `own_count` of this node.

    Discovery promises no time: a node that asks again, before its first message and while it sends, also finds the
    publisher that was heard of late.
    """
    for topic in topics:
        if owner := other_publisher(node, topic, own_count):
            raise InputError(
                f"{node.get_name()}: {node.resolve_topic_name(topic)} is published by {owner} already; "
                "start in another ROS_DOMAIN_ID, or stop that node"
            )


def other_publisher(node: Node, topic: str, own_count: int = 1) -> str:
    """The name of a node that publishes on the topic beside this one, empty for none."""
    if node.count_publishers(topic) <= own_count:
        return ""
    own = (node.get_name(), node.get_namespace())
    found = [(info.node_name, info.node_namespace) for info in node.get_publishers_info_by_topic(topic)]
    others = [name for name, space in found if (name, space) != own]
    if not others:
        return f"another {node.get_name()}"
    return "another node" if others[0] == UNKNOWN else others[0]
