"""What an episode holds, in figures: no picture but the first of each camera is decoded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.datasets import naming
from rdt_ros.episodes.hdf5 import open_for_reading
from rdt_ros.episodes.layout import COUNTS, NO_STAMP
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.jpeg import decode
from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S

OTHER_FORMAT = "not recorded by rdt_ros"
TRIMMED = ("trimmed_head", "trimmed_tail")  # attributes: steps that `trim` has cut off so far
COUNTED = (*(name for name, value in COUNTS.items() if isinstance(value, np.int64) and name != "steps"), *TRIMMED)
OPTIONAL = ("velocity", "effort", "leader", "command", "base", "poses")


@dataclass(frozen=True)
class CameraInfo:
    """One camera of an episode; `rate_hz` is of its own stamps, None where the file has none."""

    width: int
    height: int
    jpeg_quality: int | None
    rate_hz: float | None


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode. Rates and seconds come from stamps; None where the file has none."""

    path: str
    format: str
    robot: str
    state: str  # complete, interrupted or repaired
    steps: int
    seconds: float | None
    rate_hz: float | None
    control_rate_hz: float
    instruction: str
    action_source: str
    cameras: Mapping[str, CameraInfo]
    present: tuple[str, ...]
    absent: tuple[str, ...]
    colour_order: str
    counts: Mapping[str, int]  # those of `layout.COUNTS`, and the steps trimmed away
    size_bytes: int


@dataclass(frozen=True)
class Total:
    """All episodes of one instruction."""

    instruction: str
    episodes: int
    steps: int
    seconds: float
    size_bytes: int


def attributes(path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    with naming(str(path)), open_for_reading(path, unfinished=path.suffix == UNFINISHED) as file:
        return dict(file.attrs)


def is_ours(path: Path) -> bool:
    """Whether rdt_ros recorded it."""
    return attributes(path).get("format") == layout.FORMAT


def stamped(episode: EpisodeReader) -> bool:
    """False where the ticks are made up, because the file has no stamps."""
    own = is_ours(episode.path)
    return own or any(not np.array_equal(episode.ticks, stamps) for stamps in episode.content.stamps.values())


def describe(path: Path, robot: Robot | None = None, colour_order: str | None = None) -> EpisodeInfo:
    """What the file holds; `robot` and `colour_order` as for the reader."""
    with EpisodeReader(path, robot, colour_order=colour_order) as episode, naming(str(path)):
        content = episode.content
        said = attributes(path)
        ours = said.get("format") == layout.FORMAT
        present = [name for name in OPTIONAL if name == "poses" and content.poses or name in content.vectors]
        timed = len(episode) > 1 and stamped(episode)
        seconds = float(content.ticks[-1] - content.ticks[0]) / NS_PER_S if timed else None
        return EpisodeInfo(
            path=str(path),
            format=f"{layout.FORMAT} {said['format_version']}" if ours else OTHER_FORMAT,
            robot=content.robot.name,
            state="interrupted" if not content.complete else "repaired" if said.get("repaired") else "complete",
            steps=len(episode),
            seconds=seconds,
            rate_hz=(len(episode) - 1) / seconds if seconds else None,
            control_rate_hz=content.robot.control_rate_hz,
            instruction=episode.instruction,
            action_source=content.action_source,
            cameras={camera: _camera(episode, camera, timed) for camera in content.pictures},
            present=tuple(present),
            absent=tuple(name for name in OPTIONAL if name not in present),
            colour_order=str(said.get("colour_order", colour_order or "not recorded")),
            counts={name: int(said[name]) for name in COUNTED if name in said},
            size_bytes=path.stat().st_size,
        )


def totals(episodes: Iterable[EpisodeInfo]) -> list[Total]:
    """One row per instruction, the most frequent first; an episode without stamps counts at its control rate."""
    by_instruction: dict[str, list[EpisodeInfo]] = {}
    for episode in episodes:
        by_instruction.setdefault(episode.instruction, []).append(episode)
    rows = [
        Total(
            instruction=instruction,
            episodes=len(group),
            steps=sum(e.steps for e in group),
            seconds=sum(e.steps / e.control_rate_hz if e.seconds is None else e.seconds for e in group),
            size_bytes=sum(e.size_bytes for e in group),
        )
        for instruction, group in by_instruction.items()
    ]
    return sorted(rows, key=lambda total: (-total.episodes, total.instruction))


def as_json(episodes: list[EpisodeInfo]) -> dict[str, Any]:
    """The episodes and their totals as plain values."""
    return {
        "episodes": [dataclasses.asdict(episode) for episode in episodes],
        "instructions": [dataclasses.asdict(total) for total in totals(episodes)],
    }


def sheet(info: EpisodeInfo) -> str:
    """One episode for people: a line per fact."""
    rate = "no stamps, its robot's control rate is" if info.rate_hz is None else f"{info.rate_hz:.3f} Hz of"
    lines = {
        "episode": info.path,
        "format": f"{info.format}, {info.state}",
        "robot": info.robot,
        "instruction": info.instruction or "none",
        "steps": f"{info.steps}" + ("" if info.seconds is None else f" in {info.seconds:.2f} s"),
        "rate": f"{rate} {info.control_rate_hz:g} Hz",
        "action": f"from {info.action_source}",
        "has": ", ".join(["measured", *info.present]),
        "has no": ", ".join(info.absent) or "-",
    }
    for name, camera in info.cameras.items():
        parts = [f"{camera.width}x{camera.height}"]
        parts += [f"{camera.rate_hz:.2f} Hz"] if camera.rate_hz else []
        parts += [f"JPEG quality {camera.jpeg_quality}"] if camera.jpeg_quality else []
        lines[name] = ", ".join(parts)
    lines["colours"] = info.colour_order
    lines |= {name.replace("_", " "): str(value) for name, value in info.counts.items()}
    lines["size"] = _size(info.size_bytes)
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines.items())


