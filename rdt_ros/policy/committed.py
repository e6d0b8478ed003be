"""The plan that the executor follows, as far as the policy can know it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdt_ros.control.plan_clock import PlanClock
from rdt_ros.policy.interface import HORIZON_ROWS
from rdt_ros.robot.description import Robot
from rdt_ros.types import ActionChunk

KEPT_NS = 5_000_000_000  # rows of the plan that are longer past are forgotten: no Observation is so old
CHUNKS_KEPT = 16  # a state speaks of the newest chunk, or of one sent at most a few Observations before it
HANDOVER_NS = 100_000_000  # a state later than this after a chunk was sent has taken or refused it


@dataclass(frozen=True, eq=False)
class PlanState:
    """What the executor tells of its plan at one of its ticks."""

    stamp_ns: int
    epoch: int
    following: bool  # whether it takes chunks: it runs or holds
    chunk_id: int
    first_ns: int  # ROS time at which the first row is due if plan time runs with ROS time from now on
    rows: np.ndarray  # (N, J) still to come, one a control period


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows (N, J) float32 due at plan times (N,) in ns."""

    due_ns: np.ndarray
    values: np.ndarray

    def then(self, newer: Rows, gap_ns: int) -> Rows:
        """With newer rows from the first of them on; what is long past, or closer to that one than `gap_ns`, goes."""
        if not len(newer.due_ns):
            return self
        age_ns = newer.due_ns[0] - self.due_ns
        kept = (age_ns > gap_ns) & (age_ns < KEPT_NS)
        return Rows(
            np.concatenate([self.due_ns[kept], newer.due_ns]),
            np.concatenate([self.values[kept], newer.values.astype(np.float32)]),
        )

    def where(self, chosen: np.ndarray) -> Rows:
        """Those chosen by (N,) bool."""
        return Rows(self.due_ns[chosen], self.values[chosen])


@dataclass(frozen=True, eq=False)
class Sent:
    """A chunk that no state has spoken of yet."""

    sent_ns: int
    chunk_id: int
    rows: Rows  # those still to come at its sending


