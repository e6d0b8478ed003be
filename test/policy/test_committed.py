"""What the policy knows of the executor's plan, against an executor whose plan time is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdt_ros.policy.committed import CommittedPlan, PlanState
from rdt_ros.policy.interface import HORIZON_ROWS, joint_chunk
from rdt_ros.robot.description import load_robot
from rdt_ros.types import ActionChunk, Observation

ROBOT = load_robot("sim_aloha")
PERIOD_NS = ROBOT.period_ns
START_NS = 1_700_000_000 * 10**9
MS = 10**6


def at(periods: float) -> int:
    return START_NS + round(periods * PERIOD_NS)


def chunk(tick: int, first: float = 0.0, *, chunk_id: int = 1, epoch: int = 1) -> ActionChunk:
    """Row k of every joint is first + k."""
    observation = Observation(at(tick), ROBOT.name, (), ROBOT.joint_names, np.zeros(14, np.float32))
    rows = (first + np.arange(64, dtype=np.float32))[:, None] + np.zeros((1, 14), np.float32)
    made = joint_chunk(ROBOT, observation, rows, None)
    return ActionChunk(**{**made.__dict__, "chunk_id": chunk_id, "epoch": epoch})


def state(
    now_ns: int, of: ActionChunk | None = None, *, behind_ns: int = 0, following: bool = True, epoch: int = 1
) -> PlanState:
    """Following that chunk since its Observation, `behind_ns` later than planned; None: holding."""
    if of is None:
        return PlanState(now_ns, epoch, following, 0, 0, np.zeros((0, 14), np.float32))
    due_ns = of.stamp_ns + (np.arange(len(of.rows)) + of.offset_steps) * PERIOD_NS + behind_ns
    coming = due_ns > now_ns
    first_ns = int(due_ns[coming][0]) if coming.any() else 0
    return PlanState(now_ns, epoch, following, of.chunk_id, first_ns, of.rows[coming])


@pytest.fixture
def plan() -> CommittedPlan:
    """Holding in epoch 1 since tick -1."""
    plan = CommittedPlan(ROBOT)
    plan.heard(state(at(-1)))
    return plan


def rows(plan: CommittedPlan, tick: int, until: float) -> list[float]:
    found = plan.rows(at(tick), 1, at(until))
    assert found.dtype == np.float32 and found.shape[1] == 14
    assert (found == found[:, :1]).all()
    return found[:, 0].tolist()


def test_nothing_is_committed_at_standstill(plan: CommittedPlan):
    assert rows(plan, 0, 5) == []
    assert plan.rows_left(at(0)) == 0
    assert CommittedPlan(ROBOT).rows(at(0), 1, at(5)).shape == (0, 14)


def test_from_standstill_a_chunk_begins_when_it_was_sent(plan: CommittedPlan):
    """Its first row is due one period after its sending: plan time stood before."""
    plan.sent(chunk(0), at(10))
    assert plan.rows_left(at(10)) == 64
    assert rows(plan, 12, 14) == [2, 3]


def test_rows_are_those_of_the_state_and_before_it_those_of_earlier_states(plan: CommittedPlan):
    first = chunk(0)
    plan.heard(state(at(0.5), first))
    plan.heard(state(at(10.5), first))
    # row k of the first chunk is due at tick k + 1; the state knows those from tick 11 on
    assert rows(plan, 8, 13) == [8, 9, 10, 11, 12]
    assert rows(plan, 10, 10.9) == []
    assert rows(plan, 10, 11) == [10]


def test_what_the_executor_made_of_a_chunk_counts(plan: CommittedPlan):
    """It may have cut a row off at a limit, or faded an old one out."""
    first = chunk(0)
    plan.sent(first, at(0))
    heard = state(at(5), first)
    plan.heard(PlanState(**{**heard.__dict__, "rows": heard.rows + 100}))
    assert rows(plan, 7, 9) == [107, 108]


def test_a_chunk_counts_from_its_sending_on_until_a_state_knows_it(plan: CommittedPlan):
    first, second = chunk(0), chunk(8, first=1000, chunk_id=2)
    plan.sent(first, at(0))
    plan.heard(state(at(9), first))
    plan.sent(second, at(10))
    # tick 9 and 10 are of the first chunk (rows 8, 9), tick 11 of the second (row 2)
    assert rows(plan, 8, 12) == [8, 9, 1002, 1003]
    plan.heard(state(at(10) + 50 * MS, first))  # sent before it arrived
    assert rows(plan, 8, 12) == [8, 9, 1002, 1003]
    plan.heard(state(at(12), second))
    assert rows(plan, 8, 12) == [8, 9, 1002, 1003]


def test_a_refused_chunk_is_forgotten(plan: CommittedPlan):
    first, second = chunk(0), chunk(8, first=1000, chunk_id=2)
    plan.sent(first, at(0))
    plan.sent(second, at(10))
    plan.heard(state(at(13), first))
    assert rows(plan, 12, 15) == [12, 13, 14]
    plan.sent(chunk(14, chunk_id=3), at(14))
    plan.heard(state(at(20)))  # holding: nothing is followed
    assert plan.rows_left(at(20)) == 0 and rows(plan, 20, 25) == []


def test_where_the_arms_were_slowed_rows_are_counted_in_plan_time(plan: CommittedPlan):
    first = chunk(0)
    plan.sent(first, at(0))
    plan.heard(state(at(5), first))
    plan.heard(state(at(10), first, behind_ns=2 * PERIOD_NS))  # three periods of plan time in five
    # at tick 10 plan time is 8, so the row due one period later is the one planned for tick 9
    assert rows(plan, 10, 12) == [8, 9]
    # an Observation before the slowing still counts from its own plan time: rows planned for tick 6, 7, ... 10
    assert rows(plan, 5, 12) == [5, 6, 7, 8, 9]
    assert plan.rows_left(at(10)) == 56


def test_rows_end_with_the_plan_and_leave_one_free(plan: CommittedPlan):
    first = chunk(0)
    plan.sent(first, at(0))
    plan.heard(state(at(60), first))
    assert rows(plan, 60, 90) == [60, 61, 62, 63]
    plan.sent(chunk(60, chunk_id=2), at(60))
    assert len(rows(plan, 60, 200)) == HORIZON_ROWS - 1


def test_a_new_epoch_forgets_all(plan: CommittedPlan):
    first = chunk(0)
    plan.sent(first, at(0))
    plan.heard(state(at(5), epoch=2))
    assert rows(plan, 5, 9) == []
    plan.sent(chunk(5, chunk_id=2), at(6))  # begun in the old epoch
    assert plan.rows_left(at(6)) == 0


def test_a_chunk_that_nobody_follows_is_not_missed(plan: CommittedPlan):
    """Before `enable` every chunk is refused: planning again at once would be in vain."""
    plan.sent(chunk(0), at(0))
    plan.heard(state(at(10), following=False))
    assert plan.rows_left(at(10)) > 60


@settings(max_examples=50, deadline=None)
@given(
    rates=st.lists(st.floats(0, 1), min_size=4, max_size=12),
    latency=st.integers(1, 5),
    ahead=st.integers(0, 3),
)
def test_however_slow_the_arms_are_the_rows_are_those_of_the_same_plan_time(
    rates: Sequence[float], latency: int, ahead: int
):
    """States come every 2.5 periods, between which plan time runs at some rate; one chunk is followed."""
    plan, first = CommittedPlan(ROBOT), chunk(0)
    plan.heard(state(at(-1)))
    plan.sent(first, at(0))
    step_ns = PERIOD_NS * 5 // 2
    known = [(at(0), at(0))]  # ROS time and plan time
    for rate in rates:
        ros_ns, plan_ns = known[-1][0] + step_ns, known[-1][1] + round(rate * step_ns)
        known.append((ros_ns, plan_ns))
        plan.heard(state(ros_ns, first, behind_ns=0) if plan_ns == ros_ns else _behind(first, ros_ns, plan_ns))
    times = np.array(known) - START_NS
    stamp_ns = int(times[-1 - ahead][0])
    found = plan.rows(START_NS + stamp_ns, 1, at(0) + int(times[-1][0]) + latency * PERIOD_NS)
    expected = np.interp(stamp_ns, times[:, 0], times[:, 1]) / PERIOD_NS + np.arange(len(found))
    assert len(found) >= latency
    assert found[:, 0] == pytest.approx(np.maximum(expected, 0), abs=1e-3)


def _behind(of: ActionChunk, ros_ns: int, plan_ns: int) -> PlanState:
    return state(ros_ns, of, behind_ns=ros_ns - plan_ns)
