"""How far a policy's chunks are from what was done in a recorded episode, without moving anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.policy.interface import Policy


@dataclass(frozen=True)
class OpenLoopError:
    """Root mean squares over all rows of the chunks that the episode still covers; NaN without such joints."""

    arms_rad: float
    grippers: float  # of the opening, 0 to 1
    chunks: int


@dataclass(frozen=True, eq=False)
class ComparedChunk:
    """Rows (T, J) from a step on, as far as the episode covers them: rad or opening."""

    step: int
    predicted: np.ndarray
    recorded: np.ndarray


def compared_chunks(policy: Policy, episode: EpisodeReader, instruction: str, chunks: int) -> list[ComparedChunk]:
    """Chunks from Observations spread over the episode beside its actions.

    Row k of the chunk from step t is due when `actions[t + k]` was. The first Observation has none before it.
    """
    if len(episode) < 2:
        raise InputError(f"{episode.path}: expected at least 2 steps, found {len(episode)}")
    found = []
    steps = np.unique(np.linspace(1, len(episode) - 1, chunks).round().astype(int))
    for step in steps.tolist():
        history = [episode.observation(step - 1), episode.observation(step)]
        rows = policy.step(history, instruction=instruction).rows
        done = episode.actions[step : step + len(rows)]
        found.append(ComparedChunk(step, rows[: len(done)], done))
    return found


def open_loop_error(policy: Policy, episode: EpisodeReader, instruction: str, chunks: int) -> OpenLoopError:
    """The error of `compared_chunks`, arms and grippers apart."""
    compared = compared_chunks(policy, episode, instruction, chunks)
    squares = np.concatenate([chunk.predicted - chunk.recorded for chunk in compared]).astype(float) ** 2
    is_gripper = episode.robot.is_gripper
    return OpenLoopError(_root_mean(squares[:, ~is_gripper]), _root_mean(squares[:, is_gripper]), len(compared))


def _root_mean(squares: np.ndarray) -> float:
    return float(np.sqrt(squares.mean())) if squares.size else float("nan")
