"""A node's own line in `/diagnostics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node


def diagnostic_array(node: Node, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticArray:
    """One status named after the node: how it is, one readable sentence, and figures with their unit in the key."""
    status = DiagnosticStatus(
        level=level,
        name=node.get_name(),
        message=message,
        hardware_id=node.get_namespace(),
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    array = DiagnosticArray(status=[status])
    array.header.stamp = node.get_clock().now().to_msg()
    return array
