"""Pictures of one episode: an MP4 of all its cameras, and a few moments of the external one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rdt_ros.episodes.video import side_by_side, write_frames
from rdt_ros.errors import InputError
from rdt_ros.evaluation.success import EpisodeResult
from rdt_ros.jpeg import decode
from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S, Observation

MOMENTS = 8
FRAME_WIDTH = 240  # pixels of a moment in the sheet


@dataclass(frozen=True, eq=False)
class Strip:
    """A row of the contact sheet."""

    result: EpisodeResult
    moments: tuple[tuple[float, np.ndarray], ...]  # s after the start, (H, W, 3) RGB


def shown(results: Sequence[EpisodeResult], failures: int) -> list[EpisodeResult]:
    """Which episodes to show: the first success and the first `failures` failures by seed; none where that is 0."""
    if failures <= 0:
        return []
    ordered = sorted(results, key=lambda result: result.seed)
    succeeded = [result for result in ordered if result.success]
    return succeeded[:1] + [result for result in ordered if not result.success][:failures]


def film_name(result: EpisodeResult) -> str:
    """The file of an episode's film."""
    return f"{'success' if result.success else 'failure'}_{result.seed}.mp4"


def write_film(observations: Sequence[Observation], path: Path, robot: Robot, result: EpisodeResult) -> None:
    """Writes the film of an episode; InputError where an Observation lacks pictures."""
    _check(observations)
    start_ns = observations[0].stamp_ns

    def canvas(step: int, height: int) -> np.ndarray:
        observation = observations[step]
        pictures = {f"{p.camera} of step {step}": p.jpeg for p in observation.pictures}
        seconds = (observation.stamp_ns - start_ns) / NS_PER_S
        return side_by_side(pictures, f"seed {result.seed}   {seconds:6.2f} s   {result.how}", height)

    stamps_ns = np.array([observation.stamp_ns for observation in observations])
    write_frames(path, stamps_ns, canvas, rate_hz=robot.control_rate_hz, title=result.instruction)


def strip_of(observations: Sequence[Observation], robot: Robot, result: EpisodeResult) -> Strip:
    """Moments evenly spread from the first to the last, as the external camera saw them."""
    _check(observations)
    camera = next((c for c in robot.cameras if c.role == "external"), robot.cameras[0])
    moments = []
    for step in np.linspace(0, len(observations) - 1, MOMENTS).round().astype(int):
        observation = observations[step]
        picture = observation.picture(camera.name)
        assert picture is not None  # it has all of them or none
        pixels = decode(picture.jpeg, f"{camera.name} of step {step}")
        size = (FRAME_WIDTH, round(pixels.shape[0] * FRAME_WIDTH / pixels.shape[1]))
        seconds = (observation.stamp_ns - observations[0].stamp_ns) / NS_PER_S
        moments.append((seconds, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)))
    return Strip(result, tuple(moments))


def _check(observations: Sequence[Observation]) -> None:
    if not observations or not all(observation.pictures for observation in observations):
        raise InputError("film: expected pictures in every Observation, found some without")
