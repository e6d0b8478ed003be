"""What was recorded comes back bit by bit; what is broken is refused in one line."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot

ROBOTS = [load_robot(name) for name in ("sim_aloha", "agilex", "agilex_piper")]


@pytest.mark.parametrize("leader", [False, True])
def test_observations_are_the_recorded_ones(maker, tmp_path, same, leader):
    observations = maker.observations(9, skew_ns=30_000_000, leader=leader, command=not leader)
    maker.write(tmp_path / "e.hdf5", observations)
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert len(episode) == 8 - (not leader)
        assert all(same(a, b) for a, b in zip(observations, episode.observations(), strict=False))
        field, later = ("leader", 1) if leader else ("command", 2)
        for action, decided_by in zip(episode.actions, observations[later:], strict=True):
            assert np.array_equal(action, getattr(decided_by, field))
        assert (episode.instruction, episode.robot.name, episode.complete) == ("stapel die Würfel", "sim_aloha", True)
        assert episode.content.action_source == ("leader" if leader else "command")


def test_what_is_missing_at_one_step_is_missing_again(maker, tmp_path, same):
    observations = maker.observations(2, command=False) + [maker.observation(102 + i) for i in range(6)]
    observations[3] = dataclasses.replace(observations[3], velocity=None)
    maker.write(tmp_path / "e.hdf5", observations)
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert all(same(a, b) for a, b in zip(observations, episode.observations(), strict=False))
        assert episode.observation(1).command is None and episode.observation(3).velocity is None


@given(
    robot=st.sampled_from(ROBOTS),
    role=st.sampled_from(["measured", "command"]),
    values=st.lists(st.floats(-1, 1), min_size=20, max_size=20),
)
def test_stored_float32_survive_the_robots_own_units(robot, role, values):
    """Live message -> Observation -> file -> replayed message -> Observation: the two Observations are equal."""
    for group in robot.groups:
        live = robot.to_wire(group, role, np.array(values[: len(group.joints)]))  # any float64 a driver may send
        stored = robot.from_wire(group, role, stamp_ns=0, names=(), position=live).position.astype(np.float32)
        sent = robot.to_wire(group, role, stored.astype(float))
        again = robot.from_wire(group, role, stamp_ns=0, names=(), position=sent).position.astype(np.float32)
        assert np.array_equal(stored, again)


def test_float32_in_the_robots_units_would_not():
    """Why the file holds the project's units."""
    robot = load_robot("sim_aloha")
    group = robot.groups[0]
    openings = np.linspace(0.1, 0.9, 1000, dtype=np.float32)
    rows = np.tile(openings[:, None], len(group.joints)).astype(float)
    wire = np.array([robot.to_wire(group, "measured", row) for row in rows], np.float32)
    back = [robot.from_wire(group, "measured", stamp_ns=0, names=(), position=row).position[-1] for row in wire]
    assert (np.array(back, np.float32) != openings).mean() > 0.1


def test_an_unfinished_episode_gives_its_durable_steps(maker, tmp_path, same):
    observations = maker.observations(8)
    writer = maker.write(tmp_path / "e.hdf5", observations, finish=False)
    with EpisodeReader(writer.unfinished) as episode:
        assert len(episode) == 6 and not episode.complete
        assert same(episode.observation(5), observations[5])
    writer.discard()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_episode_is_refused(maker, tmp_path, part):
    path = tmp_path / "e.hdf5"
    maker.write(path, maker.observations(20))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"e.hdf5: no readable HDF5 episode") as error, EpisodeReader(path):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.__delitem__("/action"), "an incomplete episode: .*action"),
        (lambda f: f.__delitem__("/observations/images/cam_high"), "an incomplete episode: .*cam_high"),
        (lambda f: f.__delitem__("/stamps/tick"), "an incomplete episode: .*tick"),
        (lambda f: f.attrs.__delitem__("robot_file"), "an incomplete episode: .*robot_file"),
        (lambda f: f["/action"].resize(3, axis=0), r"/action: expected shape \(4, 14\), found \(3, 14\)"),
        (lambda f: f["/observations/images/cam_high"].resize(3, axis=0), ".*cam_high: expected 4 JPEG frames"),
        (lambda f: f["/stamps/camera/cam_high"].resize(3, axis=0), ".*cam_high: expected 4 stamps"),
        (lambda f: f.attrs.modify("format_version", 9), "format_version: expected 1, found 9"),
        (lambda f: f.attrs.modify("robot_file", "name: x"), "robot_file: missing key 'groups'"),
    ],
)
def test_a_damaged_episode_is_refused_with_what_is_wrong(maker, tmp_path, damage, message):
    maker.write(tmp_path / "e.hdf5", maker.observations(6))
    with h5py.File(tmp_path / "e.hdf5", "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=r"e.hdf5: " + message), EpisodeReader(tmp_path / "e.hdf5"):
        pass


def test_what_is_no_episode_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.hdf5: no such file"), EpisodeReader(tmp_path / "none.hdf5"):
        pass
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(InputError, match=r"text.hdf5: no readable HDF5 episode"), EpisodeReader(tmp_path / "text.hdf5"):
        pass
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match=r"other.hdf5: no episode: missing /observations/qpos"):
        EpisodeReader(tmp_path / "other.hdf5")
