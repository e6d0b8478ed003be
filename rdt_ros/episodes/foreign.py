"""Episode files of Mobile ALOHA, ACT and RDT's data: the robot's own units, no stamps, frames in several forms."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from rdt_ros import jpeg
from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.content import Content
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot


def read(file: h5py.File, robot: Robot, colour_order: str | None) -> Content:
    """The content of a file that is not ours, with ticks at the robot's control rate.

    `colour_order` says what a standard JPEG decoder shows, or the channels of raw arrays. None takes the convention of
    these files: "bgr" for JPEG (an encoder that expects BGR was given RGB), "rgb" for arrays. Frames that need a change
    are encoded again.
    """
    action = _joints(file, layout.ACTION, robot, "command")
    steps = len(action)
    vectors = {"measured": _joints(file, layout.VECTORS["measured"], robot, "measured")}
    base = _array(file, layout.BASE_ACTION, steps, 2)
    if base is not None and robot.base is not None:
        vectors["base"] = np.stack([base[:, 0], np.zeros(steps), base[:, 1]], 1).astype(np.float32)
    if any(len(values) != steps for values in vectors.values()):
        raise InputError(f"{layout.VECTORS['measured']}: expected {steps} steps as in {layout.ACTION}")
    ticks = np.arange(1, steps + 1, dtype=np.int64) * robot.period_ns
    pictures = {
        camera.name: _frames(file[layout.image_path(camera.name)], steps, colour_order)
        for camera in robot.cameras
        if layout.image_path(camera.name) in file
    }
    sources = [f"camera/{camera}" for camera in pictures] + [f"measured/{group.name}" for group in robot.groups]
    return Content(
        robot=robot,
        robot_text="",
        instruction=_instruction(file),
        ticks=ticks,
        action=action,
        vectors=vectors,
        pictures=pictures,
        stamps=dict.fromkeys(sources, ticks),
    )


def _array(file: h5py.File, path: str, steps: int | None, columns: int) -> np.ndarray | None:
    if path not in file:
        return None
    values = np.asarray(file[path], float)
    if values.ndim != 2 or values.shape[1] != columns or (steps is not None and len(values) != steps):
        raise InputError(f"{path}: expected shape ({steps or 'N'}, {columns}), found {values.shape}")
    return values


def _joints(file: h5py.File, path: str, robot: Robot, role: str) -> np.ndarray:
    """(N, J) float32 in the project's units."""
    values = _array(file, path, None, len(robot.joints))
    if values is None:
        raise InputError(f"missing {path}")
    rows = [
        np.concatenate(
            [robot.from_wire(g, role, stamp_ns=0, names=(), position=row[g.columns]).position for g in robot.groups]
        )
        for row in values
    ]
    return np.array(rows, np.float32).reshape(len(values), len(robot.joints))


def _frames(dataset: h5py.Dataset, steps: int, colour_order: str | None) -> Callable[[int], bytes]:
    """How to get a frame as JPEG in true colours."""
    if len(dataset) != steps:
        raise InputError(f"{dataset.name}: expected {steps} pictures, found {len(dataset)}")
    if dataset.ndim == 4 and dataset.shape[3] == 3 and dataset.dtype == np.uint8:
        encode = jpeg.encode_bgr if colour_order == "bgr" else jpeg.encode
        return lambda step: encode(dataset[step])
    if dataset.ndim > 2 or (dataset.ndim == 2 and dataset.dtype != np.uint8):
        raise InputError(f"{dataset.name}: expected JPEG frames or (N, H, W, 3) uint8, found {dataset.shape}")

    def frame(step: int) -> bytes:
        value = dataset[step]
        data = frames.stored(value if isinstance(value, bytes) else bytes(np.asarray(value)), dataset.name)
        # what a standard decoder takes for RGB is BGR in a swapped file
        return data if colour_order == "rgb" else jpeg.encode_bgr(jpeg.decode(data, dataset.name))

    return frame


def _instruction(file: h5py.File) -> str:
    value = file[layout.INSTRUCTION][()] if layout.INSTRUCTION in file else ""
    return value.decode() if isinstance(value, bytes) else str(value)
