"""An episode on disk: its layout, its schedule, what is refused, what a kill or a full disk leaves."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recording import Step
from rdt_ros.episodes.repair import repair
from rdt_ros.episodes.writer import EpisodeWriter, unfinished_path
from rdt_ros.errors import InputError
from rdt_ros.types import Picture


def step(observation) -> Step:
    return Step(observation, np.zeros(len(observation.joint_names), np.float32), "command", observation)


def test_the_layout_is_that_of_mobile_aloha(maker, tmp_path):
    observations = maker.observations(12)
    maker.write(tmp_path / "e.hdf5", observations)
    with h5py.File(tmp_path / "e.hdf5") as file:
        assert file["/observations/qpos"].dtype == file["/action"].dtype == np.float32
        assert file["/observations/qpos"].shape == file["/action"].shape == (10, 14)
        assert np.array_equal(file["/observations/qvel"][3], observations[3].velocity)
        assert np.array_equal(file["/action"][3], observations[5].command)
        assert file["/stamps/tick"][3] == observations[3].stamp_ns
        assert file["/stamps/camera/cam_high"].dtype == np.int64
        assert file["/instruction"][()].decode() == "stapel die Würfel"
        for picture in observations[3].pictures:
            assert bytes(file[f"/observations/images/{picture.camera}"][3]) == picture.jpeg
        for absent in ("/observations/effort", "/observations/leader", "/observations/base", "/base_action"):
            assert absent not in file
        attributes = dict(file.attrs)
    assert attributes["robot_file"] == maker.robot_text
    assert list(attributes["joint_names"]) == list(maker.robot.joint_names)
    assert (attributes["format_version"], attributes["robot"], attributes["units"]) == (1, "sim_aloha", "project")
    assert (attributes["action_source"], attributes["action_offset_steps"]) == ("command", 1)
    assert (attributes["colour_order"], attributes["jpeg_quality"]) == ("rgb", 80)
    assert attributes["complete"] and not attributes["repaired"]
    assert (attributes["steps"], attributes["steps_lost"], attributes["steps_without_action"]) == (10, 0, 2)


def test_base_and_poses(maker, tmp_path, same):
    base = np.array([0.1, 0.2, 0.3], np.float32)
    poses = {"left": np.arange(7, dtype=np.float32)}
    observations = [dataclasses.replace(o, base=base, poses=poses) for o in maker.observations(4)]
    maker.write(tmp_path / "e.hdf5", observations)
    with h5py.File(tmp_path / "e.hdf5") as file:
        assert np.array_equal(file["/base_action"][0], base[[0, 2]])
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert same(episode.observation(0), observations[0])


def test_steps_become_durable_on_a_schedule(maker, tmp_path):
    now_s = 0.0
    writer = EpisodeWriter(tmp_path / "e.hdf5", maker.header(), flush_period_s=0.5, steady_s=lambda: now_s)
    durable = []
    for observation in maker.observations(50):
        now_s += 0.04
        writer.add(step(observation))
        if writer.durable_steps:
            with EpisodeReader(writer.unfinished) as episode:  # another reader sees the durable steps and no others
                assert len(episode) == writer.durable_steps
        durable.append(writer.durable_steps)
    # the first step at once, so that there is something to repair; then every 13 steps of 0.04 s
    assert [durable[i] for i in (0, 12, 13, 25, 26, 49)] == [1, 1, 14, 14, 27, 40]
    assert writer.flushes == 4 and writer.fsyncs == 9  # one for the empty file
    now_s += 0.5
    writer.poll()
    assert writer.durable_steps == 50
    writer.finish()


def test_nothing_is_overwritten(maker, tmp_path):
    path = tmp_path / "e.hdf5"
    maker.write(path, maker.observations(5))
    with pytest.raises(InputError, match=r"e.hdf5: exists already, an episode is never overwritten"):
        EpisodeWriter(path, maker.header())


def test_a_file_that_appears_meanwhile_is_not_overwritten(maker, tmp_path):
    writer = maker.write(tmp_path / "e.hdf5", maker.observations(5), finish=False)
    (tmp_path / "e.hdf5").write_bytes(b"kept")
    for _ in range(2):  # asking again does not lose the recording either
        with pytest.raises(InputError, match=r"e.hdf5: exists already, the episode stays in e.hdf5.partial"):
            writer.finish()
    assert (tmp_path / "e.hdf5").read_bytes() == b"kept" and writer.unfinished.exists()


def test_a_second_writer_of_the_same_file_is_refused(maker, tmp_path):
    first = EpisodeWriter(tmp_path / "e.hdf5", maker.header())
    with pytest.raises(InputError, match=r"e.hdf5.partial: another recorder is writing it"):
        EpisodeWriter(tmp_path / "e.hdf5", maker.header())
    first.add(step(maker.observation(1)))
    assert first.finish() == tmp_path / "e.hdf5"


def test_an_interrupted_recording_is_kept(maker, tmp_path):
    unfinished_path(tmp_path / "e.hdf5").write_bytes(b"something")
    with pytest.raises(InputError, match=r"e.hdf5.partial: an interrupted recording is there"):
        EpisodeWriter(tmp_path / "e.hdf5", maker.header())
    assert unfinished_path(tmp_path / "e.hdf5").read_bytes() == b"something"


def test_a_folder_that_is_not_there(maker, tmp_path):
    with pytest.raises(InputError, match=r"e.hdf5.partial: could not be made: No such file or directory"):
        EpisodeWriter(tmp_path / "no" / "e.hdf5", maker.header())


def test_an_episode_without_a_step_leaves_no_file(maker, tmp_path):
    assert EpisodeWriter(tmp_path / "e.hdf5", maker.header()).finish() is None
    writer = EpisodeWriter(tmp_path / "f.hdf5", maker.header())
    writer.add(step(maker.observation(1)))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_too_large_is_stored_smaller_and_counted(maker, tmp_path):
    large = maker.jpeg(100, height=480, width=640)
    first, second = maker.observations(2)
    swollen = Picture(second.pictures[0].camera, second.stamp_ns, large)
    second = dataclasses.replace(second, pictures=(swollen, *second.pictures[1:]))
    writer = EpisodeWriter(tmp_path / "e.hdf5", maker.header())
    writer.add(step(first))
    writer.add(step(second))
    writer.finish()
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        stored = episode.observation(1).pictures[0].jpeg
    assert len(large) > 640 * 480 * 0.75 >= len(stored)
    with h5py.File(tmp_path / "e.hdf5") as file:
        assert file.attrs["pictures_reencoded"] == 1


def test_a_step_that_does_not_fit_is_refused_and_the_rest_kept(maker, tmp_path):
    first, second = maker.observations(2)
    writer = EpisodeWriter(tmp_path / "e.hdf5", maker.header())
    writer.add(step(first))
    for wrong, message in (
        ({"pictures": second.pictures[:2]}, "expected pictures of .*, found cam_high, cam_left_wrist"),
        ({"robot": "agilex"}, "expected robot sim_aloha, found agilex"),
        ({"joint_names": ("a",)}, "expected 14 joints, found 1"),
        ({"pictures": (*second.pictures[:2], Picture("cam_right_wrist", 0, b""))}, "expected a JPEG picture"),
    ):
        with pytest.raises(InputError, match=message):
            writer.add(step(dataclasses.replace(second, **wrong)))
    writer.finish()
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert len(episode) == 1


# A process that writes steps as fast as it can and says which are durable. Measured joints hold the number of the step.
FAST_WRITER = """
import dataclasses, resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
from conftest import Maker
from rdt_ros.episodes.recording import Step
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError

