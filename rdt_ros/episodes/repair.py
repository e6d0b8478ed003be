"""Finishes an interrupted recording."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.hdf5 import open_for_reading
from rdt_ros.episodes.layout import Header, Layout
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recording import Step
from rdt_ros.episodes.writer import UNFINISHED, EpisodeWriter, locked_by_writer
from rdt_ros.errors import InputError

REPAIRING = ".repairing"


def repair(unfinished: Path) -> Path:
    """Copies every durable step of a `.partial` file to the finished episode, removes the partial, returns the episode.

    InputError where the file is being written, holds no step, or its episode exists already.
    """
    if unfinished.suffix != UNFINISHED:
        raise InputError(f"{unfinished}: expected an interrupted recording, named *{UNFINISHED}")
    path = unfinished.with_suffix("")
    scratch = path.with_name(path.name + REPAIRING)
    try:
        descriptor = os.open(unfinished, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{unfinished}: {error.strerror}") from None
    try:
        if locked_by_writer(descriptor):
            raise InputError(f"{unfinished}: a recorder is writing it")
        if not os.fstat(descriptor).st_size:
            raise InputError(f"{unfinished}: interrupted before its first step, nothing to repair")
        scratch.unlink(missing_ok=True)  # of a repair that was itself interrupted
        try:
            _copy(unfinished, path, scratch)
        except InputError:
            scratch.unlink(missing_ok=True)  # on a full disk it would take the last room
            raise
        unfinished.unlink()
    finally:
        os.close(descriptor)
    return path


def _copy(unfinished: Path, path: Path, scratch: Path) -> None:
    with EpisodeReader(unfinished) as episode, open_for_reading(unfinished, unfinished=True) as file:
        content = episode.content
        images = {camera: file[layout.image_path(camera)] for camera in content.pictures}
        steps = min([len(episode), *map(_undamaged, images.values())])
        if not steps:
            raise InputError(f"{unfinished}: interrupted before its first durable step, nothing to repair")
        structure = Layout(
            cameras={camera: dataset.dtype.itemsize for camera, dataset in images.items()},
            joints=len(content.robot.joints),
            vectors=tuple(content.vectors),
            poses=tuple(content.poses),
            sources=tuple(content.stamps),
        )
        header = Header(content.robot, content.robot_text, content.instruction)
        writer = EpisodeWriter(path, header, unfinished=scratch)
        for step in range(steps):
            observation = episode.observation(step)
            row = Step(observation, episode.actions[step], content.action_source, observation)
            if not step:
                writer.begin(structure, row)
            writer.add(row)
        ticks = round((episode.ticks[steps - 1] - episode.ticks[0]) / content.robot.period_ns) + 1
        writer.finish(repaired=True, steps_lost=int(ticks - steps))


def _undamaged(images: h5py.Dataset) -> int:
    """How many pictures from the start on are whole."""
    for step in range(len(images)):
        try:
            _, chunk = images.id.read_direct_chunk((step,))
        except (OSError, RuntimeError):
            return step
        if frames.unpacked(chunk, images.dtype.itemsize) is None:
            return step
    return len(images)
