"""Files of Mobile ALOHA, ACT and RDT's data: units, frames and colours."""

from __future__ import annotations

import dataclasses

import cv2
import h5py
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Base, load_robot

ROBOT = load_robot("agilex")
STEPS = 3
# smooth, so that JPEG changes little; red differs from blue
RGB = np.stack([np.full((24, 32), 200), np.tile(np.arange(32) * 4, (24, 1)), np.full((24, 32), 30)], 2).astype(np.uint8)


def swapped() -> bytes:
    """RGB given to an encoder that expects BGR, as in the published data."""
    return cv2.imencode(".jpg", RGB, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def as_bytes(file, path):
    file.create_dataset(path, data=[swapped()] * STEPS, dtype=f"S{len(swapped()) + 7}")


def as_padded_array(file, path):
    row = np.frombuffer(swapped().ljust(2000, b"\0"), np.uint8)
    file.create_dataset(path, data=np.tile(row, (STEPS, 1)))


def as_variable_array(file, path):
    frames = file.create_dataset(path, (STEPS,), h5py.vlen_dtype(np.uint8))
    for i in range(STEPS):
        frames[i] = np.frombuffer(swapped(), np.uint8)


def as_raw_array(file, path):
    file.create_dataset(path, data=np.tile(RGB, (STEPS, 1, 1, 1)))


@pytest.fixture
def write(tmp_path):
    def make(images=as_bytes, **change):
        qpos, action = np.full((STEPS, 14), 0.5, np.float32), np.full((STEPS, 14), 0.25, np.float32)
        qpos[:, 6], action[:, 6] = 4.7908 / 2, 11.8997 / 4
        data = {"/observations/qpos": qpos, "/action": action, "/instruction": "fold", **change}
        with h5py.File(tmp_path / "old.hdf5", "w") as file:
            for path, value in data.items():
                if value is not None:
                    file[path] = value
            for camera in ROBOT.cameras:
                images(file, f"/observations/images/{camera.name}")
        return tmp_path / "old.hdf5"

    return make


@pytest.mark.parametrize("images", [as_bytes, as_padded_array, as_variable_array, as_raw_array])
def test_pictures_come_in_true_colours(write, images):
    with EpisodeReader(write(images), ROBOT) as episode:
        for observation in episode.observations():
            assert [p.camera for p in observation.pictures] == [camera.name for camera in ROBOT.cameras]
            assert np.abs(jpeg.decode(observation.pictures[0].jpeg).astype(int) - RGB).max() < 12


def test_a_file_said_to_have_true_colours_is_passed_on_byte_for_byte(write):
    with EpisodeReader(write(), ROBOT, colour_order="rgb") as episode:
        assert episode.observation(0).pictures[0].jpeg == swapped()


def test_joints_come_in_the_projects_units(write):
    with EpisodeReader(write(), ROBOT) as episode:
        observation = episode.observation(1)
        assert observation.measured[6] == pytest.approx(0.5, abs=1e-3)
        assert episode.actions[1, 6] == pytest.approx(0.25, abs=1e-3)
        assert observation.measured[0] == 0.5 and episode.actions[1, 0] == 0.25
        assert (episode.instruction, len(episode)) == ("fold", STEPS)
        assert list(np.diff(episode.ticks)) == [ROBOT.period_ns] * (STEPS - 1)


@pytest.mark.parametrize("name", ["agilex", "sim_aloha"])
def test_a_whole_trajectory_is_what_its_messages_would_have_been(write, name):
    robot, random = load_robot(name), np.random.default_rng(1)
    values = {p: random.uniform(-1, 1, (STEPS, 14)) for p in ("/observations/qpos", "/observations/qvel", "/action")}
    with EpisodeReader(write(**values, **{"/observations/effort": values["/action"]}), robot) as episode:
        content = episode.content
    for step in range(STEPS):
        for role, found in (("measured", content.vectors["measured"]), ("command", content.action)):
            path = "/observations/qpos" if role == "measured" else "/action"
            for group in robot.groups:
                fields = {"position": values[path][step][group.columns], "names": (), "stamp_ns": 0}
                sample = robot.from_wire(
                    group, role, **fields, velocity=values["/observations/qvel"][step][group.columns]
                )
                np.testing.assert_allclose(found[step][group.columns], sample.position, rtol=1e-6, atol=1e-7)
                if role == "measured":
                    found_velocity = content.vectors["velocity"][step][group.columns]
                    np.testing.assert_allclose(found_velocity, sample.velocity, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(content.vectors["effort"], values["/action"].astype(np.float32))


@pytest.mark.parametrize("change", [{"/observations/qvel": np.zeros((STEPS, 3))}, {"/base_action": np.zeros(STEPS)}])
def test_a_data_set_of_another_shape_is_named(write, change):
    (path,) = change
    base = Base(odometry="odom", command=None, velocity=(1.0, 0.0, 1.0), acceleration=(0.0, 0.0, 0.0))
    robot = dataclasses.replace(ROBOT, base=base)
    with pytest.raises(InputError, match=f"old.hdf5: {path}: expected shape"):
        EpisodeReader(write(**change), robot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"/action": None, "/action/x": 1}, "/action: expected a data set, found a group"),
        ({"/stamps/tick": np.zeros(2, np.int64)}, "/stamps/tick: expected 3 stamps in ns"),
        ({"/action": None}, "missing /action"),
        ({"/action": np.zeros((STEPS, 7))}, r"/action: expected shape \(N, 14\), found \(3, 7\)"),
        ({"/action": np.zeros((STEPS + 1, 14))}, "/observations/qpos: expected 4 steps as in /action"),
        ({"/observations/qpos": np.full((STEPS, 14), np.nan)}, "expected a finite position of"),
        ({"images": lambda f, p: f.create_dataset(p, data=np.zeros((2, 9), np.uint8))}, "expected 3 pictures, found 2"),
        ({"images": lambda f, p: f.create_dataset(p, data=np.zeros((3, 9)))}, "expected JPEG frames or"),
    ],
)
def test_a_wrong_file_is_refused(write, change, message):
    with pytest.raises(InputError, match=f"old.hdf5: .*{message}"):
        EpisodeReader(write(**change), ROBOT)


def test_frames_that_do_not_decode_are_named(write):
    def broken(file, path):
        file.create_dataset(path, data=[b"\xff\xd8 broken"] * STEPS, dtype="S20")

    with EpisodeReader(write(broken), ROBOT) as episode, pytest.raises(InputError, match="old.hdf5: .*do not decode"):
        episode.observation(0)


def test_such_a_file_needs_a_robot(write):
    with pytest.raises(InputError, match="old.hdf5: not recorded by rdt_ros: say which robot it is of"):
        EpisodeReader(write())
