from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdt_ros.control.limits import Limits
from rdt_ros.control.path import Path
from rdt_ros.types import NS_PER_S

PERIOD_NS = 40_000_000
FAST = Limits(*(np.full(1, v) for v in (-1e3, 1e3, 1e9, 1e9, 1e9)), 0.01)


def path_of(rows: list[float], limits: Limits = FAST, start: float | None = None) -> Path:
    times = np.arange(len(rows), dtype=np.int64) * PERIOD_NS
    return Path(times, np.array(rows, float)[:, None], limits, None if start is None else np.array([start]))


def slow(velocity: float, acceleration: float, tick_s: float = 0.01) -> Limits:
    return Limits(*(np.full(1, v) for v in (-1e3, 1e3, velocity, acceleration, acceleration)), tick_s)


def test_goes_through_its_rows_and_stays_at_the_ends():
    path = path_of([0.0, 1.0, 0.5, 0.5])
    assert [path.sample(k * PERIOD_NS)[0] for k in (-1, 0, 1, 2, 3, 9)] == pytest.approx([0, 0, 1, 0.5, 0.5, 0.5])
    assert path.end_ns == 3 * PERIOD_NS


def test_a_straight_plan_is_straight_and_a_parabola_a_parabola():
    assert path_of([0.0, 1.0, 2.0]).sample(PERIOD_NS // 4)[0] == pytest.approx(0.25)
    assert path_of([0.0, 2.0]).sample(PERIOD_NS // 2)[0] == pytest.approx(1.0)
    assert path_of([0.0, 0.0, 1.0]).sample(PERIOD_NS * 3 // 2)[0] == pytest.approx(0.25)  # u^2


def test_starts_with_the_given_slope():
    period_s = PERIOD_NS / NS_PER_S
    path = path_of([0.0, 1.0, 2.0], start=0.5 / period_s)
    assert path.sample(PERIOD_NS // 1000)[0] == pytest.approx(0.0005, rel=0.01)
    assert path_of([0.0, 1.0, 2.0], start=-9.0).sample(PERIOD_NS // 1000)[0] >= 0  # never away from its next row


@given(arrays(float, st.integers(2, 12), elements=st.floats(-1, 1)), st.floats(-100, 100) | st.none())
def test_no_joint_leaves_the_range_of_its_two_rows(rows, start):
    path = path_of(list(rows), start=start)
    for k in range(len(rows) - 1):
        samples = [path.sample(k * PERIOD_NS + i * PERIOD_NS // 10)[0] for i in range(11)]
        assert min(rows[k : k + 2]) - 1e-9 <= min(samples) and max(samples) <= max(rows[k : k + 2]) + 1e-9
        assert (np.diff(samples) * np.sign(rows[k + 1] - rows[k]) >= -1e-9).all()


@given(arrays(float, st.integers(3, 12), elements=st.floats(-1, 1)))
def test_velocity_is_continuous(rows):
    path, step = path_of(list(rows)), 1000
    for k in range(1, len(rows) - 1):
        left = path.sample(k * PERIOD_NS) - path.sample(k * PERIOD_NS - step)
        right = path.sample(k * PERIOD_NS + step) - path.sample(k * PERIOD_NS)
        assert abs(left - right)[0] < 1e-7


def test_a_plan_inside_the_limits_runs_at_full_rate():
    rows = 0.1 * np.sin(np.arange(26) / 25 * 2 * np.pi)  # 0.63 rad/s, 3.9 rad/s^2, and it ends moving
    path = path_of(list(rows), slow(0.7, 4.2))
    assert [path.rate(k * PERIOD_NS) for k in range(20)] == [1.0] * 20


def test_slows_where_the_plan_is_too_fast_and_before():
    rows = np.concatenate([np.arange(20) * 0.02, 0.38 + np.arange(1, 20) * 0.08])  # 0.5 rad/s, then 2 rad/s
    path = path_of(list(rows), slow(1.0, 100.0))
    assert path.rate(0) == 1.0
    assert path.rate(25 * PERIOD_NS) == pytest.approx(0.5)


def test_comes_to_rest_at_the_end():
    rows = np.arange(30) * 0.04  # 1 rad/s
    path = path_of(list(rows), slow(2.0, 5.0))
    assert path.rate(0) == 1.0
    assert path.rate(path.end_ns) == pytest.approx(0.05)  # what one tick of 5 rad/s^2 can take away
    rates = [path.rate(k * PERIOD_NS) for k in range(30)]
    assert all(a >= b for a, b in zip(rates, rates[1:], strict=False))
    halfway_s = 0.5 * (path.rate(28 * PERIOD_NS) + path.rate(29 * PERIOD_NS))
    assert halfway_s > 0
