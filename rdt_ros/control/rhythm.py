"""How regular the ticks are."""

from __future__ import annotations

import numpy as np

from rdt_ros.types import NS_PER_S

LATE_PART = 0.1  # of the period; a tick later than that counts as late
KEPT_S = 20.0  # ticks of this time are what the percentiles are of


class Rhythm:
    """Measures ticks; times are ns of the steady clock. One thread adds, another may ask for figures at any time."""

    def __init__(self, tick_ns: int) -> None:
        self._tick_ns = tick_ns
        self._times_ns = np.zeros(round(KEPT_S * NS_PER_S / tick_ns) + 1, np.int64)  # a ring
        self._added = 0
        self.late_ticks = 0
        self.worst_lateness_ms = 0.0

    def add(self, steady_ns: int, lateness_ns: int) -> None:
        """Notes a tick that was done now, so much later than due."""
        self._times_ns[self._added % len(self._times_ns)] = steady_ns
        self._added += 1
        self.late_ticks += lateness_ns > LATE_PART * self._tick_ns
        self.worst_lateness_ms = max(self.worst_lateness_ms, lateness_ns / 1e6)

    def figures(self) -> dict[str, float]:
        """Lateness since the start, period (ms) and its deviation (us) of the last KEPT_S; none before two ticks."""
        figures: dict[str, float] = {
            "late_ticks": self.late_ticks,
            "worst_lateness_ms": round(self.worst_lateness_ms, 3),
        }
        periods_ns = np.diff(np.sort(self._times_ns[: self._added]))
        if len(periods_ns):
            figures |= _percentiles("command_period_ms", periods_ns / 1e6, 3)
            figures |= _percentiles("period_error_us", np.abs(periods_ns - self._tick_ns) / 1e3, 1)
        return figures


def _percentiles(name: str, values: np.ndarray, digits: int) -> dict[str, float]:
    found = np.percentile(values, (50, 99, 100)).tolist()
    return {f"{name}_{part}": round(value, digits) for part, value in zip(("p50", "p99", "max"), found, strict=True)}
