from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rdt_ros.control.intake import Intake
from rdt_ros.robot.description import Base
from rdt_ros.types import NS_PER_S, ActionChunk

NOW_NS = 100 * NS_PER_S
PERIOD_NS = 40_000_000


def chunk_of(**changes) -> ActionChunk:
    values = {
        "stamp_ns": NOW_NS,
        "robot": "toy",
        "period_s": 0.04,
        "offset_steps": 1,
        "channels": ("left_arm_joint_0_pos", "left_gripper_open", "right_arm_joint_0_pos"),
        "rows": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        "epoch": 7,
    }
    return ActionChunk(**(values | changes))


def refusal(toy, **changes) -> str | None:
    found = Intake(toy).refusal(chunk_of(**changes), epoch=7, now_ns=NOW_NS, newest_ns=NOW_NS - 10**8)
    return None if found is None else ": ".join(found)


def test_a_good_chunk_is_taken(toy):
    assert refusal(toy) is None
    intake = Intake(toy)
    assert intake.rows(chunk_of()).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert intake.due_offsets_ns(chunk_of(offset_steps=2)).tolist() == [2 * PERIOD_NS, 3 * PERIOD_NS]


def test_columns_may_come_in_any_order_and_under_an_alias(toy):
    # arm_joint_0_pos and right_arm_joint_0_pos are one slot
    chunk = chunk_of(channels=("arm_joint_0_pos", "left_arm_joint_0_pos", "left_gripper_open"))
    assert Intake(toy).rows(chunk).tolist() == [[2, 3, 1], [5, 6, 4]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"robot": "agilex"}, "wrong robot: expected toy, found 'agilex'"),
        ({"epoch": 6}, "another epoch: expected 7, found 6"),
        ({"stamp_ns": NOW_NS + PERIOD_NS + 10**6}, "from the future: stamped 0.041 s ahead"),
        ({"stamp_ns": NOW_NS - 2 * 10**8}, "overtaken: stamped 0.100 s before the newest one"),
        ({"stamp_ns": NOW_NS - 8 * 10**7}, "older than its horizon: 0.080 s old, its last row is due after 0.080 s"),
        ({"period_s": 0.02}, "wrong period: expected 0.04 s, found 0.02 s"),
        ({"period_s": float("nan")}, "wrong period: expected 0.04 s, found nan s"),
        ({"offset_steps": -1}, "wrong offset: expected 0 to 2 rows, found -1"),
        ({"rows": np.zeros((2, 4), np.float32)}, "wrong size: expected up to 1000 rows of 3 channels, found (2, 4)"),
        ({"rows": np.zeros(3, np.float32)}, "wrong size: expected up to 1000 rows of 3 channels, found (3,)"),
        ({"rows": np.array([[1, np.nan, 1]], np.float32)}, "not finite: row 0 of left_gripper_open"),
        ({"rows": np.array([[1, 1, 1], [1, 1, -np.inf]], np.float32)}, "not finite: row 1 of right_arm_joint_0_pos"),
    ],
)
def test_refused_whole_and_by_name(toy, changes, text):
    assert refusal(toy, **changes) == text


@pytest.mark.parametrize(
    ("channels", "text"),
    [
        (("left_arm_joint_0_pos", "left_gripper_open"), "right_arm_joint_0_pos (elbow) is missing"),
        (
            ("left_arm_joint_0_pos", "left_gripper_open", "base_vel_x"),
            "the robot file of toy has no output for base_vel_x",
        ),
        (("left_arm_joint_0_pos", "left_gripper_open", "elbow"), "elbow is no slot of the 128-vector"),
        (("arm_joint_0_pos", "left_gripper_open", "right_arm_joint_0_pos"), "arm_joint_0_pos stands there twice"),
    ],
)
def test_wrong_channels_are_named(toy, channels, text):
    rows = np.zeros((2, len(channels)), np.float32)
    assert refusal(toy, channels=channels, rows=rows) == f"wrong channels: {text}"


def test_base_velocities_are_taken_where_a_base_is_driven(toy):
    channels = ("left_arm_joint_0_pos", "left_gripper_open", "right_arm_joint_0_pos", "base_angular_vel", "base_vel_x")
    chunk = chunk_of(channels=channels, rows=np.arange(10, dtype=np.float32).reshape(2, 5))
    measured_only = Base("odom", None, (1, 0, 1), (1, 0, 1))
    kinds = [Intake(dataclasses.replace(toy, base=base)) for base in (None, measured_only)]
    for intake in kinds:
        assert "no output for base_angular_vel" in intake.refusal(chunk, epoch=7, now_ns=NOW_NS, newest_ns=0)[1]
    driven = Intake(dataclasses.replace(toy, base=dataclasses.replace(measured_only, command="cmd_vel")))
    assert driven.refusal(chunk, epoch=7, now_ns=NOW_NS, newest_ns=0) is None
    assert driven.base_rows(chunk).tolist() == [[4, 0, 3], [9, 0, 8]]
    assert driven.rows(chunk).tolist() == [[0, 1, 2], [5, 6, 7]]
    assert driven.base_rows(chunk_of()) is None


def test_without_rows_only_robot_epoch_and_stamp_count(toy):
    empty = np.zeros((0, 3), np.float32)
    assert refusal(toy, rows=empty, period_s=0.0) is None
    assert refusal(toy, rows=empty, epoch=1).startswith("another epoch")
