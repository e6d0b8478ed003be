"""What the policy node asks of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S, ActionChunk, Observation

HORIZON_ROWS = 64


class Policy(Protocol):
    """Turns Observations into chunks. A new policy needs these two methods and a line in `rdt_ros.nodes.policy`."""

    def reset(self) -> None:
        """Forgets the plan it was following: the executor starts anew."""
        ...

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """The chunk for `history[-1]`; history holds the last Observations, oldest first, at least one.

        `committed` (K, J) are the rows that will be executed whatever this policy says, in the robot's order: row k
        is due when row k of the chunk is. A policy may continue them, its chunk then has `committed_rows` K, or
        pass them over, which is 0.

        Raises InputError for an Observation that it cannot use.
        """
        ...


def joint_chunk(robot: Robot, observation: Observation, rows: np.ndarray, instruction: str | None) -> ActionChunk:
    """Rows (T, J) of joint positions as the chunk of an Observation."""
    return ActionChunk(
        stamp_ns=observation.stamp_ns,
        robot=robot.name,
        period_s=robot.period_ns / NS_PER_S,
        offset_steps=robot.action_offset_steps,
        channels=robot.channels,
        rows=rows,
        instruction=instruction or "",
    )
