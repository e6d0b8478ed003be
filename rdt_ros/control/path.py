"""A path through joint space over plan time, and how fast it may be travelled."""

from __future__ import annotations

import numpy as np

from rdt_ros.control.limits import TINY, Limits
from rdt_ros.types import NS_PER_S

BEYOND = 2.5  # a plan beyond the acceleration limit gets 1 / BEYOND of it: its curve bends twice as hard as its rows
BRAKING = 0.8  # part of the acceleration that bends leave over which slowing down may use
LEAST_BRAKING = 0.05  # part of the acceleration that slowing down may use anywhere


class Path:
    """Rows (K, J) at rising plan times (K,) in ns, K at least 2.

    Between rows: cubic Hermite, so positions and velocities are continuous. The tangent at a row is the mean of the
    slopes on both sides, at most three times the smaller one, so that a jump between two rows does not swing on. For
    the joints of `monotone` (J,) it is their harmonic mean (Fritsch and Butland 1984): they never leave the range of
    two rows. `start_slope` (J,) is the tangent at the first row, for monotone joints as far as that allows; without it
    the first piece is a parabola.

    `rate` is the speed of plan time, 1 where the plan keeps the limits. Elsewhere it is what velocity and
    acceleration allow there and what still lets the arm slow down for all that comes, up to rest at the last row:
    time-optimal path following (Bobrow et al. 1985), reduced to the rows. It is a look-ahead and no guarantee: curves
    between rows bend harder than their rows tell. The windows of `Limits` are the guarantee.
    """

    def __init__(
        self,
        times_ns: np.ndarray,
        rows: np.ndarray,
        limits: Limits,
        start_slope: np.ndarray | None = None,
        monotone: np.ndarray | bool = True,
    ) -> None:
        self.times_ns, self.rows = times_ns, rows
        self._length_s = np.diff(times_ns)[:, None] / NS_PER_S
        slopes = np.diff(rows, axis=0) / self._length_s
        self._tangents = _tangents(slopes, self._length_s, start_slope, monotone)
        self._square, self._brake = self._rates(slopes, limits)

    @property
    def end_ns(self) -> int:
        """Plan time of the last row."""
        return int(self.times_ns[-1])

    def sample(self, plan_ns: int) -> np.ndarray:
        """Positions (J,) at a plan time; before the first row that row, after the last one the last."""
        k = self._segment(plan_ns)
        length_s = self._length_s[k, 0]
        u = min(max((plan_ns - int(self.times_ns[k])) / NS_PER_S / length_s, 0.0), 1.0)
        rise = self.rows[k + 1] - self.rows[k]
        left, right = self._tangents[k] * length_s, self._tangents[k + 1] * length_s
        return self.rows[k] + u * (left + u * (3 * rise - 2 * left - right + u * (left + right - 2 * rise)))

    def slope(self, plan_ns: int) -> np.ndarray:
        """How positions (J,) change per second of plan time."""
        k = self._segment(plan_ns)
        length_s = self._length_s[k, 0]
        u = min(max((plan_ns - int(self.times_ns[k])) / NS_PER_S / length_s, 0.0), 1.0)
        rise = (self.rows[k + 1] - self.rows[k]) / length_s
        left, right = self._tangents[k], self._tangents[k + 1]
        return left + u * (6 * rise - 4 * left - 2 * right + 3 * u * (left + right - 2 * rise))

    def rate(self, plan_ns: int) -> float:
        """How fast plan time may run here, above 0 and up to 1."""
        k = self._segment(plan_ns)
        left_s = max(int(self.times_ns[k + 1]) - plan_ns, 0) / NS_PER_S
        here, there = self._square[k : k + 2]
        return min(there + 2 * self._brake[k] * left_s, max(here, there)) ** 0.5

    def _segment(self, plan_ns: int) -> int:
        k = int(np.searchsorted(self.times_ns, plan_ns, side="right")) - 1
        return min(max(k, 0), len(self.times_ns) - 2)

    def _rates(self, slopes: np.ndarray, limits: Limits) -> tuple[list[float], list[float]]:
        """The square of the rate allowed at each row (K,), and how fast it may fall between two, in 1/s (K - 1,)."""
        half_s = (self._length_s[1:] + self._length_s[:-1]) / 2
        bend = np.zeros(len(self.rows))  # 1: all of the acceleration
        bend[1:-1] = (np.abs(np.diff(slopes, axis=0)) / half_s / limits.acceleration).max(axis=1)
        corner = 1 / (1 + BEYOND * np.maximum(bend - 1, 0))
        speed = np.maximum(np.abs(self._tangents), TINY)
        square = np.minimum(corner, (limits.velocity / speed).min(axis=1) ** 2).tolist()
        square[-1] = min(1.0, float((limits.acceleration * limits.tick_s / speed[-1]).min()) ** 2)
        hardest = (limits.acceleration / np.maximum(np.abs(slopes), TINY)).min(axis=1).tolist()
        bends = np.maximum(bend[1:], bend[:-1]).tolist()
        corners = np.minimum(corner[1:], corner[:-1]).tolist()
        lengths_s = self._length_s[:, 0].tolist()
        brake = [0.0] * len(slopes)
        for k in range(len(slopes) - 1, -1, -1):
            slack = bends[k] * max(corners[k] - square[k + 1], 0)  # a slower curve needs less for its bends
            brake[k] = hardest[k] * (slack + BRAKING * max(1 - bends[k], 0) + LEAST_BRAKING)
            square[k] = min(square[k], square[k + 1] + 2 * brake[k] * lengths_s[k])
        return square, brake


def _tangents(
    slopes: np.ndarray, length_s: np.ndarray, start: np.ndarray | None, monotone: np.ndarray | bool
) -> np.ndarray:
    """Slopes of the curve at its rows (K, J) from those between them; at an open end the last piece is a parabola."""
    left, right = slopes[:-1], slopes[1:]
    before_s, after_s = length_s[:-1], length_s[1:]
    mean = (left * after_s + right * before_s) / (before_s + after_s)  # that of the parabola through three rows
    most = 3 * np.minimum(np.abs(left), np.abs(right))
    same = left * right > 0
    harmonic = np.where(same, 2 * left * right / np.where(same, left + right, 1), 0)
    inner = np.where(monotone, harmonic, np.clip(mean, -most, most))
    first, last = (2 * slopes[0] - inner[0], 2 * slopes[-1] - inner[-1]) if len(inner) else (slopes[0], slopes[0])
    if start is not None:
        within = np.clip(start, np.minimum(3 * slopes[0], 0), np.maximum(3 * slopes[0], 0))
        first = np.where(monotone, within, start)
    return np.vstack([first, inner, last])
