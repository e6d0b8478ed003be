"""Policies: from the last Observations to the next 64 actions."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`RdtPolicy`, imported when asked for: torch takes seconds, and the other policies run without it."""
    if name == "RdtPolicy":
        from rdt_ros.policy.rdt import RdtPolicy

        return RdtPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
