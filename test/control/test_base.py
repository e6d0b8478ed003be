from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rdt_ros.control.base import BaseFollower
from rdt_ros.control.states import State
from rdt_ros.robot.description import Base

BASE = Base("odom", "cmd_vel", (0.4, 0.0, 1.0), (2.0, 0.0, 4.0))
ROW_NS = 40_000_000
TICK_S = 0.01


def plan(rows: list[list[float]]) -> BaseFollower:
    follower = BaseFollower(BASE, TICK_S)
    follower.place(np.arange(1, len(rows) + 1, dtype=np.int64) * ROW_NS, np.array(rows, float))
    return follower


def test_stands_without_a_plan_and_after_its_last_row():
    assert not BaseFollower(BASE, TICK_S).tick(0, 1.0).any()
    follower = plan([[0.02, 0, 0], [0.02, 0, 0]])
    assert follower.tick(ROW_NS + 1, 1.0) == pytest.approx([0.02, 0, 0])
    assert not follower.tick(2 * ROW_NS, 1.0).any()


def test_is_linear_between_rows_and_scaled_with_plan_time():
    follower = plan([[0.0, 0, 0], [0.02, 0, 0.04]])
    assert follower.tick(3 * ROW_NS // 2, 0.5) == pytest.approx([0.005, 0, 0.01])


def test_keeps_velocity_and_acceleration_limits():
    follower = plan([[9.0, 5.0, -9.0]] * 60)
    velocities = np.array([follower.tick(k * 10_000_000, follower.rate(k * 10_000_000)) for k in range(4, 200)])
    assert np.abs(velocities[:, 0]).max() == pytest.approx(0.4) and not velocities[:, 1].any()
    changes = np.abs(np.diff(velocities, axis=0, prepend=np.zeros((1, 3))))
    assert (changes <= np.array(BASE.acceleration) * TICK_S + 1e-12).all()


def test_asking_too_much_slows_plan_time_but_never_stops_it():
    assert plan([[0.8, 0, 0]] * 3).rate(2 * ROW_NS) == pytest.approx(0.5)
    assert plan([[0.1, 0, 0]] * 3).rate(2 * ROW_NS) == 1
    assert plan([[1e9, 3, 0]] * 3).rate(2 * ROW_NS) == pytest.approx(0.1)
    assert plan([[0, 3, 0]] * 3).rate(2 * ROW_NS) == 1  # it has no sideways drive


@pytest.fixture
def mobile(toy):
    return dataclasses.replace(toy, base=BASE)


def drive(make_rig_of, robot, rows: int = 40):
    rig = make_rig_of(robot)
    chunk = rig.chunk(np.tile([0.0, 0.5, 0.0], (rows, 1)))
    base = np.tile(np.float32([0.3, 0.2]), (rows, 1))
    channels = (*robot.channels, "base_vel_x", "base_angular_vel")
    return rig, dataclasses.replace(chunk, channels=channels, rows=np.hstack([chunk.rows, base]))


@pytest.fixture
def make_rig_of(make_rig):
    """Builds an enabled rig of any robot."""

    def make(robot):
        rig = type(make_rig())(robot, (0.0, 0.77, 0.0), command_rate_hz=100)
        assert rig.enable() is None
        return rig

    return make


def bases(rig, count: int) -> np.ndarray:
    sent = []
    for _ in range(count):
        rig.now_ns += rig.executor.tick_ns
        rig.steady_ns += rig.executor.tick_ns
        rig.measure()
        sent.append(rig.executor.tick(rig.now_ns).base)
    return np.array(sent)


def test_the_executor_drives_and_ends_at_rest(make_rig_of, mobile):
    rig, chunk = drive(make_rig_of, mobile)
    assert rig.executor.offer(chunk, rig.now_ns) is None
    sent = bases(rig, 220)
    assert sent[100] == pytest.approx([0.3, 0, 0.2]) and not sent[-1].any()
    assert rig.executor.state == State.HOLDING


@pytest.mark.parametrize("stop", ["software_stop", "disable", "home"])
def test_every_stop_brings_the_base_to_rest_at_its_acceleration(make_rig_of, mobile, stop):
    rig, chunk = drive(make_rig_of, mobile)
    rig.executor.offer(chunk, rig.now_ns)
    bases(rig, 50)
    getattr(rig.executor, stop)()
    sent = bases(rig, 16)
    assert sent[0] == pytest.approx([0.28, 0, 0.16], abs=1e-6) and not sent[-1].any()


def test_a_chunk_without_base_channels_lets_it_stand(make_rig_of, mobile):
    rig, chunk = drive(make_rig_of, mobile)
    rig.executor.offer(chunk, rig.now_ns)
    bases(rig, 50)
    assert rig.offer(np.tile([0.0, 0.5, 0.0], (40, 1))) is None
    assert not bases(rig, 30)[-1].any()


def test_without_a_driven_base_no_base_command_is_made(make_rig):
    rig = make_rig()
    rig.offer(np.zeros((3, 3)))
    rig.now_ns += rig.executor.tick_ns
    rig.measure()
    assert rig.executor.tick(rig.now_ns).base is None
