"""Every parameter of every node, as the text of `config/nodes.yaml`: `python -m rdt_ros.nodes.catalogue`."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.nodes.camera_sync import CameraSyncConfig
from rdt_ros.nodes.policy import PolicyConfig
from rdt_ros.nodes.recorder import RecorderConfig
from rdt_ros.nodes.replay import ReplayConfig
from rdt_ros.nodes.sim import SimConfig
from rdt_ros.nodes.teleop import TeleopConfig

CONFIGS: dict[str, type] = {
    "camera_sync": CameraSyncConfig,
    "policy": PolicyConfig,
    "executor": ExecutorConfig,
    "recorder": RecorderConfig,
    "replay": ReplayConfig,
    "sim": SimConfig,
    "teleop": TeleopConfig,
}
HEAD = """\
# Every parameter of every node with its default, unit, range and meaning. Change values here, or in a file of your own
# with the same form (params:=my.yaml). Arguments of the launch files come last and win.
"""
WIDTH = 60  # columns before a comment


def text() -> str:
    """The file, one commented line a parameter."""
    lines = [HEAD]
    for node, config in CONFIGS.items():
        lines.append(f"/**/{node}:\n  ros__parameters:")
        lines += [_line(field) for field in dataclasses.fields(config) if not _given_by_bringup(field)]
        lines.append("")
    return "\n".join(lines)


def _given_by_bringup(field: dataclasses.Field) -> bool:
    """A parameter without a default has no place in a file of defaults."""
    return field.default is dataclasses.MISSING or field.default is None


def _line(field: dataclasses.Field) -> str:
    meta = field.metadata
    notes = [meta["doc"]]
    if meta["unit"]:
        notes.append(f"unit {meta['unit']}")
    if meta["choices"]:
        notes.append("one of " + ", ".join(meta["choices"]))
    low, high = meta["low"], meta["high"]
    if low is not None or high is not None:
        notes.append(f"at least {low:g}" if high is None else f"{low:g} to {high:g}")
    return f"    {field.name + ': ' + _value(field.default):<{WIDTH - 4}}# {'; '.join(notes)}"


def _value(default: Any) -> str:
    value = list(default) if isinstance(default, tuple) else default
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


if __name__ == "__main__":
    print(text(), end="")