maker = Maker()
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
writer = EpisodeWriter(Path(sys.argv[1]), maker.header(), flush_period_s=0.003)
number, shown = 0, -1
try:
    while True:
        values = np.full(14, number, np.float32)
        observation = dataclasses.replace(maker.observation(number), measured=values)
        writer.add(Step(observation, values, "command", observation))
        number += 1
        if writer.durable_steps != shown:
            shown = writer.durable_steps
            print(shown, flush=True)
except InputError as error:
    print(error, flush=True)
    try:
        writer.finish()
    except InputError as again:
        sys.exit(0 if str(again) == str(error) else 1)
"""


def fast_writer(path: Path, limit: int = 0) -> subprocess.Popen:
    code = FAST_WRITER.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(path), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def check_steps(path: Path, at_least: int) -> None:
    """All durable steps are there and whole."""
    with EpisodeReader(path) as episode:
        assert len(episode) >= at_least
        assert np.array_equal(episode.actions[:, 0], np.arange(len(episode)))
        assert np.array_equal(episode.ticks, np.arange(len(episode)) * episode.robot.period_ns)
        for number, observation in enumerate(episode.observations()):
            assert observation.measured[0] == number
            assert all(picture.jpeg.endswith(b"\xff\xd9") for picture in observation.pictures)


def kill_at_random_moments(folder: Path, count: int) -> None:
    random = np.random.default_rng(count)
    for i in range(count):
        path = folder / f"e{i}.hdf5"
        process = fast_writer(path)
        assert process.stdout is not None
        said = process.stdout.readline()
        time.sleep(random.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        durable = int((said + process.stdout.read()).split()[-1])
        process.wait()
        assert not path.exists()
        check_steps(unfinished_path(path), durable)
        assert repair(unfinished_path(path)) == path
        check_steps(path, durable)
        assert [p.name for p in folder.iterdir()] == [path.name]
        path.unlink()


def test_a_kill_leaves_every_durable_step(tmp_path):
    kill_at_random_moments(tmp_path, 3)


@pytest.mark.slow
def test_twenty_kills_leave_every_durable_step(tmp_path):
    kill_at_random_moments(tmp_path, 20)


def test_a_full_disk_leaves_every_durable_step(tmp_path):
    path = tmp_path / "e.hdf5"
    process = fast_writer(path, limit=500_000)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.wait(20) == 0
    durable = int(lines[-2])
    assert lines[-1] == f"{path}.partial: could not write: {os.strerror(27)}; {durable} steps are safe in it"
    check_steps(unfinished_path(path), durable)
    check_steps(repair(unfinished_path(path)), durable)
