"""Episode files of Mobile ALOHA, ACT and RDT's data: the robot's own units, frames in several forms."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from rdt_ros import jpeg
from rdt_ros.episodes import frames, layout, units
from rdt_ros.episodes.content import Content
from rdt_ros.episodes.datasets import dataset, naming, table, text
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot


def read(file: h5py.File, robot: Robot, colour_order: str | None) -> Content:
    """The content of a file that is not ours, with ticks at the robot's control rate where it has no stamps.

    `colour_order` says what a standard JPEG decoder shows, or the channels of raw arrays. None takes the convention of
    these files: "bgr" for JPEG (an encoder that expects BGR was given RGB), "rgb" for arrays. Frames that need a change
    are encoded again.
    """
    joints = len(robot.joints)
    measured, action = (table(file, path, joints) for path in (layout.VECTORS["measured"], layout.ACTION))
    steps = len(action)
    if len(measured) != steps:
        raise InputError(f"{layout.VECTORS['measured']}: expected {steps} steps as in {layout.ACTION}")
    vectors = {"measured": units.to_project(robot, "measured", measured, layout.VECTORS["measured"])}
    if layout.VECTORS["velocity"] in file:
        values = table(file, layout.VECTORS["velocity"], joints, steps)
        vectors["velocity"] = units.velocity_to_project(robot, values)
    if layout.VECTORS["effort"] in file:
        vectors["effort"] = table(file, layout.VECTORS["effort"], joints, steps).astype(np.float32)
    if layout.BASE_ACTION in file and robot.base is not None:
        base = table(file, layout.BASE_ACTION, 2, steps)
        vectors["base"] = np.stack([base[:, 0], np.zeros(steps), base[:, 1]], 1).astype(np.float32)
    pictures = {
        camera.name: _frames(dataset(file, layout.image_path(camera.name)), steps, colour_order)
        for camera in robot.cameras
        if layout.image_path(camera.name) in file
    }
    sources = [f"camera/{camera}" for camera in pictures] + [f"measured/{group.name}" for group in robot.groups]
    if layout.TICK in file:
        ticks = _stamps(file, layout.TICK, steps)
        stamps = {s: _stamps(file, layout.stamp_path(s), steps) for s in sources if layout.stamp_path(s) in file}
    else:
        ticks = np.arange(1, steps + 1, dtype=np.int64) * robot.period_ns
        stamps = dict.fromkeys(sources, ticks)
    return Content(
        robot=robot,
        robot_text="",
        instruction=text(file, layout.INSTRUCTION),
        ticks=ticks,
        action=units.to_project(robot, "command", action, layout.ACTION),
        vectors=vectors,
        pictures=pictures,
        stamps=stamps,
    )


def _stamps(file: h5py.File, path: str, steps: int) -> np.ndarray:
    found = dataset(file, path)
    if found.shape != (steps,) or found.dtype.kind not in "iu":
        raise InputError(f"{path}: expected {steps} stamps in ns, found {found.dtype} {found.shape}")
    with naming(path):
        return np.asarray(found, np.int64)


def _frames(images: h5py.Dataset, steps: int, colour_order: str | None) -> Callable[[int], bytes]:
    """How to get a frame as JPEG in true colours; what the frames are is seen from their shape."""
    if not images.shape or len(images) != steps:
        raise InputError(f"{images.name}: expected {steps} pictures, found {len(images) if images.shape else 'one'}")
    if images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8:
        return raw_frames(images, colour_order or "rgb")
    if images.ndim > 2 or (images.ndim == 2 and images.dtype != np.uint8):
        raise InputError(f"{images.name}: expected JPEG frames or (N, H, W, 3) uint8, found {images.shape}")

    def frame(step: int) -> bytes:
        with naming(f"{images.name}[{step}]"):
            value = images[step]
            # rows of a 2-D array are padded with zeros, which no JPEG ends with: /compress_len is not needed
            data = frames.stored(value if isinstance(value, bytes) else bytes(np.asarray(value)), images.name)
            # what a standard decoder takes for RGB is BGR in a swapped file
            return data if colour_order == "rgb" else swapped(data, images.name)

    return frame


def raw_frames(images: h5py.Dataset, colour_order: str) -> Callable[[int], bytes]:
    """How to get a frame of (N, H, W, 3) uint8 as JPEG in true colours."""
    encode = jpeg.encode_bgr if colour_order == "bgr" else jpeg.encode

    def frame(step: int) -> bytes:
        with naming(f"{images.name}[{step}]"):
            return encode(images[step])

    return frame


def swapped(data: bytes, name: str) -> bytes:
    """The JPEG with red and blue exchanged, encoded again: from true colours to those of the old files, and back."""
    return jpeg.encode_bgr(jpeg.decode(data, name))
