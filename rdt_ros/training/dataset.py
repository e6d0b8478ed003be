"""A data set: a folder of episodes, scanned once; each episode's vectors in memory, its pictures in the file."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rdt_ros import options
from rdt_ros.episodes import instructions, units
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.robot.vector import SLOTS, VECTOR_SIZE
from rdt_ros.training.config import DatasetConfig, SampleConfig
from rdt_ros.training.pictures import FrameSource
from rdt_ros.training.statistics import (
    StateAccumulator,
    StateStatistics,
    read_statistics,
    statistics_from_json,
)

SUFFIXES = (".hdf5", ".h5")
LISTED = 5  # reasons in a refusal


@dataclass(frozen=True, eq=False)
class Episode:
    """One usable episode. Steps before `start` are not drawn: nothing moves in them."""

    source: FrameSource
    cameras: tuple[str, ...]  # those that it has pictures of
    measured: np.ndarray  # (N, J) float32, rad or opening
    actions: np.ndarray  # (N, J) float32
    start: int
    instructions: Instructions

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def usable(self) -> int:
        """Steps that are drawn from."""
        return len(self.measured) - self.start

    @cached_property
    def state_std(self) -> np.ndarray:
        """(J,) float64, over all steps."""
        return self.measured.std(0, dtype=float)

    @cached_property
    def state_norm(self) -> np.ndarray:
        """(J,) float64: root of the mean square over all steps."""
        return np.sqrt(np.mean(self.measured.astype(float) ** 2, 0))

    @cached_property
    def wordings(self) -> tuple[tuple[str, ...], ...]:
        """The instruction as it is, simplified, and expanded; what there is none of is the original."""
        told = self.instructions
        return (told.original,), told.simplified or (told.original,), told.expanded or (told.original,)

    def states(self) -> np.ndarray:
        """(usable, 128) float64: the unified vector of each step that is drawn from."""
        return unified(self.measured[self.start :], self.source.robot)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, split. `left_out` says of each file that gives no samples why."""

    config: DatasetConfig
    name: str
    robot: Robot
    train: tuple[Episode, ...]
    held_out: tuple[Episode, ...]
    left_out: tuple[str, ...]
    statistics: StateStatistics  # of the states of all usable episodes

    @property
    def rate_hz(self) -> float:
        """Control frequency that the network is told."""
        return self.config.control_rate_hz or self.robot.control_rate_hz

    def __str__(self) -> str:
        """A line on what it has, and one for each file left out."""
        episodes = self.train + self.held_out
        steps = sum(episode.usable for episode in episodes)
        head = (
            f"{self.name}: {self.robot.name}, {len(episodes)} episodes ({len(self.held_out)} held out), {steps} steps"
        )
        return "\n  left out: ".join([head, *self.left_out])


def open_dataset(config: DatasetConfig, sample: SampleConfig, *, progress: bool = False) -> Dataset:
    """Reads the vectors of every episode once. Short and motionless episodes are left out and named."""
    folder = Path(config.path)
    if not folder.is_dir():
        raise InputError(f"data set {config.path!r}: expected a folder of episodes, found none")
    name = config.name or folder.resolve().name
    options.check(config, f"data set {name}")
    robot = load_robot(config.robot) if config.robot else None
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if not paths:
        raise InputError(f"data set {name}: expected episodes (*.hdf5) in {folder}, found none")
    episodes: list[Episode] = []
    left_out: list[str] = []
    states = StateAccumulator()
    for path in tqdm(paths, name, unit="episode", disable=not progress):
        try:
            episode = _read(path, robot, config, sample)
        except InputError as error:
            if config.corrupt == "refuse" and not isinstance(error, _NothingToLearnError):
                raise
            left_out.append(str(error))
            continue
        if episodes:
            _check_same_robot(episodes[0], episode)
        episodes.append(episode)
        states.add(episode.states())
    if not episodes:
        reasons = "; ".join(left_out[:LISTED]) + (f"; and {len(left_out) - LISTED} more" if left_out[LISTED:] else "")
        raise InputError(f"data set {name}: expected a usable episode among {len(paths)}, found none: {reasons}")
    held_out = _held_out(episodes, folder, config, name)
    statistics = states.result(name)
    if config.statistics:
        statistics = statistics_from_json(
            read_statistics(config.statistics), name, f"statistics {config.statistics}"
        ).covering(statistics)
    return Dataset(
        config,
        name,
        episodes[0].source.robot,
        tuple(episode for episode in episodes if episode not in held_out),
        tuple(held_out),
        tuple(left_out),
        statistics,
    )


