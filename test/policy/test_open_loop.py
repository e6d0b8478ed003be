from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.policy.interface import joint_chunk
from rdt_ros.policy.open_loop import open_loop_error
from rdt_ros.robot.description import load_robot
from rdt_ros.types import ActionChunk, Observation

ROBOT = load_robot("sim_aloha")
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (30, 14)).astype(np.float32)


class Episode:
    """Stands in for an EpisodeReader; the stamp of an Observation is its step."""

    path, robot = Path("e.hdf5"), ROBOT

    def __init__(self, actions: np.ndarray = ACTIONS) -> None:
        self.actions = actions

    def __len__(self) -> int:
        return len(self.actions)

    def observation(self, step: int) -> Any:
        return SimpleNamespace(stamp_ns=step)


class Oracle:
    """Knows the actions, is off by a little, and keeps what it was asked."""

    def __init__(self, offset: np.ndarray) -> None:
        self.offset = offset
        self.asked: list[tuple[list[int], str | None]] = []

    def reset(self) -> None:
        """Nothing to forget."""

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        self.asked.append(([observation.stamp_ns for observation in history], instruction))
        step = history[-1].stamp_ns
        rows = np.full((8, 14), 99, np.float32)  # beyond the episode's end nothing is compared
        rows[: len(ACTIONS) - step] = ACTIONS[step : step + 8] + self.offset
        return joint_chunk(ROBOT, history[-1], rows, instruction)


def test_rows_are_compared_with_the_actions_that_were_due_with_them():
    offset = np.where(ROBOT.is_gripper, 0.5, 0.01)
    oracle = Oracle(offset)

    error = open_loop_error(oracle, Episode(), "pick", chunks=4)  # type: ignore[arg-type]

    assert (error.arms_rad, error.grippers) == pytest.approx((0.01, 0.5), rel=1e-4)
    assert error.chunks == 4
    assert oracle.asked == [([0, 1], "pick"), ([9, 10], "pick"), ([19, 20], "pick"), ([28, 29], "pick")]


def test_a_short_episode_gives_fewer_chunks_and_a_single_step_none():
    assert open_loop_error(Oracle(np.zeros(14)), Episode(ACTIONS[:3]), "", 8).chunks == 2  # type: ignore[arg-type]
    with pytest.raises(InputError, match="e.hdf5: expected at least 2 steps, found 1"):
        open_loop_error(Oracle(np.zeros(14)), Episode(ACTIONS[:1]), "", 8)  # type: ignore[arg-type]
