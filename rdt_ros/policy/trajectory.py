"""Policies without a network: hold still, or follow a known trajectory (a recorded episode, a scripted plan)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.policy.interface import HORIZON_ROWS, joint_chunk
from rdt_ros.robot.description import Robot
from rdt_ros.types import ActionChunk, Observation

SAME_POSE = 1e-3  # rad or opening: poses closer than this are one pose, and time decides which row is meant


class TrajectoryPolicy:
    """Follows `rows` (N, J), one a control period, from wherever the robot's commands show that it is.

    Row `c` is in force when the Observation's command is row c; the chunk then begins with the row that is due
    `action_offset_steps` ticks after the Observation. Time alone would not do: the robot may have waited.
    """

    def __init__(self, robot: Robot, rows: np.ndarray) -> None:
        if rows.ndim != 2 or rows.shape[1] != len(robot.joints) or len(rows) == 0:
            raise InputError(f"trajectory: expected rows of {len(robot.joints)} joints, found shape {rows.shape}")
        self._robot, self._rows = robot, rows.astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Starts from the first row."""
        self._last: tuple[int, int] | None = None  # stamp and row in force at the last step

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """The next 64 rows, whatever is committed; the last row is repeated after the end."""
        observation = history[-1]
        first = self._next_row(observation)
        index = np.minimum(np.arange(first, first + HORIZON_ROWS), len(self._rows) - 1)
        return joint_chunk(self._robot, observation, self._rows[index], instruction)

    def _next_row(self, observation: Observation) -> int:
        if self._last is None or observation.command is None:
            self._last = (observation.stamp_ns, 0)
            return 0
        last_stamp_ns, last_row = self._last
        expected = last_row + (observation.stamp_ns - last_stamp_ns) / self._robot.period_ns
        window = self._rows[last_row : int(expected) + 3]
        distance = np.abs(window - observation.command).max(axis=1)
        rows = last_row + np.flatnonzero(distance <= distance.min() + SAME_POSE)
        row = int(rows[np.argmin(np.abs(rows - expected))])
        self._last = (observation.stamp_ns, row)
        # row was issued for the previous tick, row + 1 will be for this one
        return row + 1 + self._robot.action_offset_steps


class HoldPolicy:
    """Stays where the robot was first commanded, or seen, to be."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self.reset()

    def reset(self) -> None:
        """Takes the pose of the next Observation."""
        self._pose: np.ndarray | None = None

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """64 times the same pose, whatever is committed; a gripper never commanded goes to its home opening."""
        observation = history[-1]
        if self._pose is None:
            # measured and commanded gripper scales differ, so a measured opening is no command
            seen = np.where(self._robot.is_gripper, self._robot.home[-1], observation.measured)
            self._pose = (seen if observation.command is None else observation.command).astype(np.float32)
        return joint_chunk(self._robot, observation, np.tile(self._pose, (HORIZON_ROWS, 1)), instruction)
