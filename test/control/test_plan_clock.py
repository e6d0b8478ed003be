from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.control.plan_clock import PlanClock


def clock_of(*points: tuple[int, int]) -> PlanClock:
    clock = PlanClock()
    for ros_ns, plan_ns in points:
        clock.record(ros_ns, plan_ns)
    return clock


def test_runs_stands_and_slows():
    clock = clock_of((100, 0), (200, 100), (300, 100), (400, 100), (500, 150))
    assert [clock.at(t) for t in (100, 150, 200, 250, 400, 450, 500)] == [0, 50, 100, 100, 100, 125, 150]


def test_outside_the_history_its_nearer_end():
    clock = clock_of((100, 7), (200, 107))
    assert (clock.at(0), clock.at(900)) == (7, 107)
    assert PlanClock().at(5) == 0


def test_after_a_reset_only_the_new_time_counts():
    clock = clock_of((100, 0), (200, 100))
    clock.reset()
    clock.record(50, 100)
    assert clock.at(150) == 100


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=50), st.integers(0, 2500))
def test_equals_the_full_polyline(steps, at):
    ros, plan = [0], [0]
    for ros_step, part in steps:
        ros.append(ros[-1] + ros_step)
        plan.append(plan[-1] + min(part, ros_step))
    clock = clock_of(*zip(ros, plan, strict=True))
    k = max(i for i, t in enumerate(ros) if t <= at)
    exact = plan[k] if k + 1 == len(ros) else plan[k] + (plan[k + 1] - plan[k]) * (at - ros[k]) / (ros[k + 1] - ros[k])
    assert abs(clock.at(at) - exact) <= 1  # whole ns


def test_old_points_are_forgotten():
    clock = PlanClock()
    for k in range(400):
        clock.record(k * 1_000_000_000, k * k)  # no two pieces on one line
    assert clock.at(0) > 300
