"""What the checks look at, read once: small arrays, a fingerprint of every picture, a few small pictures."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.check.findings import Finding, finding
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.content import Content
from rdt_ros.episodes.datasets import DAMAGE, dataset, naming
from rdt_ros.episodes.hdf5 import open_for_reading
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Camera, Robot
from rdt_ros.types import NS_PER_S

UNREADABLE = -1  # fingerprint of a picture that cannot be read
END = b"\xff\xd9"
END_WITHIN = 64  # bytes; some encoders write a few after the picture's end
SMALLEST_SAMPLED = 4  # black, white and torn pictures are the smallest ones
BAND = 16  # rows of a raw picture that are compared
SHRINK = 8  # of a sampled picture: an eighth, which costs a quarter of decoding it whole


@dataclass(frozen=True, eq=False)
class CameraEvidence:
    """The pictures of one camera. N steps, S sampled ones."""

    camera: Camera
    fingerprints: np.ndarray  # (N,) int64; equal pictures have equal ones
    faults: Mapping[int, str]  # step -> why its picture cannot be used
    samples: tuple[int, ...]  # steps
    regular: np.ndarray  # (S,) bool, false for those that were chosen for being small
    thumbnails: tuple[np.ndarray, ...]  # (S) RGB uint8, an eighth of the size
    sizes: tuple[tuple[int, int], ...]  # (S) width, height, rounded up to eights
    qualities: tuple[int | None, ...]  # (S) of the stored JPEG


@dataclass(frozen=True, eq=False)
class Evidence:
    """One episode as the checks see it."""

    path: Path
    content: Content
    instruction: str
    ours: bool  # recorded by rdt_ros
    attributes: Mapping[str, Any]
    cameras: tuple[CameraEvidence, ...]

    @property
    def robot(self) -> Robot:
        """Of the episode."""
        return self.content.robot

    @property
    def steps(self) -> int:
        """Count."""
        return len(self.content.ticks)

    @property
    def seconds(self) -> float:
        """From the first step to the last."""
        return self.time_s(self.steps - 1) if self.steps else 0.0

    @property
    def stamped(self) -> bool:
        """False where the ticks are made up, because the file has no stamps."""
        made_up = np.arange(1, self.steps + 1) * self.robot.period_ns
        return self.ours or not np.array_equal(self.content.ticks, made_up)

    def time_s(self, step: int) -> float:
        """Of a step, since the first one."""
        ticks = self.content.ticks
        return (int(ticks[step]) - int(ticks[0])) / NS_PER_S

    def at(
        self, kind: str, subject: str, step: int, *, expected: str, found: str, severity: str | None = None
    ) -> Finding:
        """A finding that begins at a step."""
        return finding(
            kind, subject, expected=expected, found=found, severity=severity, step=step, time_s=self.time_s(step)
        )


def gather(episode: EpisodeReader, thresholds: Thresholds) -> Evidence:
    """Reads what the checks need; InputError where the file does not hold what it says."""
    content = episode.content
    with open_for_reading(episode.path, unfinished=episode.path.suffix == UNFINISHED) as file:
        with naming("attributes"):
            attributes = {name: _plain(file.attrs[name]) for name in file.attrs}
        cameras = tuple(
            _camera(camera, content, _stored(file, camera.name, content), thresholds.sample_period_s)
            for camera in content.robot.cameras
            if camera.name in content.pictures
        )
    ours = attributes.get("format") == layout.FORMAT
    return Evidence(episode.path, content, episode.instruction, ours, attributes, cameras)


def _plain(value: Any) -> Any:
    """A number or a text; what is neither, where one belongs, is a text that says nothing."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, int | float | str) else str(value)


def _stored(file: h5py.File, camera: str, content: Content) -> Callable[[int], bytes]:
    """How to get what the file holds of a picture, as it is: quick, where the reader would encode again."""
    path = layout.image_path(camera)
    if path not in file:
        return content.pictures[camera]
    images = dataset(file, path)
    if images.ndim == 4:  # raw arrays: a band of each tells whether two are equal
        middle = images.shape[1] // 2
        return lambda step: images[step, middle : middle + BAND].tobytes()
    return lambda step: np.asarray(images[step]).tobytes().rstrip(b"\0")


def _camera(camera: Camera, content: Content, stored: Callable[[int], bytes], sample_period_s: float) -> CameraEvidence:
    steps = len(content.ticks)
    fingerprints, lengths = np.full(steps, UNREADABLE, np.int64), np.zeros(steps, np.int64)
    faults: dict[int, str] = {}
    for step in range(steps):
        try:
            data = stored(step)
        except (InputError, *DAMAGE) as error:
            faults[step] = _line(error)
            continue
        fingerprints[step], lengths[step] = zlib.crc32(data), len(data)
        if data.startswith(frames.START) and END not in data[-END_WITHIN:]:
            faults[step] = "the JPEG ends in the middle"
    every = max(1, round(sample_period_s * content.robot.control_rate_hz))
    regular = set(range(0, steps, every))
    small = set(np.argsort(lengths, kind="stable")[:SMALLEST_SAMPLED].tolist())
    looks = {}
    for step in sorted((regular | small) - set(faults)):
        try:
            looks[step] = (*_look(content.pictures[camera.name](step)), _quality(stored(step)))
        except (InputError, *DAMAGE) as error:
            faults[step] = _line(error)
    return CameraEvidence(
        camera=camera,
        fingerprints=fingerprints,
        faults=dict(sorted(faults.items())),
        samples=tuple(looks),
        regular=np.array([step in regular for step in looks], bool),
        thumbnails=tuple(look[0] for look in looks.values()),
        sizes=tuple(look[1] for look in looks.values()),
        qualities=tuple(look[2] for look in looks.values()),
    )


def _look(jpeg: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """The picture at an eighth of its size, and its width and height."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
    if bgr is None:
        raise InputError(f"{len(jpeg)} bytes that do not decode")
    return bgr[:, :, ::-1], (SHRINK * bgr.shape[1], SHRINK * bgr.shape[0])


def _quality(stored: bytes) -> int | None:
    return frames.quality(stored) if stored.startswith(frames.START) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def still_windows(values: np.ndarray, width: int, limit: float) -> np.ndarray:
    """(N,) + rest, bool: true where values (N, ...) change by less than `limit` in `width` steps around."""
    half = width // 2
    if len(values) < 2 * half + 1:
        return np.zeros(values.shape, bool)
    windows = np.lib.stride_tricks.sliding_window_view(values, 2 * half + 1, axis=0)
    still = np.zeros(values.shape, bool)
    still[half : len(values) - half] = np.ptp(windows, axis=-1) < limit
    return still


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of every run of true in (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