def table(episodes: list[EpisodeInfo]) -> str:
    """Many episodes for people: a row each, then the totals per instruction."""
    rows = [("episode", "robot", "state", "steps", "seconds", "Hz", "lost", "cameras", "action", "size", "instruction")]
    for e, name in zip(episodes, _short_names(episodes), strict=True):
        sizes = {f"{c.width}x{c.height}" for c in e.cameras.values()}
        cameras = f"{len(e.cameras)} {'/'.join(sorted(sizes))}".strip()
        seconds, rate = _number(e.seconds, 2), _number(e.rate_hz, 2)
        lost = str(e.counts.get("steps_lost", "-"))
        facts = (str(e.steps), seconds, rate, lost, cameras, e.action_source, _size(e.size_bytes))
        rows.append((name, e.robot, e.state, *facts, e.instruction or "none"))
    sums = [("instruction", "episodes", "steps", "minutes", "size")]
    for t in totals(episodes):
        counts = (str(t.episodes), str(t.steps), f"{t.seconds / 60:.1f}", _size(t.size_bytes))
        sums.append((t.instruction or "none", *counts))
    return f"{_columns(rows)}\n\n{_columns(sums)}"


def _short_names(episodes: list[EpisodeInfo]) -> list[str]:
    """Their paths below the folder that all of them are in."""
    paths = [Path(episode.path).absolute() for episode in episodes]
    return [str(path.relative_to(os.path.commonpath([p.parent for p in paths]))) for path in paths]


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _camera(episode: EpisodeReader, camera: str, timed: bool) -> CameraInfo:
    if not len(episode):
        return CameraInfo(0, 0, None, None)
    first = episode.content.pictures[camera](0)
    height, width = decode(first, f"{episode.path}: {camera}").shape[:2]
    rate_hz = None
    if timed and f"camera/{camera}" in episode.content.stamps:
        values = episode.content.stamps[f"camera/{camera}"]
        own = np.unique(values[values != NO_STAMP])
        rate_hz = float((len(own) - 1) * NS_PER_S / (own[-1] - own[0])) if len(own) > 1 else None
    return CameraInfo(int(width), int(height), frames.quality(first), rate_hz)
