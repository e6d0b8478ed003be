"""Whatever comes, no command leaves the limits; and what is sensible arrives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdt_ros.control.executor import JOINING
from rdt_ros.control.states import State
from rdt_ros.types import NS_PER_S

_spec = importlib.util.spec_from_file_location("control_rig", Path(__file__).with_name("conftest.py"))
assert _spec is not None and _spec.loader is not None
_rig = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rig)
Rig, toy_robot = _rig.Rig, _rig.toy_robot

ROUNDING = 1e-7
TOY = toy_robot()
RATES = (0.0, 50.0, 200.0)


class Judge:
    """Watches every command for the limits."""

    def __init__(self, rig: Rig) -> None:
        self.rig, robot = rig, rig.robot
        self.lower, self.upper = robot.limits("lower"), robot.limits("upper")
        self.velocity, self.acceleration = robot.limits("velocity"), robot.limits("acceleration")
        self.braking = np.where(robot.is_gripper, self.acceleration, robot.stop_deceleration)
        self.last: np.ndarray | None = None
        self.speed = np.zeros(3)
        self.commands = 0

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            start = self.rig.measured
            self.see(self.rig.tick()[0], start)

    def see(self, command: np.ndarray | None, start: np.ndarray) -> None:
        if command is None:
            assert np.nanmax(np.abs(self.speed)) <= ROUNDING, "silent while the arms move"
            if self.last is not None:
                self.last = np.where(self.rig.robot.is_gripper, self.last, np.nan)
            return
        self.commands += 1
        assert np.isfinite(command).all()
        before = start if self.last is None else np.where(np.isnan(self.last), start, self.last)
        speed = (command - before) / self.rig.tick_s
        if self.last is None:  # the first command of a gripper has no history
            speed = np.where(self.rig.robot.is_gripper, np.nan, speed)
            before = np.where(self.rig.robot.is_gripper, command, before)
        assert not (np.abs(speed) > self.velocity + ROUNDING).any()
        following = self.rig.executor.state in (State.RUNNING, State.HOLDING, State.HOMING)
        hardest = self.acceleration if following else np.maximum(self.acceleration, self.braking)
        assert not (np.abs(speed - self.speed) > hardest * self.rig.tick_s + ROUNDING).any()
        back_in = (command <= np.maximum(before, self.upper) + ROUNDING) & (
            command >= np.minimum(before, self.lower) - ROUNDING
        )
        assert back_in.all()
        self.last, self.speed = command, speed


def random_rows(rng: np.random.Generator, pose: np.ndarray) -> np.ndarray:
    count = int(rng.integers(1, 65))
    kind = rng.integers(6)
    if kind == 0:  # a walk that is about as fast as the limits
        return pose + np.cumsum(rng.normal(0, 0.05, (count, 3)), axis=0)
    if kind == 1:
        return np.tile(rng.uniform(-3, 3, 3), (count, 1))
    if kind == 2:
        return rng.uniform(-1, 1, (count, 3)) * 10.0 ** rng.integers(-3, 8)
    if kind == 3:  # full speed, then round
        return pose + 0.04 * np.abs(np.arange(count) - count / 2)[:, None] * rng.uniform(-2, 2, 3)
    if kind == 4:
        rows = rng.uniform(-1, 1, (count, 3))
        rows[rng.integers(count), rng.integers(3)] = rng.choice([np.nan, np.inf, -np.inf])
        return rows
    return pose + 0.3 * np.sin(np.arange(count)[:, None] * rng.uniform(0, 1, 3))


def act(rig: Rig, rng: np.random.Generator) -> None:
    """One thing that may happen to an executor."""
    executor, what = rig.executor, rng.integers(14)
    if what <= 4:
        late_ns = int(rng.choice([0, 0, 40_000_000, 300_000_000, 3 * NS_PER_S, -NS_PER_S]))
        rows = random_rows(rng, rig.pose)
        epoch = executor.epoch - int(rng.integers(8) == 0)
        executor.offer(rig.chunk(rows, stamp_ns=rig.now_ns - late_ns, epoch=epoch), rig.now_ns)
    elif what == 5:
        executor.software_stop()
    elif what <= 7:  # the operator puts things right
        rig.sensors_alive = True
        rig.measure()
        executor.intrusion("")
        executor.reset_stop()
        rig.enable()
    elif what == 8:
        executor.home()
    elif what == 9:
        executor.disable()
    elif what == 10:
        rig.sensors_alive = not rig.sensors_alive
    elif what == 11:
        rig.now_ns += int(rng.choice([-NS_PER_S, -1, 0, 10**6, NS_PER_S]))
    elif what == 12:
        executor.intrusion(str(rng.choice(["", "", "another node"])))
    else:
        executor.offer(rig.chunk(np.zeros((3, 2)), channels=("a", "b")), rig.now_ns)


def run_sequence(seed: int) -> int:
    """A random life of an executor; the number of commands it sent."""
    rng = np.random.default_rng(seed)
    pose = tuple(rng.uniform([-1.6, 0, -2.1], [1.6, 1, 2.1]))  # a little outside the limits, now and then
    rig = Rig(TOY, pose, command_rate_hz=float(rng.choice(RATES)), joining=str(rng.choice(JOINING)))
    judge = Judge(rig)
    rig.enable()
    for _ in range(rng.integers(5, 20)):
        act(rig, rng)
        judge.tick(int(rng.integers(0, 12)))
    return judge.commands


def test_no_sequence_of_inputs_leads_outside_the_limits():
    commands = [run_sequence(seed) for seed in range(500)]
    assert np.mean(np.array(commands) > 10) > 0.5  # refusing everything would pass otherwise


@pytest.mark.slow
def test_no_sequence_of_ten_thousand():
    commands = [run_sequence(seed) for seed in range(1000, 11_000)]
    assert np.mean(np.array(commands) > 10) > 0.5


def minimum_jerk(start: np.ndarray, goal: np.ndarray, duration_s: float) -> np.ndarray:
    """Rows at 25 Hz from rest to rest (Flash and Hogan 1985)."""
    u = np.minimum(np.arange(1, int(np.ceil(duration_s * 25)) + 1) / (duration_s * 25), 1)[:, None]
    return start + u**3 * (10 - 15 * u + 6 * u**2) * (goal - start)


poses = st.tuples(st.floats(-1.4, 1.4), st.floats(0.05, 0.95), st.floats(-1.9, 1.9)).map(np.array)


@settings(max_examples=60, deadline=None)
@given(poses, poses, st.sampled_from(RATES), st.floats(0.3, 0.9), st.integers(0, 8))
def test_a_plan_inside_the_limits_is_done_in_its_time(start, goal, rate_hz, part, latency):
    """At up to 0.9 of the limits, planned anew every 8 rows with up to 8 rows of latency."""
    way = np.abs(goal - start)
    # peaks of minimum jerk: 1.875 way / T and 5.774 way / T^2
    needed = max((1.875 * way / TOY.limits("velocity")).max(), np.sqrt(5.774 * way / TOY.limits("acceleration")).max())
    rows = minimum_jerk(start, goal, max(needed / part, 0.2))
    rig = Rig(TOY, tuple(start), command_rate_hz=rate_hz)
    assert rig.enable() is None
    judge = Judge(rig)
    rig.offer(rows)
    per_row = round(TOY.period_ns / rig.executor.tick_ns)
    judge.tick(8 * per_row)
    for first in range(8, len(rows) - 8, 8):
        chunk = rig.chunk(rows[first:])
        judge.tick(latency * per_row)
        assert rig.executor.offer(chunk, rig.now_ns) is None
        judge.tick((8 - latency) * per_row)
    while rig.executor.state != State.HOLDING:
        judge.tick()
        spent_s = (rig.now_ns - _rig.START_NS) / NS_PER_S
        assert spent_s < 1.2 * len(rows) / 25 + 0.2
    assert judge.last == pytest.approx(goal, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(poses, poses, st.sampled_from(RATES))
def test_a_jump_is_done_in_a_straight_line_and_nearly_as_fast_as_possible(start, goal, rate_hz):
    goal[1] = start[1]
    rig = Rig(TOY, tuple(start), command_rate_hz=rate_hz, start_velocity_scale=1.0)
    rig.enable()
    judge = Judge(rig)
    rig.offer(np.tile(goal, (64, 1)))
    way = np.abs(goal - start)
    velocity, acceleration = TOY.limits("velocity"), TOY.limits("acceleration")
    trapezoid = way / velocity + velocity / acceleration
    triangle = 2 * np.sqrt(way / acceleration)
    ideal_s = np.where(way > velocity**2 / acceleration, trapezoid, triangle).max()
    direction = goal - start
    length = np.linalg.norm(direction)
    for _ in range(int((1.2 * ideal_s + 0.12) / rig.tick_s) + 1):
        judge.tick()
        if length > 0.01:
            along = (judge.last - start) @ direction / length
            assert np.linalg.norm(judge.last - start - along * direction / length) < 0.02
            assert along < length + 0.01
    assert np.abs(judge.last - goal).max() < 2e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(RATES), st.integers(5, 60))
def test_a_software_stop_rests_in_time_and_way(seed, rate_hz, ticks):
    rng = np.random.default_rng(seed)
    rig = Rig(TOY, (0.0, 0.5, 0.0), command_rate_hz=rate_hz)
    rig.enable()
    judge = Judge(rig)
    rig.offer(0.3 * np.sin(np.arange(64)[:, None] * rng.uniform(0, 0.3, 3)) + [0, 0.5, 0])
    judge.tick(ticks)
    position, speed = judge.last.copy(), judge.speed.copy()
    rig.executor.software_stop()
    judge.tick(int(np.ceil((np.abs(speed) / judge.braking).max() / rig.tick_s + 1e-9)) + 1)
    assert np.abs(judge.speed).max() <= ROUNDING
    assert (np.abs(judge.last - position) <= speed**2 / (2 * judge.braking) + ROUNDING).all()
    assert ((judge.last - position) * speed >= -ROUNDING).all()
