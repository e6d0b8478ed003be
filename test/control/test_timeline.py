from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.control.limits import Limits
from rdt_ros.control.timeline import Timeline

P = 40_000_000  # the chunk's period in ns
LIMITS = Limits(*(np.full(1, v) for v in (-10, 10, 1e3, 1e6, 1e6)), 0.01)


def place(timeline: Timeline, first_due: int, rows: list[float], now: int, position: float, chunk_id: int = 1) -> bool:
    """Rows due every period from `first_due` on, both in ns."""
    due = first_due + np.arange(len(rows), dtype=np.int64) * P
    column = np.array(rows, float)[:, None]
    return timeline.place(chunk_id, due, column, plan_ns=now, position=np.array([position]), slope=None)


def knots(timeline: Timeline) -> list[tuple[float, float]]:
    """(periods, position) of the path."""
    return [(t / P, row[0]) for t, row in zip(timeline.path.times_ns, timeline.path.rows, strict=True)]


def test_begins_at_the_last_command():
    timeline = Timeline(LIMITS, P)
    assert place(timeline, P, [1, 2, 3], now=0, position=0.5)
    assert knots(timeline) == [(0, 0.5), (1, 1), (2, 2), (3, 3)]
    assert timeline.path.sample(0) == pytest.approx([0.5])


def test_rows_that_are_past_are_skipped():
    timeline = Timeline(LIMITS, P)
    assert place(timeline, P, [1, 2, 3, 4], now=2 * P, position=9)
    assert knots(timeline) == [(2, 9), (3, 3), (4, 4)]
    assert not place(timeline, 0, [1, 2], now=2 * P, position=9)
    assert knots(timeline) == [(2, 9), (3, 3), (4, 4)]


def test_the_older_chunk_goes_on_until_the_first_row_of_the_newer():
    timeline = Timeline(LIMITS, P)
    place(timeline, P, [1, 2, 3, 4, 5], now=0, position=0)
    place(timeline, 4 * P, [40, 50], now=P, position=1, chunk_id=2)
    assert knots(timeline) == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]
    assert timeline.chunk_id == 2


def test_a_row_that_is_too_near_is_left_out():
    timeline = Timeline(LIMITS, P)
    place(timeline, P, [1, 2, 3], now=3 * P // 4, position=0.7)
    assert knots(timeline) == [(0.75, 0.7), (2, 2), (3, 3)]
    place(timeline, P, [1, 2, 3], now=3 * P - P // 4, position=2.7)
    assert knots(timeline) == [(2.75, 2.7), (3.25, 3)]  # the last one is kept, a little later


def test_what_is_left():
    timeline = Timeline(LIMITS, P)
    assert len(timeline.left(0)[0]) == 0
    place(timeline, P, [1, 2, 3], now=0, position=0)
    due, rows = timeline.left(P)
    assert (due / P).tolist() == [2, 3] and rows[:, 0].tolist() == [2, 3]
    timeline.clear()
    assert timeline.path is None and timeline.chunk_id == 0


def test_visits_poses_at_a_part_of_the_velocity_limit():
    limits = Limits(*(np.full(1, v) for v in (-10, 10, 2.0, 1e6, 1e6)), 0.01)
    timeline = Timeline(limits, P)
    poses = [np.array([1.0]), np.array([0.5])]
    timeline.visit(poses, plan_ns=0, position=np.zeros(1), slope=None, velocity_scale=0.5)
    assert timeline.path.times_ns.tolist() == [0, 10**9, 1_500_000_000]