class CommittedPlan:
    """Follows the executor's plan through its states and the chunks that were sent to it.

    Everything is kept in plan time, in which row k of a chunk is due (k + offset) periods after its Observation: where
    limits slow the arms it runs slower than ROS time, and stands with them. A state tells by how much it fell behind:
    the last row of the chunk is due later by that than the chunk said. Rows that are past in the newest state but not
    at the Observation are those of earlier states. Between a chunk's sending and the first state that knows it, the
    plan is taken to be that chunk from its sending on.
    """

    def __init__(self, robot: Robot) -> None:
        self._period_ns, self._joints = robot.period_ns, len(robot.joints)
        self._clock = PlanClock()
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._clock.reset()
        self._now: tuple[int, int] | None = None  # newest known ROS time and its plan time
        self._told = Rows(np.zeros(0, np.int64), np.zeros((0, self._joints), np.float32))  # by states
        self._sent: tuple[Sent, ...] = ()
        self._plan = self._told  # what was told, and then what was sent
        self._known: dict[int, ActionChunk] = {}  # by id, those that a state may speak of

    def sent(self, chunk: ActionChunk, now_ns: int) -> None:
        """Notes a chunk with rows in the robot's order, published at ROS time `now_ns`."""
        if chunk.epoch != self._epoch or not len(chunk.rows):
            return
        if self.rows_left(now_ns) == 0 and (self._now is None or now_ns > self._now[0]):
            self._record(now_ns, self._plan_ns(now_ns))  # until now it stood
        first_ns = self._plan_ns(chunk.stamp_ns) + chunk.offset_steps * self._period_ns
        rows = Rows(first_ns + np.arange(len(chunk.rows)) * self._period_ns, chunk.rows)
        rows = rows.where(rows.due_ns > self._plan_ns(now_ns))
        self._known = dict([*self._known.items(), (chunk.chunk_id, chunk)][-CHUNKS_KEPT:])
        self._sent = (*self._sent, Sent(now_ns, chunk.chunk_id, rows))[-CHUNKS_KEPT:]
        self._plan = self._with(self._plan, rows)

    def heard(self, state: PlanState) -> None:
        """Takes a state of the executor; those of a new epoch begin anew."""
        if state.epoch != self._epoch:
            self._begin(state.epoch)
        if self._now is not None and state.stamp_ns <= self._now[0]:
            return
        plan_ns = self._plan_of(state)
        self._record(state.stamp_ns, plan_ns)
        ids = [sent.chunk_id for sent in self._sent]
        taken = ids.index(state.chunk_id) + 1 if state.chunk_id in ids else 0
        for sent in self._sent[:taken]:
            self._told = self._with(self._told, sent.rows)
        self._sent = tuple(
            sent
            for sent in self._sent[taken:]
            if not state.following or state.stamp_ns < sent.sent_ns + HANDOVER_NS  # later it was refused
        )
        due_ns = plan_ns + state.first_ns - state.stamp_ns + np.arange(len(state.rows)) * self._period_ns
        self._told = self._with(self._told.where(self._told.due_ns <= plan_ns), Rows(due_ns, state.rows))
        self._plan = self._told
        for sent in self._sent:
            self._plan = self._with(self._plan, sent.rows)

    def rows_left(self, now_ns: int) -> float:
        """Periods until the plan ends, 0 where there is none."""
        if not len(self._plan.due_ns):
            return 0.0
        return max(int(self._plan.due_ns[-1]) - self._plan_ns(now_ns), 0) / self._period_ns

    def rows(self, stamp_ns: int, offset_steps: int, until_ns: int) -> np.ndarray:
        """The rows (K, J) that a chunk for the Observation of `stamp_ns` begins with, if it arrives at `until_ns`.

        Row k is what will be executed (k + offset) periods after the Observation. None where nothing is known of the
        first of them; fewer where the plan ends.
        """
        plan, period_ns = self._plan, self._period_ns
        if not len(plan.due_ns):
            return plan.values
        first_ns = self._plan_ns(stamp_ns) + offset_steps * period_ns
        last_ns = min(self._plan_ns(until_ns), int(plan.due_ns[-1]))
        count = min((last_ns - first_ns) // period_ns + 1, HORIZON_ROWS - 1)
        if count <= 0 or first_ns < plan.due_ns[0] - period_ns // 2:
            return plan.values[:0]
        wanted = first_ns - plan.due_ns[0] + np.arange(count) * period_ns
        known = plan.due_ns - plan.due_ns[0]
        return np.stack([np.interp(wanted, known, column) for column in plan.values.T], axis=1).astype(np.float32)

    def _plan_of(self, state: PlanState) -> int:
        """Plan time of a state, from the chunk that it follows; it never goes back."""
        least_ns = self._now[1] if self._now is not None else state.stamp_ns
        if not len(state.rows):
            return least_ns
        chunk = self._known.get(state.chunk_id)
        if chunk is None:
            return self._plan_ns(state.stamp_ns)
        steps = chunk.offset_steps + len(chunk.rows) - len(state.rows)
        behind_ns = state.first_ns - chunk.stamp_ns - steps * self._period_ns
        return max(self._plan_ns(chunk.stamp_ns) + state.stamp_ns - chunk.stamp_ns - behind_ns, least_ns)

    def _plan_ns(self, ros_ns: int) -> int:
        """Plan time at a moment; beyond the newest state it runs with ROS time while there are rows to come."""
        if self._now is None:
            return ros_ns
        newest_ns, plan_ns = self._now
        if ros_ns <= newest_ns:
            return self._clock.at(ros_ns)
        left_ns = int(self._plan.due_ns[-1]) - plan_ns if len(self._plan.due_ns) else 0
        return plan_ns + min(ros_ns - newest_ns, max(left_ns, 0))

    def _record(self, ros_ns: int, plan_ns: int) -> None:
        self._now = (ros_ns, plan_ns)
        self._clock.record(ros_ns, plan_ns)

    def _with(self, rows: Rows, newer: Rows) -> Rows:
        return rows.then(newer, self._period_ns // 2)
