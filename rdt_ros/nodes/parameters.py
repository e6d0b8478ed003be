"""ROS parameters from the frozen dataclasses of settings, and the text of `config/nodes.yaml` from the same source."""

from __future__ import annotations

import dataclasses
import typing
from typing import TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from rdt_ros.options import check

Config = TypeVar("Config")
WIDEST = 1e18  # stands for "no bound" in a ROS range


def load(node: Node, config_class: type[Config]) -> Config:
    """Declares every field of `config_class` as a read-only parameter and returns the values the node was given.

    A field without a default must be given. Raises InputError for a value out of its range.
    """
    types = typing.get_type_hints(config_class)
    values = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        default = field.default
        if isinstance(default, tuple):
            default = list(default)
        value = node.declare_parameter(field.name, default, _descriptor(field, types[field.name])).value
        values[field.name] = tuple(value) if isinstance(field.default, tuple) else value
    config = config_class(**values)
    check(config, node.get_name())
    return config


def _descriptor(field: dataclasses.Field, kind: type) -> ParameterDescriptor:
    meta = field.metadata
    descriptor = ParameterDescriptor(description=meta["doc"], read_only=True)
    if meta["choices"]:
        descriptor.additional_constraints = "one of " + ", ".join(meta["choices"])
    if meta["unit"]:
        descriptor.description += f" [{meta['unit']}]"
    low, high = meta["low"], meta["high"]
    if low is not None or high is not None:
        low, high = (-WIDEST if low is None else low), (WIDEST if high is None else high)
        if kind is int:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor
