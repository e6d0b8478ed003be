"""The last Observations, so that the older picture is found by its stamp and never by its place in a queue."""

from __future__ import annotations

from collections import deque

from rdt_ros.types import Observation


class History:
    """A short buffer of Observations in stamp order."""

    def __init__(self, length: int = 4) -> None:
        self._observations: deque[Observation] = deque(maxlen=length)

    def add(self, observation: Observation) -> None:
        """Appends an Observation; one that is not newer than the last begins a new history (the clock went back)."""
        if self._observations and observation.stamp_ns <= self._observations[-1].stamp_ns:
            self._observations.clear()
        self._observations.append(observation)

    def snapshot(self) -> tuple[Observation, ...]:
        """All of them, oldest first."""
        return tuple(self._observations)
