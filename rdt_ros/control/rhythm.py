"""How regular the ticks are."""

from __future__ import annotations

from collections import deque

import numpy as np

LATE_PART = 0.1  # of the period; a tick later than that counts as late
KEPT = 2000  # ticks that the percentiles are of


class Rhythm:
    """Measures ticks; times are ns of the steady clock."""

    def __init__(self, tick_ns: int) -> None:
        self._tick_ns = tick_ns
        self._last_ns: int | None = None
        self._periods_ms: deque[float] = deque(maxlen=KEPT)
        self.late_ticks = 0
        self.worst_lateness_ms = 0.0

    def add(self, steady_ns: int, lateness_ns: int) -> None:
        """Notes a tick that was done now, so much later than due."""
        if self._last_ns is not None:
            self._periods_ms.append((steady_ns - self._last_ns) / 1e6)
        self._last_ns = steady_ns
        self.late_ticks += lateness_ns > LATE_PART * self._tick_ns
        self.worst_lateness_ms = max(self.worst_lateness_ms, lateness_ns / 1e6)

    def figures(self) -> dict[str, float]:
        """Period of the last ticks (ms) and lateness since the start, rounded for a person; none before two ticks."""
        figures: dict[str, float] = {
            "late_ticks": self.late_ticks,
            "worst_lateness_ms": round(self.worst_lateness_ms, 3),
        }
        if self._periods_ms:
            p50, p99, worst = np.percentile(np.array(self._periods_ms), (50, 99, 100))
            period = {"p50": p50, "p99": p99, "max": worst}
            figures |= {f"command_period_ms_{name}": round(float(value), 3) for name, value in period.items()}
        return figures
