"""When the policy plans anew."""

from __future__ import annotations


class Replanner:
    """Due at each new epoch of the executor, and whenever `replan_rows` rows have passed since the last plan.

    It depends on stamps alone, so a replay plans at the same Observations.
    """

    def __init__(self, replan_rows: int, period_ns: int) -> None:
        self._interval_ns = replan_rows * period_ns
        self._last: tuple[int, int] | None = None  # epoch and stamp of the last plan

    def due(self, stamp_ns: int, epoch: int) -> bool:
        """Whether to plan for this Observation; True notes that it is being done."""
        if self._last is not None:
            last_epoch, last_stamp_ns = self._last
            if epoch == last_epoch and 0 <= stamp_ns - last_stamp_ns < self._interval_ns:
                return False
        self._last = (epoch, stamp_ns)
        return True
