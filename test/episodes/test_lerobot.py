"""The export to LeRobot; a run of the real library where RDT_LEROBOT_PYTHON names its environment."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes import lerobot
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError

REPOSITORY = Path(lerobot.__file__).parents[2]
PYTHON = os.environ.get("RDT_LEROBOT_PYTHON")
LOAD = """
import sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/out", root=sys.argv[1])
frame = data[9]
print(data.num_episodes, len(data), data.fps, frame["task"], frame["observation.images.cam_high"].shape[0])
print(*frame["observation.state"].tolist())
"""


class Library:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[dict] = []
        self.saved: list[int] = []

    def add_frame(self, frame: dict) -> None:
        self.frames.append(frame)

    def save_episode(self) -> None:
        self.saved.append(len(self.frames))


def test_frames_are_steps_with_decoded_pictures(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(8))
    library = Library()
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        features = lerobot._features(episode, videos=True)
        lerobot._add(library, episode)
        assert library.saved == [len(episode)] == [6]
        for step, frame in enumerate(library.frames):
            assert set(frame) == {*features, "task"} and frame["task"] == "stapel die Würfel"
            observation = episode.observation(step)
            assert np.array_equal(frame["observation.state"], observation.measured)
            assert np.array_equal(frame["action"], episode.actions[step])
            for picture in observation.pictures:
                pixels = frame[f"observation.images.{picture.camera}"]
                assert np.array_equal(pixels, jpeg.decode(picture.jpeg))
                assert pixels.shape == features[f"observation.images.{picture.camera}"]["shape"]


@pytest.mark.parametrize("what", ["gap", "instruction", "rate"])
def test_what_does_not_fit_into_a_data_set_is_refused(maker, tmp_path, what):
    observations = maker.observations(9)
    if what == "gap":
        del observations[4]
    maker.write(tmp_path / "e.hdf5", observations)
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        if what == "gap":
            with pytest.raises(InputError, match="e.hdf5: expected a step every tick, found a gap after step"):
                lerobot._add(Library(), episode)
        elif what == "rate":
            with pytest.raises(InputError, match="control_rate_hz: expected a whole number, LeRobot's, found 12.5"):
                lerobot._fps(dataclasses.replace(episode.robot, control_rate_hz=12.5))
        else:
            episode.content = dataclasses.replace(episode.content, instruction=" ")
            with pytest.raises(InputError, match="e.hdf5: expected an instruction"):
                lerobot._add(Library(), episode)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="RDT_LEROBOT_PYTHON names no environment with lerobot")
@pytest.mark.parametrize("options", [[], ["--images"]])
def test_the_real_library_writes_and_loads_it(maker, tmp_path, options):
    big = jpeg.encode(np.full((480, 640, 3), (200, 40, 30), np.uint8))
    for name in ("a", "b"):
        observations = [
            dataclasses.replace(o, pictures=tuple(dataclasses.replace(p, jpeg=big) for p in o.pictures))
            for o in maker.observations(10)
        ]
        maker.write(tmp_path / f"{name}.hdf5", observations)
    words = ["-m", "rdt_ros.episodes.lerobot", tmp_path / "a.hdf5", tmp_path / "b.hdf5", "--out", tmp_path / "out"]
    subprocess.run([PYTHON, *words, *options], check=True, cwd=REPOSITORY)
    loaded = subprocess.run([PYTHON, "-c", LOAD, tmp_path / "out"], check=True, capture_output=True, text=True).stdout
    summary, state = loaded.strip().splitlines()[-2:]
    assert summary == "2 16 25 stapel die Würfel 3"
    with EpisodeReader(tmp_path / "b.hdf5") as episode:
        np.testing.assert_array_equal(np.array(state.split(), np.float32), episode.observation(1).measured)
