"""The plan that the arms follow: where a new chunk takes over, and what is still to come."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rdt_ros.control.fade import Fade
from rdt_ros.control.limits import Limits
from rdt_ros.control.path import Path
from rdt_ros.types import NS_PER_S


class Timeline:
    """Chunks on plan time: from its first row on, the newer chunk replaces the older one.

    Every path begins at the last command, so a jump becomes a straight ramp to the next row, which limits then slow.
    A row closer than half a period to the last command is left out: a small disagreement would look like a fast motion.

    With `crossfade_ns`, arm joints are led over instead while they follow an older chunk: the newer one is shifted to
    where they go, and the shift fades out in that time.

    `grippers` (J,) says which joints are grippers: they change over at once, and their limits slow no path.
    """

    def __init__(
        self, limits: Limits, period_ns: int, *, crossfade_ns: int = 0, grippers: np.ndarray | None = None
    ) -> None:
        self._limits, self._period_ns = limits, period_ns
        self._crossfade_ns = crossfade_ns
        self._grippers = np.zeros(len(limits.lower), bool) if grippers is None else grippers
        self._path_limits = dataclasses.replace(
            limits,
            velocity=np.where(self._grippers, np.inf, limits.velocity),
            acceleration=np.where(self._grippers, np.inf, limits.acceleration),
        )
        self.clear()

    def clear(self) -> None:
        """Cuts off all that was planned."""
        self.path: Path | None = None
        self.ramp_end_ns = 0  # until then the arms go from where they stood to the first row
        self._fade: Fade | None = None
        self.chunk_id = 0

    def place(
        self,
        chunk_id: int,
        due_ns: np.ndarray,
        rows: np.ndarray,
        *,
        plan_ns: int,
        position: np.ndarray,
        slope: np.ndarray | None,
    ) -> bool:
        """Lays rows (T, J) due at plan times (T,) over what was planned; False where all of them are past.

        `position` (J,) is the last command, at plan time `plan_ns`; `slope` (J,) how it moves per second of plan time.
        """
        if due_ns[-1] <= plan_ns:
            return False
        ramps = self.path is None or plan_ns < self.ramp_end_ns
        if self._crossfade_ns and not ramps:
            rows = self._led_over(due_ns, rows, plan_ns, position, slope)
        gap_ns = self._period_ns // 2
        fresh = due_ns >= plan_ns + gap_ns
        if not fresh.any():
            due_ns, fresh = np.append(due_ns[:-1], plan_ns + gap_ns), np.arange(len(due_ns)) == len(due_ns) - 1
        times, knots = [np.array([plan_ns]), due_ns[fresh]], [position[None], rows[fresh]]
        if self.path is not None:
            old_ns = self.path.times_ns
            kept = (old_ns >= plan_ns + gap_ns) & (old_ns <= times[1][0] - gap_ns)
            times.insert(1, old_ns[kept])
            knots.insert(1, self.path.rows[kept])
        self.path = Path(np.concatenate(times), np.concatenate(knots), self._path_limits, slope, self._grippers)
        if ramps:
            self.ramp_end_ns = int(self.path.times_ns[1])
        self.chunk_id = chunk_id
        return True

    def _led_over(
        self, due_ns: np.ndarray, rows: np.ndarray, plan_ns: int, position: np.ndarray, slope: np.ndarray | None
    ) -> np.ndarray:
        """Rows (T, J) of a newer chunk with its disagreement with the older one, in place and in slope, fading out."""
        assert self.path is not None
        start_ns = max(plan_ns, int(due_ns[0]))
        newer = Path(due_ns, rows, self._path_limits, monotone=self._grippers) if len(rows) > 1 else None
        if start_ns > plan_ns:
            position, slope = self.path.sample(start_ns), self.path.slope(start_ns)
        still = np.zeros(len(position))
        shift = position - (newer.sample(start_ns) if newer else rows[0])
        drift = (slope if slope is not None else still) - (newer.slope(start_ns) if newer else still)
        seconds = min(self._crossfade_ns, max(int(due_ns[-1]) - start_ns, 1)) / NS_PER_S
        bend = self._fade.bend_at(start_ns) if self._fade is not None else still
        self._fade = Fade(start_ns, seconds, *(np.where(self._grippers, 0, part) for part in (shift, drift, bend)))
        return np.clip(rows + self._fade.at(due_ns), self._limits.lower, self._limits.upper)

    def visit(
        self,
        poses: Sequence[np.ndarray],
        *,
        plan_ns: int,
        position: np.ndarray,
        slope: np.ndarray | None,
        velocity_scale: float,
    ) -> None:
        """Replaces the plan by poses (J,) one after the other, at a part of the velocity limits."""
        rows = np.stack([position, *poses])
        slowest_s = np.abs(np.diff(rows, axis=0) / self._limits.velocity).max(axis=1) / velocity_scale
        steps_ns = np.maximum((slowest_s * NS_PER_S).astype(np.int64), self._period_ns)
        self.ramp_end_ns = plan_ns
        self.path = Path(plan_ns + np.concatenate([[0], np.cumsum(steps_ns)]), rows, self._path_limits, slope)
        self.chunk_id = 0

    def left(self, plan_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Plan times (N,) and rows (N, J) still to come."""
        if self.path is None:
            return np.zeros(0, np.int64), np.zeros((0, len(self._limits.lower)))
        coming = self.path.times_ns > plan_ns
        return self.path.times_ns[coming], self.path.rows[coming]
