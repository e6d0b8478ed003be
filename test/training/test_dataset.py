"""Folders of episodes: what is used, what is left out and why, what is held out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.robot.vector import SLOTS
from rdt_ros.training.config import DatasetConfig, SampleConfig
from rdt_ros.training.dataset import first_motion, open_dataset
from rdt_ros.types import Observation, Picture

RULES = SampleConfig()


def names(episodes) -> list[str]:
    return [episode.path.name for episode in episodes]


def test_short_and_motionless_episodes_are_left_out_and_named(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (127, 128))
    maker.write(folder / "below" / "still.hdf5", 130, still=130)
    dataset = open_dataset(agilex(folder), RULES)
    assert names(dataset.train) == ["e1.hdf5"] and dataset.name == "set"
    assert [line.split(": ", 1)[1] for line in dataset.left_out] == [
        "expected a joint that moves by 0.01, found none",
        "expected at least 128 steps, found 127",
    ]
    assert str(dataset).splitlines()[0] == "set: agilex, 1 episodes (0 held out), 119 steps"
    assert "still.hdf5" in str(dataset)


def test_motion_is_measured_in_the_robots_units(maker):
    """A gripper of 4.79 rad moves 0.01 rad when it opens by 0.0021."""
    still = np.zeros((4, 14), np.float32)
    gripper = still.copy()
    gripper[2:, 6] = 0.0022
    joint = still.copy()
    joint[3, 0] = -0.011
    assert [first_motion(values, maker.robot, 0.01) for values in (still, gripper, joint)] == [None, 2, 3]


def test_vectors_come_in_the_projects_units_at_their_slots(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130,))
    episode = open_dataset(agilex(folder), RULES).train[0]
    with h5py.File(episode.path) as file:
        qpos = file["/observations/qpos"][()]
    states = episode.states()
    assert (episode.start, states.shape) == (9, (121, 128))
    np.testing.assert_allclose(states[:, SLOTS["left_gripper_open"]], qpos[9:, 6] / 4.7908, rtol=1e-6)
    np.testing.assert_allclose(states[:, SLOTS["right_arm_joint_2_pos"]], qpos[9:, 9], rtol=1e-6)
    assert not states[:, 100:].any()


def record(folder, steps=30):
    """An episode of our own layout, of the simulated robot."""
    robot = load_robot("sim_aloha")
    rng = np.random.default_rng(1)
    frame = np.zeros((8, 8, 3), np.uint8)
    recording = Recording(robot.period_ns, robot.action_offset_steps)
    writer = EpisodeWriter(folder / "own.hdf5", Header(robot, robot_path("sim_aloha").read_text(), "hand it over"))
    for i, joints in enumerate(rng.normal(0, 0.1, (steps + 1, 14)).cumsum(0).astype(np.float32)):
        stamp_ns = (i + 1) * robot.period_ns
        frame[:] = i
        seen = tuple(Picture(camera.name, stamp_ns, jpeg.encode(frame)) for camera in robot.cameras)
        for step in recording.add(Observation(stamp_ns, robot.name, seen, robot.joint_names, joints, leader=joints)):
            writer.add(step)
    writer.finish()


def test_our_own_episodes_bring_their_robot_and_instruction(tmp_path):
    record(tmp_path)
    dataset = open_dataset(DatasetConfig(path=str(tmp_path), name="cubes"), SampleConfig(min_steps=20))
    assert (dataset.robot.name, dataset.rate_hz, dataset.name) == ("sim_aloha", 25, "cubes")
    assert dataset.train[0].wordings == (("hand it over",),) * 3
    told = DatasetConfig(path=str(tmp_path), control_rate_hz=12.5)
    assert open_dataset(told, SampleConfig(min_steps=20)).rate_hz == 12.5


def test_a_data_set_is_of_one_robot(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130,))
    record(folder)
    with pytest.raises(InputError, match=r"own.hdf5: expected robot agilex as in .*e0.hdf5, found sim_aloha"):
        open_dataset(agilex(folder), SampleConfig(min_steps=20))


def test_a_corrupt_episode_is_refused_or_skipped_as_told(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130, 130, 130))
    (folder / "e0.hdf5").write_bytes((folder / "e0.hdf5").read_bytes()[:5000])
    with h5py.File(folder / "e1.hdf5", "a") as file:
        file["/action"][17, 3] = np.nan
    with pytest.raises(InputError, match="e0.hdf5: no readable HDF5"):
        open_dataset(agilex(folder), RULES)
    dataset = open_dataset(agilex(folder, corrupt="skip"), RULES)
    assert names(dataset.train) == ["e2.hdf5"] and len(dataset.left_out) == 2
    assert "e1.hdf5" in dataset.left_out[1] and "step 17" in dataset.left_out[1]


def test_no_episodes_and_no_usable_episodes_are_told_apart(maker, agilex, tmp_path):
    with pytest.raises(InputError, match="expected a folder of episodes"):
        open_dataset(agilex(tmp_path / "nowhere"), RULES)
    with pytest.raises(InputError, match="corrupt: expected one of refuse, skip, found 'drop'"):
        open_dataset(agilex(tmp_path, corrupt="drop"), RULES)
    with pytest.raises(InputError, match=r"expected episodes \(\*.hdf5\) in .*, found none"):
        open_dataset(agilex(tmp_path), RULES)
    folder = maker.folder(tmp_path / "set", (20,) * 7)
    with pytest.raises(InputError, match=r"a usable episode among 7, found none: .*at least 128.*; and 2 more"):
        open_dataset(agilex(folder), RULES)


def test_an_episode_needs_an_instruction(maker, agilex, tmp_path):
    maker.write(tmp_path / "e.hdf5", 130)
    with h5py.File(tmp_path / "e.hdf5", "a") as file:
        del file["/instruction"]
    with pytest.raises(InputError, match="e.hdf5: expected an instruction, found none; it may stand in .*json"):
        open_dataset(agilex(tmp_path), RULES)


def test_the_split_is_by_episode_and_stands(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130,) * 5)
    named = open_dataset(agilex(folder, held_out=("e1.hdf5", "e[34]*")), RULES)
    assert names(named.train) == ["e0.hdf5", "e2.hdf5"] and len(named.held_out) == 3
    by_share = open_dataset(agilex(folder, held_out_fraction=0.4), RULES)
    assert len(by_share.held_out) == 2
    maker.write(folder / "e9.hdf5", 20)  # left out: changes nothing
    again = open_dataset(agilex(folder, held_out_fraction=0.4), RULES)
    assert names(again.held_out) == names(by_share.held_out)
    both = open_dataset(agilex(folder, held_out=("e0.hdf5",), held_out_fraction=0.2), RULES)
    assert names(both.held_out) == ["e0.hdf5"]
    with pytest.raises(InputError, match="held_out: expected an episode 'x.hdf5'"):
        open_dataset(agilex(folder, held_out=("x.hdf5",)), RULES)
    with pytest.raises(InputError, match="expected an episode to train on, found all 5 held out"):
        open_dataset(agilex(folder, held_out=("*",)), RULES)
