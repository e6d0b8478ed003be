"""Writes the layout of Mobile ALOHA, ACT and RDT's data, in the robot's own units; `foreign` reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

import rdt_ros
from rdt_ros import jpeg
from rdt_ros.episodes import foreign, frames, layout, units
from rdt_ros.episodes.content import Content, Track, untracked
from rdt_ros.episodes.datasets import ROBOT_FILE
from rdt_ros.errors import InputError

# How pictures are stored: raw (N, H, W, 3) uint8 RGB; padded rows of JPEG as Mobile ALOHA compresses; byte strings of
# JPEG as in RDT's data. Both kinds of JPEG have red and blue exchanged, as their readers expect.
RAW, PADDED, STRINGS = "raw", "padded", "strings"
BLOCK = 32  # steps that are encoded at once, and so in memory
THREADS = 4


def write(path: Path, content: Content, instruction: str, form: str, track: Track = untracked) -> None:
    """Makes the file. What the robot did not give is left out; stamps are added, which readers of the layout ignore."""
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = form != RAW
        file.attrs["colour_order"] = "rgb" if form == RAW else "bgr"
        file.attrs["written_by"] = f"rdt_ros {rdt_ros.__version__}"
        file.attrs["robot"] = content.robot.name
        file.attrs[ROBOT_FILE] = content.robot_text
        file[layout.INSTRUCTION] = instruction
        for name, values in _vectors(content).items():
            file[name] = values.astype(np.float32)
        file[layout.TICK] = content.ticks
        for source, stamps in content.stamps.items():
            file[layout.stamp_path(source)] = stamps
        if content.pictures:
            _write_pictures(file, content, form, track)


def _vectors(content: Content) -> dict[str, np.ndarray]:
    robot, own = content.robot, content.vectors
    vectors = {
        layout.VECTORS["measured"]: units.to_robot(robot, "measured", own["measured"]),
        layout.ACTION: units.to_robot(robot, "command", content.action),
    }
    if "velocity" in own:
        vectors[layout.VECTORS["velocity"]] = units.velocity_to_robot(robot, own["velocity"])
    if "effort" in own:
        vectors[layout.VECTORS["effort"]] = own["effort"]
    if "base" in own:
        vectors[layout.BASE_ACTION] = own["base"][:, layout.BASE_ACTION_COLUMNS]
    return vectors


def _write_pictures(file: h5py.File, content: Content, form: str, track: Track) -> None:
    count = len(content.ticks)
    convert = jpeg.decode if form == RAW else foreign.swapped
    images: dict[str, h5py.Dataset] = {}
    lengths = np.zeros((len(content.pictures), count), np.float32)  # as Mobile ALOHA has them, cameras by name
    cameras = sorted(content.pictures)
    for step, pictures in enumerate(track(_converted(content, convert), count)):
        for row, camera in enumerate(cameras):
            picture = pictures[camera]
            if camera not in images:
                images[camera] = _images(file, layout.image_path(camera), count, form, picture, camera)
            if form == RAW:
                if picture.shape != images[camera].shape[1:]:
                    expected = images[camera].shape[1:]
                    raise InputError(f"{camera}: expected pictures of {expected}, found {picture.shape} at step {step}")
                images[camera][step] = picture
                continue
            size = images[camera].id.get_type().get_size() if form == STRINGS else images[camera].shape[1]
            data = picture if len(picture) <= size else frames.smaller(picture, size, camera)
            lengths[row, step] = len(data)
            images[camera].id.write_direct_chunk((step, 0)[: images[camera].ndim], frames.packed(data, size))
    if form == PADDED:
        file["/compress_len"] = lengths


def _images(file: h5py.File, path: str, count: int, form: str, first: bytes | np.ndarray, camera: str) -> h5py.Dataset:
    """The empty data set, made for the size of the first picture."""
    if isinstance(first, np.ndarray):
        return file.create_dataset(path, (count, *first.shape), np.uint8, chunks=(1, *first.shape))
    height, width, _ = jpeg.decode(first, camera).shape
    size = frames.capacity(height * width, first)
    if form == STRINGS:
        return file.create_dataset(path, (count,), f"S{size}", chunks=(1,), compression="gzip")
    return file.create_dataset(path, (count, size), np.uint8, chunks=(1, size), compression="gzip")


def _converted(content: Content, convert: Callable[[bytes, str], bytes | np.ndarray]) -> Iterator[dict]:
    """Camera -> picture of each step in turn; a block of steps is converted by several threads at once."""
    count = len(content.ticks)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, count, BLOCK):
            block = range(start, min(start + BLOCK, count))
            tasks = [(camera, step) for step in block for camera in content.pictures]
            done = pool.map(lambda task: convert(content.pictures[task[0]](task[1]), task[0]), tasks)
            for _ in block:
                yield {camera: next(done) for camera in content.pictures}
