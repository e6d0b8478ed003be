"""Observations of the simulated robot, and episodes made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()
PERIOD_NS = ROBOT.period_ns


class Maker:
    """Makes what tests need, with values drawn from a seed."""

    robot, robot_text, period_ns = ROBOT, ROBOT_TEXT, PERIOD_NS

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        # small pictures: what is stored are bytes, whatever they show
        self.jpegs = [self.jpeg(quality) for quality in (95, 80, 60)]

    def jpeg(self, quality: int = 95, height: int = 24, width: int = 32) -> bytes:
        """A noisy picture."""
        pixels = self.random.integers(0, 256, (height, width, 3), np.uint8)
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    def vector(self) -> np.ndarray:
        """(J,) as `from_wire` gives it after a trip through float32."""
        return self.random.uniform(-1, 1, len(ROBOT.joints)).astype(np.float32)

    def observation(self, tick: int, *, skew_ns: int = 0, leader: bool = False, command: bool = True) -> Observation:
        """The Observation of a tick number; sources are up to `skew_ns` after their time."""
        stamp_ns = tick * PERIOD_NS
        late = lambda: int(self.random.integers(0, skew_ns + 1))  # noqa: E731
        pictures = tuple(
            Picture(camera.name, stamp_ns + late(), self.jpegs[(tick + i) % 3])
            for i, camera in enumerate(ROBOT.cameras)
        )
        stamps = {f"camera/{p.camera}": p.stamp_ns for p in pictures}
        stamps |= {f"measured/{group.name}": stamp_ns + late() for group in ROBOT.groups}
        if leader:
            stamps |= {f"leader/{group.name}": stamp_ns + late() for group in ROBOT.groups}
        if command:
            stamps |= {f"command/{group.name}": stamp_ns - PERIOD_NS + late() for group in ROBOT.groups}
        return Observation(
            stamp_ns=stamp_ns,
            robot=ROBOT.name,
            pictures=pictures,
            joint_names=ROBOT.joint_names,
            measured=self.vector(),
            velocity=self.vector(),
            leader=self.vector() if leader else None,
            command=self.vector() if command else None,
            source_stamps_ns=stamps,
        )

    def observations(self, count: int, **kwargs) -> list[Observation]:
        """Observations of ticks 100, 101, ..."""
        return [self.observation(100 + i, **kwargs) for i in range(count)]

    def header(self, instruction: str = "stapel die Würfel") -> Header:
        """Of the simulated robot."""
        return Header(ROBOT, ROBOT_TEXT, instruction)

    def write(self, path: Path, observations: list[Observation], finish: bool = True) -> EpisodeWriter:
        """An episode of these Observations."""
        recording = Recording(PERIOD_NS, ROBOT.action_offset_steps)
        writer = EpisodeWriter(path, self.header())
        for observation in observations:
            for step in recording.add(observation):
                writer.add(step)
        if finish:
            writer.finish(steps_lost=recording.lost, steps_without_action=recording.waiting)
        else:
            writer.flush()
        return writer


@pytest.fixture
def maker() -> Maker:
    return Maker()


def _same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    if hasattr(a, "items"):
        return set(a) == set(b) and all(_same(a[key], b[key]) for key in a)
    return a == b


@pytest.fixture
def same():
    """Compares two Observations bit by bit."""

    def compare(a: Observation, b: Observation) -> bool:
        return all(_same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Observation))

    return compare
