"""Whole trajectories between the project's units and those of a robot's messages. N steps, J joints."""

from __future__ import annotations

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot


def to_project(robot: Robot, role: str, values: np.ndarray, path: str) -> np.ndarray:
    """(N, J) float32 of positions as they stand in a file; InputError with `path` where one is not finite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        joint = robot.joint_names[column]
        raise InputError(f"{path}: expected a finite position of {joint}, found {values[row, column]} at step {row}")
    zero, scale = _wire(robot, role)
    return ((values - zero) / scale).astype(np.float32)


def to_robot(robot: Robot, role: str, values: np.ndarray) -> np.ndarray:
    """(N, J) float64 of positions in the robot's units."""
    zero, scale = _wire(robot, role)
    return values.astype(float) * scale + zero


def velocity_to_project(robot: Robot, values: np.ndarray) -> np.ndarray:
    """(N, J) float32 of measured velocities as they stand in a file."""
    return (values / _wire(robot, "measured")[1]).astype(np.float32)


def velocity_to_robot(robot: Robot, values: np.ndarray) -> np.ndarray:
    """(N, J) float64 of measured velocities in the robot's units."""
    return values.astype(float) * _wire(robot, "measured")[1]


def _wire(robot: Robot, role: str) -> tuple[np.ndarray, np.ndarray]:
    """(J,) where a position is 0 in the robot's units, and how much of them is 1 here."""
    zeros, ones = (
        np.concatenate([robot.to_wire(g, role, np.full(len(g.joints), value)) for g in robot.groups])
        for value in (0.0, 1.0)
    )
    return zeros, ones - zeros
