"""Following a trajectory by where the commands show the robot to be, and holding still."""

from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.policy.trajectory import HoldPolicy, TrajectoryPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Observation

ROBOT = load_robot("sim_aloha")
PERIOD_NS = ROBOT.period_ns


def observation(tick: int, command: np.ndarray | None, measured: np.ndarray | None = None) -> Observation:
    return Observation(
        stamp_ns=tick * PERIOD_NS,
        robot=ROBOT.name,
        pictures=(),
        joint_names=ROBOT.joint_names,
        measured=np.zeros(14, np.float32) if measured is None else measured,
        command=None if command is None else command.astype(np.float32),
    )


def ramp(rows: int) -> np.ndarray:
    return np.arange(rows)[:, None] * 0.01 + np.zeros(14)


def test_it_starts_with_the_first_row():
    chunk = TrajectoryPolicy(ROBOT, ramp(100)).step([observation(5, None)])
    assert chunk.stamp_ns == 5 * PERIOD_NS and chunk.channels == ROBOT.channels and chunk.offset_steps == 1
    np.testing.assert_allclose(chunk.rows, ramp(100)[:64], atol=1e-6)


def test_it_goes_on_with_the_row_due_after_the_command_in_force():
    rows, policy = ramp(100), TrajectoryPolicy(ROBOT, ramp(100))
    policy.step([observation(0, None)])
    # row 9 was issued for tick 9, row 10 for tick 10 is under way, the chunk begins with tick 11
    np.testing.assert_allclose(policy.step([observation(10, rows[9])]).rows[0], rows[11], atol=1e-6)


def test_a_robot_that_waited_is_found_where_it_stands():
    rows, policy = ramp(300), TrajectoryPolicy(ROBOT, ramp(300))
    policy.step([observation(0, None)])
    np.testing.assert_allclose(policy.step([observation(100, rows[20])]).rows[0], rows[22], atol=1e-6)


def test_rows_that_are_equal_are_told_apart_by_time():
    rows = np.concatenate([ramp(10), np.full((50, 14), 0.09), ramp(10) + 0.09])
    policy = TrajectoryPolicy(ROBOT, rows)
    policy.step([observation(0, None)])
    chunk = policy.step([observation(30, rows[29])])
    np.testing.assert_allclose(chunk.rows[:38], rows[32:70], atol=1e-6)


def test_the_last_row_is_repeated_and_reset_starts_over():
    rows, policy = ramp(10), TrajectoryPolicy(ROBOT, ramp(10))
    policy.step([observation(0, None)])
    np.testing.assert_allclose(policy.step([observation(9, rows[8])]).rows, np.tile(rows[9], (64, 1)), atol=1e-6)
    policy.reset()
    np.testing.assert_allclose(policy.step([observation(10, rows[9])]).rows[:10], rows, atol=1e-6)


def test_committed_rows_change_nothing_and_none_are_said_to_be_fixed():
    for policy in (TrajectoryPolicy(ROBOT, ramp(100)), HoldPolicy(ROBOT)):
        free = policy.step([observation(0, None)])
        policy.reset()
        chunk = policy.step([observation(0, None)], committed=np.ones((5, 14)))
        assert np.array_equal(chunk.rows, free.rows) and chunk.committed_rows == 0


def test_an_observation_that_lacks_the_command_does_not_start_it_anew():
    rows, policy = ramp(300), TrajectoryPolicy(ROBOT, ramp(300))
    policy.step([observation(0, None)])
    np.testing.assert_allclose(policy.step([observation(5, None)]).rows[0], rows[0], atol=1e-6)  # not moved yet
    policy.step([observation(10, rows[9])])
    np.testing.assert_allclose(policy.step([observation(20, None)]).rows[0], rows[21], atol=1e-6)
    # an older one that has it tells of a robot that waited
    history = [observation(29, rows[15]), observation(30, None)]
    np.testing.assert_allclose(policy.step(history).rows[0], rows[18], atol=1e-6)


def test_arms_that_are_away_go_to_the_first_row_slowly_and_grippers_at_once():
    rows, arms = ramp(100) + 0.5, ~ROBOT.is_gripper
    policy = TrajectoryPolicy(ROBOT, rows)
    sent = policy.step([observation(0, None, np.where(arms, 0.0, 0.9))]).rows
    begin = int(np.argmax((np.abs(sent - rows[0]) < 1e-6).all(axis=1)))
    np.testing.assert_allclose(sent[begin:], rows[: 64 - begin], atol=1e-6)
    np.testing.assert_allclose(sent[:begin, ~arms], 0.5, atol=1e-6)
    strides = np.diff(sent[: begin + 1, arms], axis=0, prepend=np.zeros((1, arms.sum())))
    slow = 0.25 * ROBOT.limits("velocity")[arms] * PERIOD_NS / 1e9
    assert (strides > 0).all() and (strides <= slow + 1e-6).all() and strides.max() > 0.9 * slow.min()
    # on the way it is found on the way
    np.testing.assert_allclose(policy.step([observation(10, sent[9])]).rows[0], sent[11], atol=1e-6)


@pytest.mark.parametrize("rows", [np.zeros((5, 13)), np.zeros((0, 14)), np.zeros(14)])
def test_a_trajectory_of_another_robot_is_refused(rows):
    with pytest.raises(InputError, match="expected rows of 14 joints"):
        TrajectoryPolicy(ROBOT, rows)


def test_hold_keeps_the_command_and_never_commands_a_measured_gripper():
    measured = np.full(14, 0.5, np.float32)
    policy = HoldPolicy(ROBOT)
    rows = policy.step([observation(0, None, measured)]).rows
    assert rows.shape == (64, 14)
    assert (rows[:, ~ROBOT.is_gripper] == 0.5).all() and (rows[:, ROBOT.is_gripper] == np.float32(0.1)).all()
    assert (policy.step([observation(1, measured * 2, measured)]).rows == rows).all()
    policy.reset()
    assert (policy.step([observation(2, measured * 2, measured)]).rows == 1).all()
