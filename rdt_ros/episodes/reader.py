"""Reads an episode: ours exactly as it was recorded, and files of ALOHA's and AgileX's layouts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import yaml

from rdt_ros.episodes import agilex_format, foreign, frames, instructions, layout
from rdt_ros.episodes.content import Content
from rdt_ros.episodes.datasets import DAMAGE, ROBOT_FILE, dataset, naming, text
from rdt_ros.episodes.hdf5 import check_heaps, has_variable_data, open_for_reading
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot, parse_robot
from rdt_ros.types import Observation, Picture


class EpisodeReader:
    """One episode: small arrays at once, pictures when asked for. Use it as a context manager.

    A file that is still being written, or whose recording was interrupted, gives its durable steps. `robot` is needed
    for files that are not ours and do not say it; `colour_order` is theirs too (`rdt_ros.episodes.foreign`). InputError
    for a file that is broken, cut short, or no episode.
    """

    def __init__(self, path: str | Path, robot: Robot | None = None, *, colour_order: str | None = None) -> None:
        self.path = Path(path)
        with _reading(self.path):
            self._file = open_for_reading(self.path, unfinished=self.path.suffix == UNFINISHED)
        try:
            with _reading(self.path):
                self.content = _content(self._file, robot, colour_order)
        except InputError:
            self.close()
            raise

    def __enter__(self) -> EpisodeReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.content.ticks)

    @property
    def robot(self) -> Robot:
        """The robot that it was recorded with."""
        return self.content.robot

    @property
    def instruction(self) -> str:
        """What was being done; may be empty. What stands beside the episode comes before what stands in it."""
        return self.instructions.original

    @cached_property
    def instructions(self) -> Instructions:
        """The same in several wordings; InputError where the file beside the episode is broken."""
        own = Instructions(self.content.instruction, expanded=self.content.other_instructions)
        return instructions.beside(self.path) or own

    @property
    def ticks(self) -> np.ndarray:
        """(N,) int64 ns: stamp of each Observation."""
        return self.content.ticks

    @property
    def actions(self) -> np.ndarray:
        """(N, J) float32, rad or opening: the command in force `action_offset_steps` ticks after each Observation."""
        return self.content.action

    @property
    def complete(self) -> bool:
        """False where the recording was interrupted and not repaired."""
        return self.content.complete

    def observations(self) -> Iterator[Observation]:
        """Every Observation, bit by bit the one that was recorded."""
        return (self.observation(step) for step in range(len(self)))

    def observation(self, step: int) -> Observation:
        """The Observation of one step."""
        content = self.content
        tick = int(content.ticks[step])
        stamps = {name: int(values[step]) for name, values in content.stamps.items()}
        with _reading(self.path):
            pictures = tuple(
                Picture(camera, stamps.get(f"camera/{camera}", tick), jpeg(step))
                for camera, jpeg in content.pictures.items()
            )
        vectors = {name: _row(values[step]) for name, values in content.vectors.items()}
        poses = {name: _row(values[step]) for name, values in content.poses.items()}
        return Observation(
            stamp_ns=tick,
            robot=content.robot.name,
            pictures=pictures,
            joint_names=content.robot.joint_names,
            **vectors,  # type: ignore[arg-type]
            poses={name: pose for name, pose in poses.items() if pose is not None},
            source_stamps_ns={name: stamp for name, stamp in stamps.items() if stamp != layout.NO_STAMP},
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def stored_instruction(path: Path) -> str:
    """What stands in an episode's file, without a look at what stands beside it; needs no robot."""
    with _reading(path), h5py.File(path, "r", locking=False) as file:
        return text(file, layout.INSTRUCTION)


