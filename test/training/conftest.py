"""Folders of episodes in the layout of RDT's data, which the reference's loader reads too."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from rdt_ros.bench.reference import HOW_TO, Reference
from rdt_ros.episodes.instructions import FOLDER_FILE
from rdt_ros.robot.description import load_robot
from rdt_ros.training.config import DatasetConfig

ROBOT = load_robot("agilex")
TEXTS = {
    "instruction": "fold the towel",
    "simplified_instruction": ["fold towel", "fold it"],
    "expanded_instruction": ["take the towel and fold it twice"],
}


class Maker:
    """Writes episodes whose pictures say which step they are of."""

    robot, texts = ROBOT, TEXTS

    def __init__(self) -> None:
        self.random = np.random.default_rng(3)

    def picture(self, step: int, camera: int, height: int = 48, width: int = 64) -> bytes:
        """JPEG of colours that differ by step and camera."""
        coarse = np.random.default_rng([step, camera]).integers(0, 256, (6, 8, 3), np.uint8)
        return cv2.imencode(".jpg", cv2.resize(coarse, (width, height)), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

    def vectors(self, steps: int, still: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """qpos and action (N, 14) in the robot's units; the first `still` steps stay within 0.01 of the first."""
        walk = self.random.normal(0, 0.05, (steps, 14)).cumsum(0)
        walk[: min(still, steps)] = self.random.uniform(-0.004, 0.004, (min(still, steps), 14))
        walk[still:] += 0.1
        walk[:, 3] = 0.25  # a joint that never moves has no deviation
        return walk.astype(np.float32), (walk + 0.02).astype(np.float32)

    def write(self, path: Path, steps: int = 140, still: int = 10, cameras: int = 3, **sizes: int) -> Path:
        """One episode."""
        path.parent.mkdir(parents=True, exist_ok=True)
        qpos, action = self.vectors(steps, still)
        with h5py.File(path, "w") as file:
            file["/observations/qpos"], file["/action"] = qpos, action
            file["/instruction"] = TEXTS["instruction"]
            for i, camera in enumerate(ROBOT.cameras[:cameras]):
                frames = [self.picture(step, i, **sizes) for step in range(steps)]
                size = max(map(len, frames))
                file.create_dataset(
                    f"/observations/images/{camera.name}", data=np.array(frames, f"S{size}"), chunks=(1,)
                )
        return path

    def folder(self, path: Path, lengths: tuple[int, ...] = (140, 150), **options: int) -> Path:
        """Episodes e0.hdf5, e1.hdf5, ... and their instructions."""
        for i, steps in enumerate(lengths):
            self.write(path / f"e{i}.hdf5", steps, **options)
        (path / FOLDER_FILE).write_text(json.dumps(TEXTS))
        return path


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def agilex():
    """The settings of a folder of such episodes."""
    return lambda folder, **options: DatasetConfig(path=str(folder), robot="agilex", **options)


@pytest.fixture(scope="session")
def reference():
    """The reference's own code. `make` installs it; one that is there must work."""
    if importlib.util.find_spec("dora_rdt_1b") is None:
        pytest.skip(f"the reference code is not installed: {HOW_TO}")
    return Reference()
