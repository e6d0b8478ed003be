"""A policy that is shown less than there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rdt_ros.policy.interface import Policy
from rdt_ros.types import ActionChunk, Observation


class MaskedPolicy:
    """Passes Observations on without their past or without some cameras; the policy itself knows nothing of it."""

    def __init__(self, policy: Policy, *, history: bool = True, without_cameras: Sequence[str] = ()) -> None:
        self._policy, self._history, self._without = policy, history, frozenset(without_cameras)

    def reset(self) -> None:
        """That of the policy."""
        self._policy.reset()

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """The policy's chunk for what is left of the history."""
        shown = history if self._history else history[-1:]
        seen = [self._masked(observation) for observation in shown]
        return self._policy.step(seen, instruction=instruction, committed=committed)

    def _masked(self, observation: Observation) -> Observation:
        left = tuple(picture for picture in observation.pictures if picture.camera not in self._without)
        return dataclasses.replace(observation, pictures=left)
