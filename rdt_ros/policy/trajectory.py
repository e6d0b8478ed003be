"""Policies without a network: hold still, or follow a known trajectory (a recorded episode, a scripted plan)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.policy.interface import HORIZON_ROWS, joint_chunk
from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S, ActionChunk, Observation

APPROACH_SCALE = 0.25  # part of the velocity limits at which the arms go to the first row
SAME_POSE = 1e-3  # rad or opening: poses closer than this are one pose, and time decides which row is meant


class TrajectoryPolicy:
    """Follows `rows` (N, J), one a control period, from wherever the robot's commands show that it is.

    Arms that are away from the first row go to it first, in a straight line at a quarter of the velocity limits.
    Row `c` is in force when the Observation's command is row c; the chunk then begins with the row that is due
    `action_offset_steps` ticks after the Observation. Time alone would not do: the robot may have waited.
    """

    def __init__(self, robot: Robot, rows: np.ndarray) -> None:
        if rows.ndim != 2 or rows.shape[1] != len(robot.joints) or len(rows) == 0:
            raise InputError(f"trajectory: expected rows of {len(robot.joints)} joints, found shape {rows.shape}")
        self._robot, self._trajectory = robot, rows.astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Starts from the first row."""
        self._rows = self._trajectory  # with the way to its first row once it is known where the arms are
        self._last: tuple[int, int] | None = None  # stamp of the last command and its row
        self._commanded = False

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """The next 64 rows, whatever is committed; the last row is repeated after the end."""
        observation = history[-1]
        if self._last is None:
            self._rows = np.concatenate([self._approach(observation), self._trajectory])
        first = self._next_row(history)
        index = np.minimum(np.arange(first, first + HORIZON_ROWS), len(self._rows) - 1)
        return joint_chunk(self._robot, observation, self._rows[index], instruction)

    def _approach(self, observation: Observation) -> np.ndarray:
        """Rows (K, J) from where the arms are to before the first row; none where that is a period away or less.

        A measured opening is no command, so grippers take the first row's at once.
        """
        first = self._trajectory[0]
        way = np.where(self._robot.is_gripper, 0, first - observation.measured)
        periods = np.abs(way) / (APPROACH_SCALE * self._robot.limits("velocity") * self._robot.period_ns / NS_PER_S)
        count = int(periods.max())
        left = np.arange(count, 0, -1)[:, None] / (count + 1)
        return (first - left * way).astype(np.float32)

    def _next_row(self, history: Sequence[Observation]) -> int:
        now_ns = history[-1].stamp_ns
        if self._last is None:
            self._last = (now_ns, 0)
            return 0
        since_ns = self._last[0]
        seen = next((o for o in reversed(history) if o.command is not None and o.stamp_ns > since_ns), None)
        if seen is not None:
            self._last = (seen.stamp_ns, self._row_in_force(seen))
            self._commanded = True
        if not self._commanded:  # nothing has moved yet
            return 0
        stamp_ns, row = self._last  # where the newest Observations lack the command, time has to do
        row += round((now_ns - stamp_ns) / self._robot.period_ns)
        # row was issued for the previous tick, row + 1 will be for this one
        return row + 1 + self._robot.action_offset_steps

    def _row_in_force(self, observation: Observation) -> int:
        assert self._last is not None and observation.command is not None
        last_stamp_ns, last_row = self._last
        expected = last_row + (observation.stamp_ns - last_stamp_ns) / self._robot.period_ns
        window = self._rows[last_row : int(expected) + 3]
        distance = np.abs(window - observation.command).max(axis=1)
        rows = last_row + np.flatnonzero(distance <= distance.min() + SAME_POSE)
        return int(rows[np.argmin(np.abs(rows - expected))])


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
