"""When the verdict on a task is told, where it is not told at every tick."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rdt_ros.types import NS_PER_S

if TYPE_CHECKING:
    from rdt_ros.sim.task import Outcome

PERIOD_NS = NS_PER_S // 2  # the half second that an evaluation goes on after a success


class Bulletin:
    """Has news at once where anything but `held_s` changes, or the scene, and otherwise every PERIOD_NS."""

    def __init__(self) -> None:
        self._told: tuple[int, dict[str, Outcome]] | None = None
        self._due_ns = 0

    def has_news(self, time_ns: int, seed: int, outcomes: Mapping[str, Outcome]) -> bool:
        """Whether to tell these outcomes, by task, of a seed's scene; what is told is no news afterwards."""
        standing = seed, {task: dataclasses.replace(outcome, held_s=0.0) for task, outcome in outcomes.items()}
        if standing == self._told and time_ns < self._due_ns:
            return False
        self._told, self._due_ns = standing, time_ns + PERIOD_NS
        return True
