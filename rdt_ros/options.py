"""Declares a setting once: default, unit, range and prose live on the field of a frozen dataclass.

`rdt_ros.nodes.parameters` turns such a dataclass into ROS parameters; `config/nodes.yaml` lists all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rdt_ros.errors import InputError


def option(
    default: Any,
    *,
    doc: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is a setting: bool, int, float, str or tuple of str."""
    metadata = {"doc": doc, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Any, name: str) -> None:
    """Raises InputError for the first setting of a dataclass that is out of its range; `name` says whose settings."""
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        low, high, choices = meta.get("low"), meta.get("high"), meta.get("choices")
        if choices and value not in choices:
            raise InputError(f"{name}.{field.name}: expected one of {', '.join(choices)}, found {value!r}")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            span = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise InputError(f"{name}.{field.name}: expected {span} {meta['unit']}".rstrip() + f", found {value}")
