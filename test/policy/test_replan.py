"""When a new plan is due, and the history it is made from."""

from __future__ import annotations

import numpy as np

from rdt_ros.policy.history import History
from rdt_ros.policy.replan import Replanner
from rdt_ros.types import Observation


def test_due_after_so_many_rows_and_at_a_new_epoch():
    replanner = Replanner(replan_rows=3, period_ns=10)
    assert [replanner.due(stamp, 0) for stamp in (0, 10, 20, 30, 40)] == [True, False, False, True, False]
    assert replanner.due(40, 1)
    assert not replanner.due(50, 1)


def test_due_when_the_clock_went_back():
    replanner = Replanner(replan_rows=3, period_ns=10)
    assert replanner.due(1000, 0)
    assert replanner.due(10, 0)


def test_history_is_short_and_begins_anew_when_the_clock_went_back():
    history = History(length=2)
    for stamp in (1, 2, 3):
        history.add(Observation(stamp, "r", (), (), np.zeros(0)))
    assert [o.stamp_ns for o in history.snapshot()] == [2, 3]
    history.add(Observation(2, "r", (), (), np.zeros(0)))
    assert [o.stamp_ns for o in history.snapshot()] == [2]
