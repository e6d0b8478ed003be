"""Which step of an episode gets which action: pure logic between the Observations and the writer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.types import Observation

SOURCES = ("auto", "leader", "command")


@dataclass(frozen=True, eq=False)
class Step:
    """One row of an episode."""

    observation: Observation
    action: np.ndarray  # (J,) float32
    action_source: str  # "leader" or "command"
    decided_by: Observation  # the later one that carried the action


class Recording:
    """Pairs every Observation with its action.

    `/action[t]` is the value in force at tick t + `offset_steps`: the leader of the Observation of that tick, or the
    `command` of the Observation one tick later still (an Observation's command is that of the tick before). A step is
    given out once its action is known, so the last ones never are. With `auto` the first Observation that has a leader
    or a command decides, leader first.
    """

    def __init__(self, period_ns: int, offset_steps: int, source: str = "auto") -> None:
        if source not in SOURCES:
            raise InputError(f"action_source: expected one of {', '.join(SOURCES)}, found {source!r}")
        self.source = source
        self.refused = 0  # Observations not newer than the one before
        self.heard = 0  # Observations
        self.stored = 0  # steps given out
        self.without_action = 0  # Observations without the leader or command that decides
        self._period_ns, self._offset = period_ns, offset_steps
        self._waiting: deque[Observation] = deque()
        self._newest_ns: int | None = None
        self._first_ns = self._last_ns = 0  # of the steps given out

    def add(self, observation: Observation) -> tuple[Step, ...]:
        """The steps that this Observation completes: one or none."""
        self.heard += 1
        if self._newest_ns is not None and observation.stamp_ns <= self._newest_ns:
            self.refused += 1
            return ()
        self._newest_ns = observation.stamp_ns
        self._waiting.append(observation)
        if self.source == "auto":
            self.source = next((s for s in ("leader", "command") if getattr(observation, s) is not None), "auto")
        delay = self._offset + (self.source != "leader")
        target_ns = observation.stamp_ns - delay * self._period_ns
        while self._waiting and self._waiting[0].stamp_ns < target_ns:
            self._waiting.popleft()  # its action never came
        action = None if self.source == "auto" else getattr(observation, self.source)
        self.without_action += self.source != "auto" and action is None
        if action is None or not self._waiting or self._waiting[0].stamp_ns != target_ns:
            return ()
        if not self.stored:
            self._first_ns = target_ns
        self._last_ns = target_ns
        self.stored += 1
        return (Step(self._waiting.popleft(), np.asarray(action, np.float32), self.source, observation),)

    @property
    def seconds(self) -> float:
        """From the first step given out to the last."""
        return (self._last_ns - self._first_ns) / 1e9

    @property
    def lost(self) -> int:
        """Control ticks between the first and the last step for which none could be given out."""
        ticks = round((self._last_ns - self._first_ns) / self._period_ns) + 1
        return ticks - self.stored if self.stored else 0

    @property
    def waiting(self) -> int:
        """Observations whose action is not known yet; at the end they are left out."""
        return len(self._waiting)
