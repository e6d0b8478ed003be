"""The commanded motion of an episode as a policy repeats it."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from rdt_ros.episodes import layout
from rdt_ros.episodes.motion import commanded_motion
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot


def test_it_is_the_actions_one_a_period_with_lost_steps_filled(maker, tmp_path):
    lost = range(110, 114)
    observations = [o for o in maker.observations(40, leader=True) if o.stamp_ns // maker.period_ns not in lost]
    maker.write(tmp_path / "e.hdf5", observations)

    rows = commanded_motion(tmp_path / "e.hdf5", maker.robot)

    assert rows.shape == (39, 14) and rows.dtype == np.float32
    leader = {o.stamp_ns // maker.period_ns: o.leader for o in observations}
    # the action of a tick is the leader of the next one; those of ticks 109 to 112 never came, 113 was not seen
    for tick in [*range(100, 109), *range(114, 139)]:
        assert np.array_equal(rows[tick - 100], leader[tick + 1])
    before, after = rows[108 - 100], rows[114 - 100]
    for tick in range(109, 114):
        np.testing.assert_allclose(rows[tick - 100], before + (after - before) * (tick - 108) / 6, atol=1e-6)


def test_files_that_are_not_ours_are_of_the_robot_at_hand(maker, tmp_path):
    opening = maker.robot.groups[0].joints[6].command_wire
    actions = np.full((20, 14), 0.2)
    actions[:, maker.robot.is_gripper] = opening.open
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["/observations/qpos"] = file["/action"] = actions
    rows = commanded_motion(tmp_path / "old.hdf5", maker.robot)
    assert len(rows) == 20
    np.testing.assert_allclose(rows, np.tile(np.where(maker.robot.is_gripper, 1.0, 0.2), (20, 1)), atol=1e-6)


def test_another_robot_and_what_no_arm_can_follow_is_refused(maker, tmp_path):
    path = tmp_path / "e.hdf5"
    maker.write(path, maker.observations(10))
    with pytest.raises(InputError, match=r"e.hdf5: expected an episode of robot agilex, found sim_aloha$"):
        commanded_motion(path, load_robot("agilex"))
    group = maker.robot.groups[0]
    fewer = dataclasses.replace(maker.robot, groups=(dataclasses.replace(group, joints=group.joints[::-1]),))
    with pytest.raises(InputError, match="expected joints left_gripper, .*, found left_waist, "):
        commanded_motion(path, fewer)
    with h5py.File(path, "r+") as file:
        file[layout.ACTION][3, 2] = np.nan
    with pytest.raises(InputError, match="expected a finite action of left_elbow, found nan in step 3"):
        commanded_motion(path, maker.robot)
