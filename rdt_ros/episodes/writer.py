"""Writes one episode while it happens: bounded memory, durable on a schedule, readable after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.layout import COUNTS, Header, Layout
from rdt_ros.episodes.recording import Step
from rdt_ros.errors import InputError
from rdt_ros.types import Observation, Picture

UNFINISHED = ".partial"


def unfinished_path(path: Path) -> Path:
    """Where an episode is written until it is finished."""
    return path.with_name(path.name + UNFINISHED)


class EpisodeWriter:
    """One episode, written to `<path>.partial` and renamed to `path` by `finish`.

    The file is in HDF5's single-writer mode: whatever moment the process is killed at, it opens and holds every step
    of the last `flush`. Pictures go to the file at once, the small rest at each flush, the ticks last, so a step counts
    only when all of it is on disk. A file is never overwritten, and a second writer of the same one is refused.

    Raises InputError where the file cannot be made or written (full disk), or a step does not fit the first one.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        flush_period_s: float = 0.5,
        unfinished: Path | None = None,
        steady_s: Callable[[], float] = time.monotonic,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        self.path = path
        self.unfinished = unfinished or unfinished_path(path)
        self.steps = 0  # added
        self.durable_steps = 0
        self.flushes = 0
        self.fsyncs = 0
        self.worst_flush_s = 0.0
        self.pictures_reencoded = 0
        self.missing: Counter[str] = Counter()  # source of the first step -> steps without it, stored as absent
        self.late: Counter[str] = Counter()  # source that the first step had not -> steps that it is not stored in
        self._fsync = fsync
        self._header, self._period_s, self._steady_s = header, flush_period_s, steady_s
        self._flushed_s = steady_s()
        self._file: h5py.File | None = None
        self._layout: Layout | None = None
        self._images: dict[str, h5py.Dataset] = {}
        self._rows: dict[str, list[Any]] = {}
        self._ticks: list[int] = []
        if path.exists():
            raise InputError(f"{path}: exists already, an episode is never overwritten")
        self._failure = ""  # why nothing more can be written
        self._lock = _create(self.unfinished)

    def add(self, step: Step) -> None:
        """Appends a step; flushes when it is time."""
        with self._writing():
            if self._layout is None:
                structure = Layout.of((step.observation, step.decided_by), self._capacities(step))
                self._begin(structure, step)
            self._add(step)
        self.poll()

    def begin(self, structure: Layout, first: Step) -> None:
        """Makes the file with a known structure instead of that of the first step, which is still to be added."""
        with self._writing():
            self._begin(structure, first)

    def poll(self) -> None:
        """Flushes when it is time; to be called now and then while no step arrives.

        The first step is flushed at once: from then on the file can be repaired.
        """
        if self._ticks and (not self.durable_steps or self._steady_s() - self._flushed_s >= self._period_s):
            self.flush()

    def flush(self) -> None:
        """Makes all steps durable: data first, then the ticks that make them count."""
        if self._file is None or not self._ticks:
            return
        with self._writing():
            began_s, start, stop = self._steady_s(), self.durable_steps, self.steps
            for path, values in self._rows.items():
                _append(self._file[path], start, stop, values)
                values.clear()
            self._sync()
            _append(self._file[layout.TICK], start, stop, self._ticks)
            self._ticks.clear()
            self.flushes += 1
            self.durable_steps = stop
            self._count(steps=stop, flushes=self.flushes, pictures_reencoded=self.pictures_reencoded)
            self._sync()
            self._flushed_s = self._steady_s()
            self.worst_flush_s = max(self.worst_flush_s, self._flushed_s - began_s)

    @property
    def size_bytes(self) -> int:
        """Of the file; 0 once it is closed."""
        return os.fstat(self._lock).st_size if self._lock >= 0 else 0

    def finish(self, **counts: int | bool) -> Path | None:
        """Completes the file under its name, with these of `layout.COUNTS`; None, and no file, where it has no step."""
        self.flush()
        if self._failure:
            raise InputError(self._failure)
        if self._file is None:
            self.discard()
            return None
        if self.path.exists():
            self._abandon()
            self._failure = f"{self.path}: exists already, the episode stays in {self.unfinished.name}"
            raise InputError(self._failure)
        with self._writing():
            self._count(complete=True, **counts)
            self._sync()
            self._file.close()
            self._sync_descriptor(self._lock)
            self.unfinished.rename(self.path)
            self._sync_folder(self.path.parent)
        self._abandon()
        return self.path

    def discard(self) -> None:
        """Removes the file."""
        self._abandon()
        self.unfinished.unlink(missing_ok=True)

    def _begin(self, structure: Layout, first: Step) -> None:
        pictures = first.observation.pictures
        attributes = layout.attributes(
            self._header,
            structure,
            action_source=first.action_source,
            jpeg_quality=frames.quality(pictures[0].jpeg) if pictures else None,
        )
        file = h5py.File(self.unfinished, "w", libver=layout.LIBRARY_VERSIONS, locking=False)
        self._file, self._layout = file, structure
        structure.create(file)
        file[layout.INSTRUCTION] = self._header.instruction
        for name, value in {**attributes, **COUNTS}.items():
            file.attrs[name] = value
        file.swmr_mode = True
        self._images = {camera: file[layout.image_path(camera)] for camera in structure.cameras}
        self._rows = {path: [] for path in [*structure.widths(), *map(layout.stamp_path, structure.sources)]}
        self._sync()

    def _capacities(self, step: Step) -> dict[str, int]:
        pixels = {camera.name: camera.width * camera.height for camera in self._header.robot.cameras}
        for picture in step.observation.pictures:
            if picture.camera not in pixels:
                raise InputError(f"{picture.camera}: expected a camera of robot {self._header.robot.name}")
        return {p.camera: frames.capacity(pixels[p.camera], p.jpeg) for p in step.observation.pictures}

    def _add(self, step: Step) -> None:
        assert self._layout is not None
        observation = step.observation
        _check(observation, self._header.robot.name, self._layout)
        chunks = {p.camera: self._chunk(p, self._layout.cameras[p.camera]) for p in observation.pictures}
        for camera, chunk in chunks.items():
            images = self._images[camera]
            images.resize(self.steps + 1, axis=0)
            images.id.write_direct_chunk((self.steps,), chunk)
        for path, value in self._layout.row(observation, step.action).items():
            self._rows[path].append(value)
        self._compare(observation, self._layout)
        self._ticks.append(observation.stamp_ns)
        self.steps += 1

    def _chunk(self, picture: Picture, limit: int) -> bytes:
        jpeg = frames.stored(picture.jpeg, picture.camera)
        if len(jpeg) > limit:
            jpeg = frames.smaller(jpeg, limit, picture.camera)
            self.pictures_reencoded += 1
        return frames.packed(jpeg, limit)

    def _compare(self, observation: Observation, structure: Layout) -> None:
        """Counts what differs from the first step, which has fixed what the file has room for."""
        given = {name for name in layout.VECTORS if getattr(observation, name) is not None}
        given |= {f"pose {name}" for name in observation.poses}
        expected = {*structure.vectors, *(f"pose {name}" for name in structure.poses)}
        self.missing.update(expected - given)
        self.late.update(given - expected)

    def _count(self, **counts: int | bool) -> None:
        assert self._file is not None
        for name, value in counts.items():
            self._file.attrs.modify(name, type(COUNTS[name])(value))

    def _sync(self) -> None:
        assert self._file is not None
        self._file.flush()
        self._sync_descriptor(self._lock)

    def _sync_folder(self, folder: Path) -> None:
        """Makes a rename durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._sync_descriptor(descriptor)
        finally:
            os.close(descriptor)

    def _sync_descriptor(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self.fsyncs += 1

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what HDF5 and the system raise into one line, and lets the file go as it was at the last flush."""
        if self._failure:
            raise InputError(self._failure)
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._abandon()
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else " ".join(str(error).split())[:200]
            self._failure = f"{self.unfinished}: could not write: {reason}; {self.durable_steps} steps are safe in it"
            raise InputError(self._failure) from None

    def _abandon(self) -> None:
        """Lets go of the file as it is."""
        if self._file is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._file.close()
            self._file = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def locked_by_writer(descriptor: int) -> bool:
    """True while a living writer has the open file; otherwise the caller has it from now on."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _create(path: Path) -> int:
    """Makes the file and marks it as being written as long as the descriptor is open."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        raise InputError(_why_taken(path)) from None
    except OSError as error:
        raise InputError(f"{path}: could not be made: {error.strerror}") from None
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # shared, so that a reader that locks the file may look at it meanwhile
    return descriptor


def _why_taken(path: Path) -> str:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if locked_by_writer(descriptor):
                return f"{path}: another recorder is writing it"
        finally:
            os.close(descriptor)
    return f"{path}: an interrupted recording is there; repair it or move it away first"


def _check(observation: Observation, robot: str, structure: Layout) -> None:
    if observation.robot != robot:
        raise InputError(f"observation: expected robot {robot}, found {observation.robot}")
    if len(observation.joint_names) != structure.joints:
        raise InputError(f"observation: expected {structure.joints} joints, found {len(observation.joint_names)}")
    cameras = [picture.camera for picture in observation.pictures]
    if cameras != list(structure.cameras):
        raise InputError(
            f"observation: expected pictures of {', '.join(structure.cameras)}, found {', '.join(cameras)}"
        )


def _append(dataset: h5py.Dataset, start: int, stop: int, values: list[Any]) -> None:
    dataset.resize(stop, axis=0)
    dataset[start:stop] = np.asarray(values, dataset.dtype)
