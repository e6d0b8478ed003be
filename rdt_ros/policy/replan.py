"""When the policy plans anew."""

from __future__ import annotations

MODES = ("eager", "needed", "period")
MARGIN_PERIODS = 2  # one until the next Observation may be looked at, one for the chunk's way to the executor


class Replanner:
    """Says for each Observation whether to plan; always at a new epoch of the executor and when the clock went back.

    - `period`: whenever `replan_rows` rows have passed since the last plan. It depends on stamps alone, so a replay
      plans at the same Observations; the only mode in lock-step.
    - `needed`: as late as a fresh chunk still arrives before the rows of the old one end, so as seldom as can be.
    - `eager`: at every Observation; with one that is newest at the end of each inference, as often as can be.
    """

    def __init__(self, mode: str, period_ns: int, replan_rows: int) -> None:
        self._mode, self._period_ns = mode, period_ns
        self._interval_ns = replan_rows * period_ns
        self._last: tuple[int, int] | None = None  # epoch and stamp of the last plan

    def due(self, stamp_ns: int, epoch: int, *, rows_left: float = 0.0, latency_ns: int = 0) -> bool:
        """Whether to plan for this Observation; True notes that it is being done.

        `rows_left` of the plan are still to come at this moment, and a chunk takes `latency_ns`; only `needed` asks.
        """
        if self._last is None or epoch != self._last[0] or stamp_ns < self._last[1]:
            due = True
        elif self._mode == "period":
            due = stamp_ns - self._last[1] >= self._interval_ns
        else:
            due = self._mode == "eager" or rows_left <= latency_ns / self._period_ns + MARGIN_PERIODS
        if due:
            self._last = (epoch, stamp_ns)
        return due