def _row(values: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(values).all() else values


def _content(file: h5py.File, robot: Robot | None, colour_order: str | None) -> Content:
    if file.attrs.get("format") == layout.FORMAT:
        return _own(file)
    if has_variable_data(file):
        check_heaps(Path(file.filename))
    read = agilex_format.read if agilex_format.recognises(file) else foreign.read
    if read is foreign.read and layout.VECTORS["measured"] not in file:
        raise InputError(f"no episode: missing {layout.VECTORS['measured']}")
    robot_text = str(file.attrs.get(ROBOT_FILE, ""))  # a file that was converted by us says whose units it has
    if robot is None and not robot_text:
        raise InputError("not recorded by rdt_ros: say which robot it is of")
    if robot is not None:
        return read(file, robot, colour_order)
    return dataclasses.replace(read(file, _robot(robot_text), colour_order), robot_text=robot_text)


@lru_cache(maxsize=16)  # parsing takes longer than opening the file, and a data set holds one robot file many times
def _robot(text: str) -> Robot:
    return parse_robot(yaml.safe_load(text), ROBOT_FILE)


def _own(file: h5py.File) -> Content:
    version = int(_attribute(file, "format_version"))
    if version != layout.FORMAT_VERSION:
        raise InputError(f"format_version: expected {layout.FORMAT_VERSION}, found {version}")
    robot_text = str(_attribute(file, ROBOT_FILE))
    robot = _robot(robot_text)
    unfinished = str(file.filename).endswith(UNFINISHED)
    ticks = _stamps(file, layout.TICK)
    if unfinished:
        ticks = ticks[: _leading(ticks != layout.NO_STAMP)]
    steps, joints = len(ticks), len(robot.joints)

    def rows(path: str, columns: int) -> np.ndarray:
        found = dataset(file, path)
        if found.shape[1:] != (columns,) or not (len(found) == steps or unfinished and len(found) > steps):
            raise InputError(f"{path}: expected shape ({steps}, {columns}), found {found.shape}")
        if found.dtype != np.float32:
            raise InputError(f"{path}: expected float32, found {found.dtype}")
        with naming(path):
            return found[:steps]

    def stamps(source: str) -> np.ndarray:
        found = _stamps(file, layout.stamp_path(source))
        if len(found) < steps:
            raise InputError(f"{layout.stamp_path(source)}: expected {steps} stamps, found {len(found)}")
        return found[:steps]

    dataset(file, layout.VECTORS["measured"])  # the one vector that every episode has
    widths = {name: layout.BASE_WIDTH if name == "base" else joints for name in layout.VECTORS}
    return Content(
        robot=robot,
        robot_text=robot_text,
        instruction=text(file, layout.INSTRUCTION),
        ticks=ticks,
        action=rows(layout.ACTION, joints),
        vectors={name: rows(path, widths[name]) for name, path in layout.VECTORS.items() if path in file},
        pictures={camera: _pictures(file, layout.image_path(camera), steps) for camera in _texts(file, "cameras")},
        poses={name: rows(layout.pose_path(name), layout.POSE_WIDTH) for name in _texts(file, "poses")},
        stamps={source: stamps(source) for source in _texts(file, "sources")},
        action_source=str(_attribute(file, "action_source")),
        complete=bool(_attribute(file, "complete")) and not unfinished,
    )


def _stamps(file: h5py.File, path: str) -> np.ndarray:
    found = dataset(file, path)
    if found.ndim != 1 or found.dtype != np.int64:
        raise InputError(f"{path}: expected int64 stamps, found {found.dtype} {found.shape}")
    with naming(path):
        return found[()]


def _attribute(file: h5py.File, name: str) -> Any:
    if name not in file.attrs:
        raise InputError(f"an incomplete episode: missing attribute {name}")
    return file.attrs[name]


def _texts(file: h5py.File, name: str) -> list[str]:
    values = _attribute(file, name)
    return [] if isinstance(values, h5py.Empty) else [str(value) for value in values]


def _leading(valid: np.ndarray) -> int:
    """How many are true from the start on."""
    return len(valid) if valid.all() else int(np.argmin(valid))


def _pictures(file: h5py.File, path: str, steps: int) -> Callable[[int], bytes]:
    images = dataset(file, path)
    if images.ndim != 1 or images.dtype.kind != "S" or len(images) < steps:
        raise InputError(f"{images.name}: expected {steps} JPEG frames, found {images.dtype} {images.shape}")

    def frame(step: int) -> bytes:
        with naming(f"{images.name}[{step}]"):
            return frames.stored(bytes(images[step]), images.name)

    return frame


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what a broken file makes HDF5 raise into one line with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except KeyError as error:
        raise InputError(f"{path}: an incomplete episode: {' '.join(str(error.args[0]).split())[:160]}") from None
    except (*DAMAGE, yaml.YAMLError) as error:
        raise InputError(f"{path}: no readable HDF5 episode: {' '.join(str(error).split())[:160]}") from None
