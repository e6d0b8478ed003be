"""Episodes and bags of any layout into any other, one after the other, each whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdt_ros.episodes import (
    agilex_format,
    aloha_format,
    bag_episode,
    bag_writer,
    instructions,
    own_format,
    reference_format,
)
from rdt_ros.episodes.bag import BagReader
from rdt_ros.episodes.content import Content, Track, untracked
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.sensing.synchroniser import SyncConfig
from rdt_ros.types import NS_PER_S

FORMATS = ("rdt_ros", "rdt-reference", "aloha", "agilex", "rosbag2")
AGILEX_ROBOT = "agilex_piper"  # in whose units AgileX's own reader takes the newer layout
EPISODE, BAGS, BAG_FOLDER = ".hdf5", (".mcap", ".db3"), "metadata.yaml"
RATE_TOLERANCE = 0.02
REENCODED = "pictures were decoded and encoded again"


@dataclass(frozen=True)
class Source:
    """Something to convert; `name` is where its result goes, relative to the output folder, without extension."""

    path: Path
    name: Path

    @property
    def is_bag(self) -> bool:
        """Whether it is a rosbag2."""
        return self.path.suffix != EPISODE


@dataclass(frozen=True)
class ConvertConfig:
    """How to read and what to write."""

    to: str  # one of FORMATS
    robot: str = ""  # name or file, for sources that do not say it
    colour_order: str | None = None  # of files that are not ours
    pictures: str = aloha_format.RAW  # of aloha: raw or padded
    storage: str = "mcap"  # of a bag
    instruction: str = ""  # for sources that have none
    action_source: str = "auto"  # of a bag: leader, command or auto
    max_skew_ms: float = SyncConfig.max_skew_ms  # of a bag


@dataclass(frozen=True)
class Converted:
    """One result, and what its user should know about it."""

    path: Path
    steps: int
    notes: tuple[str, ...]


def find_sources(paths: Iterable[Path]) -> list[Source]:
    """Episodes and bags named, or below a folder named. InputError where there is none, or two would have one name."""
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        below = _below(path) if path.is_dir() else [path]
        if not below:
            raise InputError(f"{path}: expected episodes (*{EPISODE}) or rosbag2 folders, found none")
        found += [Source(item, _name(item, path if path.is_dir() else path.parent)) for item in below]
    taken: dict[Path, Source] = {}
    for source in found:
        other = taken.setdefault(source.name, source)
        if other is not source:
            raise InputError(f"{source.path} and {other.path}: both would become {source.name}")
    return found


def convert(source: Source, out: Path, config: ConvertConfig, track: Track = untracked) -> Converted:
    """Converts one source; nothing is left of it where it fails. InputError names the source."""
    suffix = EPISODE if config.to in ("rdt_ros", "aloha") else ""
    target = out / source.name.with_name(source.name.name + suffix)
    if target.exists():
        raise InputError(f"{target}: exists already, nothing is overwritten")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target.parent}: could not be made: {error.strerror}") from None
    try:
        result = _Conversion(source, config, work, track).run(work / target.name)
        texts = instructions.path_for(work / target.name)
        if texts.parent == work and texts.exists():
            os.replace(texts, target.parent / texts.name)
        os.replace(work / target.name, target)
        return Converted(target, *result)
    except InputError as error:
        text = str(error)
        raise InputError(text if str(source.path) in text else f"{source.path}: {text}") from None
    except OSError as error:
        raise InputError(f"{target}: could not be written: {' '.join(str(error).split())[:160]}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Conversion:
    def __init__(self, source: Source, config: ConvertConfig, work: Path, track: Track) -> None:
        self._source, self._config, self._work, self._track = source, config, work, track
        self._robot = load_robot(config.robot) if config.robot else None
        self._notes: list[str] = []
        self._texts = instructions.beside(source.path)  # of the source, wherever it was converted to in between

    def run(self, target: Path) -> tuple[int, tuple[str, ...]]:
        """Writes the target; the number of its steps, and notes."""
        path = self._from_bag() if self._source.is_bag else self._source.path
        with EpisodeReader(path, self._robot, colour_order=self._config.colour_order) as reader:
            texts = self._texts or reader.instructions
            if not texts.original:
                texts = Instructions(self._config.instruction, texts.simplified, texts.expanded)
            steps = self._write(reader, target, texts)
            if self._config.to != "rdt-reference" and texts.has_more:
                instructions.save(instructions.path_for(target), texts)
        return steps, tuple(self._notes)

    def _from_bag(self) -> Path:
        """An episode of the bag."""
        robot = self._robot
        if robot is None:
            raise InputError("a bag does not say which robot it is of: expected --robot")
        path = self._work / "of_bag.hdf5"
        text = self._texts.original if self._texts else self._config.instruction
        with BagReader(self._source.path, robot) as reader:
            status = bag_episode.write_episode(
                reader,
                Header(robot, self._robot_text(), text or reader.instruction),
                path,
                action_source=self._config.action_source,
                max_skew_ms=self._config.max_skew_ms,
                track=self._track,
            )
        with EpisodeReader(path) as episode:
            self._notes.append(f"actions are those of the {episode.content.action_source} topics")
        self._notes += [f"{count} ticks given up: {reason}" for reason, count in status.reasons.items()]
        self._notes += [f"{s.refused} messages of {s.name} refused" for s in status.sources if s.refused]
        return path

    def _write(self, reader: EpisodeReader, target: Path, texts: Instructions) -> int:
        content, to = reader.content, self._config.to
        if to == "rdt-reference":
            content = self._as_robot(content, reference_format.ROBOT)
            self._notes.append(f"{REENCODED}: the reference expects red and blue exchanged")
            reference_format.write(target, target.name, content, texts, self._track)
        elif to == "agilex":
            content = self._as_robot(content, AGILEX_ROBOT)
            agilex_format.write(target, content, texts, self._track)
        elif to == "aloha":
            if self._config.pictures == aloha_format.PADDED:
                self._notes.append(f"{REENCODED}: the layout expects red and blue exchanged")
            content = dataclasses.replace(content, robot_text=self._robot_text(content))
            aloha_format.write(target, content, texts.original, self._config.pictures, self._track)
        else:
            self._write_ours(reader, target, texts.original)
        return len(content.ticks)

    def _write_ours(self, reader: EpisodeReader, target: Path, instruction: str) -> None:
        """An episode of ours, or a bag, which is written from one."""
        bag = self._config.to == "rosbag2"
        path = self._work / "for_bag.hdf5" if bag else target
        self._rate(reader.content, reader.robot.control_rate_hz)
        own_format.write(path, reader, self._robot_text(reader.content), instruction, self._track)
        if bag:
            bag_writer.write(target, path, storage=self._config.storage, track=self._track)

    def _as_robot(self, content: Content, name: str) -> Content:
        robot = load_robot(name)
        result = content.as_robot(robot, robot_path(name).read_text())
        left_out = len(content.robot.joints) - len(robot.joints)
        if left_out:
            self._notes.append(f"{left_out} joints left out: the layout has none for them")
        if len(result.ticks) != len(content.ticks):
            steps = len(content.ticks) - len(result.ticks)
            self._notes.append(f"{steps} steps at an end left out: their action is that of a step outside")
        self._rate(result, robot.control_rate_hz)
        return result

    def _rate(self, content: Content, expected_hz: float) -> None:
        """A note where the steps are not as far apart as their reader takes them to be."""
        if len(content.ticks) > 1:
            rate_hz = NS_PER_S / max(1.0, float(np.median(np.diff(content.ticks))))
            if abs(rate_hz / expected_hz - 1) > RATE_TOLERANCE:
                self._notes.append(f"recorded at {rate_hz:.1f} steps/s, its readers take it for {expected_hz:g}")

    def _robot_text(self, content: Content | None = None) -> str:
        """The robot file: the episode's own, or that of the robot given."""
        own = content.robot_text if content else ""
        return own or robot_path(self._config.robot).read_text()


def _below(folder: Path) -> list[Path]:
    """Episodes and bags in a folder, at any depth; a bag's own files are none."""
    if (folder / BAG_FOLDER).is_file():
        return [folder]
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            found += _below(path)
        elif path.suffix in (EPISODE, *BAGS):
            found.append(path)
    return found


def _name(path: Path, root: Path) -> Path:
    """A file that is called like all of its kind has the name of its folder."""
    if path.name == agilex_format.FILE:
        path = path.parent
    relative = path.relative_to(root) if path != root else Path(path.resolve().name)
    return relative.with_suffix("") if relative.suffix in (EPISODE, *BAGS) else relative
