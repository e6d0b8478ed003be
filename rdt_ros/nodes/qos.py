"""Qualities of service that two nodes must agree on."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


# Reliable; a policy that joins late gets the last sets, which in lock-step would not come again.
OBSERVATIONS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