def unified(joints: np.ndarray, robot: Robot) -> np.ndarray:
    """(..., J) of a robot -> (..., 128) float64, zero where the robot has nothing."""
    vector = np.zeros((*joints.shape[:-1], VECTOR_SIZE))
    vector[..., slots(robot)] = joints
    return vector


def slots(robot: Robot) -> list[int]:
    """Where its joint positions stand in the unified vector."""
    return [SLOTS[channel] for channel in robot.channels]


def first_motion(measured: np.ndarray, robot: Robot, threshold: float) -> int | None:
    """The first step at which a joint is further than `threshold`, in the robot's own units, from the first step."""
    raw = units.to_robot(robot, "measured", measured)
    moved = (np.abs(raw - raw[0]) > threshold).any(1)
    return int(moved.argmax()) if moved.any() else None


class _NothingToLearnError(InputError):
    """An episode that is as it should be, but too short or motionless."""


def _read(path: Path, robot: Robot | None, config: DatasetConfig, sample: SampleConfig) -> Episode:
    with EpisodeReader(path, robot, colour_order=config.colour_order or None) as reader:
        content, told = reader.content, reader.instructions
    if "measured" not in content.vectors:
        raise InputError(f"{path}: expected measured joints, found none")
    measured, actions = content.vectors["measured"], content.action
    for what, values in (("measured position", measured), ("action", actions)):
        if not np.isfinite(values).all():
            step, joint = np.argwhere(~np.isfinite(values))[0]
            found = f"{values[step, joint]} of {content.robot.joint_names[joint]}"
            raise InputError(f"{path}: step {step}: expected a finite {what}, found {found}")
    if len(measured) < sample.min_steps:
        raise _NothingToLearnError(f"{path}: expected at least {sample.min_steps} steps, found {len(measured)}")
    motion = first_motion(measured, content.robot, sample.motion_threshold)
    if motion is None:
        raise _NothingToLearnError(f"{path}: expected a joint that moves by {sample.motion_threshold:g}, found none")
    if not told.original.strip():
        where = instructions.path_for(path.parent)
        raise InputError(f"{path}: expected an instruction, found none; it may stand in {where}")
    return Episode(
        source=FrameSource(path, content.robot, config.colour_order),
        cameras=tuple(content.pictures),
        measured=np.asarray(measured, np.float32),
        actions=np.asarray(actions, np.float32),
        start=motion - 1,  # the first step never differs from itself
        instructions=told,
    )


def _check_same_robot(first: Episode, other: Episode) -> None:
    known, found = first.source.robot, other.source.robot
    if (known.name, known.channels) != (found.name, found.channels):
        raise InputError(
            f"{other.path}: expected robot {known.name} as in {first.path}, found {found.name}; "
            "a data set is of one robot, a mixture may have several sets"
        )


def _held_out(episodes: Sequence[Episode], folder: Path, config: DatasetConfig, name: str) -> list[Episode]:
    """Those that are named, and as many more as the fraction asks for; the same whatever the folder's place."""
    names = {episode.path.relative_to(folder).as_posix(): episode for episode in episodes}
    chosen = set()
    for pattern in config.held_out:
        found = fnmatch.filter(names, pattern) or fnmatch.filter(names, f"*/{pattern}")
        if not found:
            raise InputError(f"data set {name}: held_out: expected an episode {pattern!r} in {folder}, found none")
        chosen |= set(found)
    count = max(1, round(config.held_out_fraction * len(names))) if config.held_out_fraction else 0
    by_hash = sorted(names.keys() - chosen, key=lambda file: hashlib.sha256(file.encode()).digest())
    chosen |= set(by_hash[: max(0, count - len(chosen))])
    if len(chosen) == len(names):
        raise InputError(f"data set {name}: held_out: expected an episode to train on, found all {len(names)} held out")
    return [episode for file, episode in names.items() if file in chosen]
