from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.control.limits import Limits, scale_into, slowed, stoppable

TICK_S = 0.1


def limits(acceleration: float = 2.0, stop: float = 1.0) -> Limits:
    one = np.ones(1)
    return Limits(-one, one, 3 * one, acceleration * one, stop * one, TICK_S)


def way_of(velocity: float, deceleration: float) -> float:
    """How far a joint gets that moves a tick at this velocity and then brakes."""
    way = 0.0
    while velocity > 0:
        way += velocity * TICK_S
        velocity -= deceleration * TICK_S
    return way


@pytest.mark.parametrize(
    ("distance", "velocity"),
    [
        (0.0, 0.0),
        (-1.0, 0.0),
        (0.01, 0.1),  # one tick and at rest: below the 0.2 rad/s that a tick of braking takes
        (0.02, 0.2),
        (0.06, 0.4),  # 0.4 and 0.2 rad/s
        (0.08, 0.5),  # 0.5 and 0.3, and 0.1 rad/s would be 0.09: found by hand as (0.08 + 0.02) / 0.2
    ],
)
def test_stoppable_by_hand(distance, velocity):
    assert stoppable(np.array([distance]), np.array([2.0]), TICK_S)[0] == pytest.approx(min(velocity, 0.4667), abs=1e-3)


@given(distance=st.floats(0, 10), deceleration=st.floats(0.1, 100))
def test_stoppable_uses_the_way_fully_and_no_more(distance, deceleration):
    velocity = float(stoppable(np.array([distance]), np.array([deceleration]), TICK_S)[0])
    assert way_of(velocity, deceleration) == pytest.approx(distance, rel=1e-6, abs=1e-9)


def test_slowed_ends_at_zero():
    velocity = slowed(np.array([1.0, -1.0, 0.1, -0.1]), np.full(4, 5.0), TICK_S)
    assert velocity == pytest.approx([0.5, -0.5, 0, 0])


def test_scale_into_keeps_the_direction():
    factor = scale_into(np.array([2.0, -1.0]), np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    assert factor == pytest.approx(0.5, abs=1e-5)
    assert scale_into(np.array([0.5, 0.2]), -np.ones(2), np.ones(2)) == 1.0


def test_scale_into_finds_none_where_joints_disagree():
    # the first joint must move on at 0.5 at least, the second can follow half of its way at most
    low, high = np.array([0.5, -1.0]), np.array([1.0, 0.2])
    assert scale_into(np.array([0.5, 0.4]), low, high) is None
    assert scale_into(np.array([1.0, 0.4]), low, high) == pytest.approx(0.5, abs=1e-5)
    assert scale_into(np.array([0.0, 0.1]), low, high) is None
    assert scale_into(np.array([-0.5, 0.1]), low, high) is None


def test_window_leaves_no_choice_outside():
    low, high = limits().window(np.array([0.0]), np.array([2.95]))
    assert (low[0], high[0]) == (pytest.approx(2.75), pytest.approx(2.75))  # it must brake to stop before 1
    low, high = limits().window(np.array([0.0]), np.array([0.0]))
    assert (low[0], high[0]) == (pytest.approx(-0.2), pytest.approx(0.2))


def test_window_outside_the_position_limits_leads_back():
    low, high = limits().window(np.array([1.3]), np.array([0.0]))
    assert high[0] == 0 and low[0] == pytest.approx(-0.2)


@given(
    start=st.floats(-1, 1),
    choices=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    acceleration=st.floats(0.5, 50),
    stop=st.floats(0.5, 50),
    stop_after=st.integers(0, 60),
)
def test_whoever_stays_in_the_window_never_leaves_the_limits(start, choices, acceleration, stop, stop_after):
    bounds = limits(acceleration, stop)
    position, velocity = np.array([start]), np.zeros(1)
    for k, choice in enumerate(choices):
        if k < stop_after:
            low, high = bounds.window(position, velocity)
            assert low <= high
            after = low + choice * (high - low)
            hardest = acceleration
        else:
            after, hardest = bounds.braked(position, velocity), max(acceleration, stop)
            assert abs(after) <= abs(velocity)
        assert abs(after - velocity) <= hardest * TICK_S + 1e-9
        assert abs(after) <= 3 + 1e-9
        position, velocity = position + after * TICK_S, after
        assert -1 - 1e-9 <= position <= 1 + 1e-9


def test_approach_is_straight_and_lands():
    bounds = Limits(-np.ones(2), np.ones(2), 3 * np.ones(2), np.array([2.0, 20.0]), np.ones(2), TICK_S)
    offset = np.array([0.3, -0.1])
    velocity = bounds.approach(offset)
    assert velocity[0] / offset[0] == pytest.approx(velocity[1] / offset[1])
    assert way_of(velocity[0], 1.0) <= 0.3 + 1e-9
    assert bounds.approach(np.array([0.001, 0.0])) == pytest.approx([0.01, 0.0])
    assert bounds.approach(np.zeros(2)) == pytest.approx([0, 0])
