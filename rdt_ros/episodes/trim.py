"""Cuts steps off the ends of an episode. Pictures are copied as the bytes that they are, never encoded again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from rdt_ros.episodes import layout
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.hdf5 import open_for_reading
from rdt_ros.episodes.info import TRIMMED, is_ours
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.options import check, option
from rdt_ros.types import NS_PER_S

TRIMMING = ".trimming"


@dataclass(frozen=True)
class StillEnds:
    """When an end counts as still, and how much of it stays."""

    moved_rad: float = option(
        Thresholds().moved_rad, unit="rad", low=0, doc="distance from the first or last pose that counts as motion"
    )
    margin_s: float = option(0.5, unit="s", low=0, doc="time kept before the first motion and after the last")

    def __post_init__(self) -> None:
        check(self, "trim")


@dataclass(frozen=True)
class Cut:
    """The steps that stay: from `start` on, before `stop`."""

    start: int
    stop: int
    steps: int  # of the whole episode

    @property
    def nothing(self) -> bool:
        """Whether all steps stay."""
        return (self.start, self.stop) == (0, self.steps)


def still_ends(episode: EpisodeReader, ends: StillEnds) -> Cut:
    """What stays without the ends in which nothing moves: no measured joint, no commanded one, no base.

    InputError where nothing moves at all.
    """
    _require_ours(episode)
    steps = len(episode)
    content = episode.content
    poses = np.hstack([content.vectors["measured"], content.action])
    moving = np.zeros(steps, bool)
    if "base" in content.vectors:
        moving = (np.abs(content.vectors["base"]) > ends.moved_rad).any(axis=1)
    # a value that is not there moves nothing: NaN compares as false
    after_start = moving | (np.abs(poses - poses[:1]) > ends.moved_rad).any(axis=1)
    before_end = moving | (np.abs(poses - poses[-1:]) > ends.moved_rad).any(axis=1)
    if not after_start.any():
        raise InputError(
            f"{episode.path}: expected motion beyond {ends.moved_rad:g} rad, found none: all of it is still"
        )
    margin_ns = round(ends.margin_s * NS_PER_S)
    first, last = int(np.argmax(after_start)), steps - 1 - int(np.argmax(before_end[::-1]))
    start = int(np.searchsorted(episode.ticks, episode.ticks[first] - margin_ns))
    stop = int(np.searchsorted(episode.ticks, episode.ticks[last] + margin_ns, side="right"))
    return Cut(start, stop, steps)


def between(episode: EpisodeReader, first: str | None, end: str | None) -> Cut:
    """What stays between two places, each a step (`120`) or seconds since the first step (`4.8s`); `end` is left out.

    InputError for a place that cannot be read or is outside, and where no step stays.
    """
    _require_ours(episode)
    start = 0 if first is None else _step(episode, "--from", first)
    stop = len(episode) if end is None else _step(episode, "--to", end)
    if not start < stop:
        raise InputError(f"{episode.path}: expected --from before --to, found steps {start} and {stop}")
    return Cut(start, stop, len(episode))


def write_trimmed(episode: EpisodeReader, cut: Cut, path: Path, *, overwrite: bool = False) -> None:
    """Writes what stays to `path`, whole or not at all; with `overwrite` in the place of what is there.

    Every step keeps its bytes, its stamps and its action. InputError where the file exists or cannot be written.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already")
    scratch = path.with_name(path.name + TRIMMING)
    try:
        with (
            open_for_reading(episode.path, unfinished=False) as source,
            h5py.File(scratch, "w", libver=layout.LIBRARY_VERSIONS, locking=False) as target,
        ):
            _copy(source, target, cut, episode)
        _sync(scratch)
        os.replace(scratch, path)
        _sync(path.parent)
    except (OSError, RuntimeError, ValueError) as error:  # what HDF5 raises
        raise InputError(f"{path}: could not be made: {' '.join(str(error).split())[:160]}") from None
    finally:
        scratch.unlink(missing_ok=True)


def _require_ours(episode: EpisodeReader) -> None:
    if episode.path.suffix == UNFINISHED:
        raise InputError(f"{episode.path}: an interrupted recording: first `rdt episodes check --repair` it")
    if not is_ours(episode.path):
        raise InputError(f"{episode.path}: not recorded by rdt_ros: first `rdt episodes convert` it")


def _step(episode: EpisodeReader, option_name: str, place: str) -> int:
    """The step of a place, from 0 to the number of steps."""
    try:
        if place.endswith("s"):
            tick = episode.ticks[0] + round(float(place[:-1]) * NS_PER_S)
            step = int(np.searchsorted(episode.ticks, tick)) if tick >= episode.ticks[0] else -1
        else:
            step = int(place)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option_name}: expected a step such as 120 or seconds such as 4.8s, found {place!r}"
        ) from None
    if not 0 <= step <= len(episode):
        raise InputError(
            f"{episode.path}: {option_name}: expected a place within 0 to {len(episode)} steps, found {place}"
        )
    return step


def _copy(source: h5py.File, target: h5py.File, cut: Cut, episode: EpisodeReader) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            target.require_group(name).attrs.update(item.attrs)
        elif item.ndim and len(item) == cut.steps:
            _copy_steps(item, target, name, cut)
        else:
            source.copy(item, target, name)

    source.visititems(visit)
    kept = cut.stop - cut.start
    span_ns = episode.ticks[cut.stop - 1] - episode.ticks[cut.start]
    cut_off = dict(zip(TRIMMED, (cut.start, cut.steps - cut.stop), strict=True))
    target.attrs.update({name: np.int64(source.attrs.get(name, 0) + steps) for name, steps in cut_off.items()})
    target.attrs["steps"] = np.int64(kept)
    target.attrs["steps_lost"] = np.int64(round(span_ns / episode.robot.period_ns) + 1 - kept)


def _copy_steps(dataset: h5py.Dataset, target: h5py.File, name: str, cut: Cut) -> None:
    """The rows that stay; where a step is a chunk of its own, as pictures are, the chunk as it lies in the file."""
    shape = (cut.stop - cut.start, *dataset.shape[1:])
    copy = target.create_dataset(
        name,
        shape,
        dataset.dtype,
        maxshape=dataset.maxshape,
        chunks=dataset.chunks,
        compression=dataset.compression,
        compression_opts=dataset.compression_opts,
        fillvalue=None if dataset.dtype.kind == "S" else dataset.fillvalue,  # a picture's would be too large
    )
    copy.attrs.update(dataset.attrs)
    if dataset.chunks != (1,):
        copy[...] = dataset[cut.start : cut.stop]
        return
    for step in range(cut.start, cut.stop):
        filters, chunk = dataset.id.read_direct_chunk((step,))
        copy.id.write_direct_chunk((step - cut.start,), chunk, filters)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
