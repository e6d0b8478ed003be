"""The unified vector against the table of the reference, and 6D rotations both ways."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt_ros.robot.vector import SLOTS, VECTOR_SIZE, rotation_from_6d, rotation_from_quaternion, rotation_to_6d


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("right_arm_joint_0_pos", 0), ("arm_joint_9_pos", 9), ("right_gripper_joint_0_pos", 10),
        ("gripper_open", 10), ("right_gripper_open", 10), ("gripper_joint_4_pos", 14),
        ("right_arm_joint_0_vel", 15), ("gripper_joint_4_vel", 29), ("gripper_open_vel", 25),
        ("right_eef_pos_x", 30), ("eef_pos_z", 32), ("right_eef_angle_0", 33), ("eef_angle_5", 38),
        ("right_eef_vel_x", 39), ("eef_vel_z", 41), ("right_eef_angular_vel_roll", 42),
        ("eef_angular_vel_yaw", 44), ("left_arm_joint_0_pos", 50), ("left_gripper_joint_0_pos", 60),
        ("left_gripper_open", 60), ("left_arm_joint_9_vel", 74), ("left_gripper_open_vel", 75),
        ("left_eef_pos_x", 80), ("left_eef_angle_5", 88), ("left_eef_angular_vel_yaw", 94), ("base_vel_x", 100),
        ("base_vel_y", 101), ("base_angular_vel", 102),
    ],
)  # fmt: skip
def test_slots_stand_where_the_reference_has_them(name, index):
    assert SLOTS[name] == index


def test_there_are_144_names_for_93_slots():
    assert len(SLOTS) == 144
    assert len(set(SLOTS.values())) == 93
    assert max(SLOTS.values()) < VECTOR_SIZE


def test_6d_rotation_is_two_columns_and_comes_back():
    rotations = Rotation.random(50, random_state=1).as_matrix()
    six = rotation_to_6d(rotations)
    np.testing.assert_array_equal(six[0], [*rotations[0][:, 0], *rotations[0][:, 1]])
    np.testing.assert_allclose(rotation_from_6d(six * 2.5), rotations, atol=1e-12)


def test_a_6d_rotation_that_spans_no_plane_is_refused():
    with pytest.raises(ValueError, match="span a plane"):
        rotation_from_6d(np.zeros(6))


def test_quaternion_agrees_with_scipy():
    rotation = Rotation.random(random_state=2)
    np.testing.assert_allclose(rotation_from_quaternion(rotation.as_quat() * 3), rotation.as_matrix(), atol=1e-12)
