"""When a new plan is due, and the history it is made from."""

from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.policy.history import History
from rdt_ros.policy.replan import MODES, Replanner
from rdt_ros.types import Observation


def replanner(mode: str) -> Replanner:
    return Replanner(mode, period_ns=10, replan_rows=3)


def test_due_after_so_many_rows_and_at_a_new_epoch():
    period = replanner("period")
    assert [period.due(stamp, 0) for stamp in (0, 10, 20, 30, 40)] == [True, False, False, True, False]
    assert period.due(40, 1)
    assert not period.due(50, 1)


def test_by_period_it_depends_on_stamps_alone():
    period = replanner("period")
    assert period.due(0, 0, rows_left=60)
    assert not period.due(10, 0, rows_left=0, latency_ns=10**9)
    assert period.due(30, 0, rows_left=60)


def test_eager_is_always_due():
    eager = replanner("eager")
    assert all(eager.due(stamp, 0, rows_left=60) for stamp in (0, 10, 11))


def test_needed_is_due_once_a_chunk_would_arrive_just_in_time():
    needed = replanner("needed")
    assert needed.due(0, 0, rows_left=64)  # the first one
    due = [needed.due(10 * k, 0, rows_left=12 - k, latency_ns=45) for k in range(1, 7)]
    assert due == [False] * 5 + [True]  # 4.5 rows of inference and 2 of margin
    assert not needed.due(70, 0, rows_left=64, latency_ns=45)
    assert needed.due(80, 1, rows_left=64, latency_ns=45)


@pytest.mark.parametrize("mode", MODES)
def test_due_when_the_clock_went_back(mode: str):
    replan = replanner(mode)
    assert replan.due(1000, 0, rows_left=64)
    assert replan.due(10, 0, rows_left=64)


def test_history_is_short_and_begins_anew_when_the_clock_went_back():
    history = History(length=2)
    for stamp in (1, 2, 3):
        history.add(Observation(stamp, "r", (), (), np.zeros(0)))
    assert [o.stamp_ns for o in history.snapshot()] == [2, 3]
    history.add(Observation(2, "r", (), (), np.zeros(0)))
    assert [o.stamp_ns for o in history.snapshot()] == [2]
