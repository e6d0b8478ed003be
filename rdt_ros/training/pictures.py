"""Pictures for training: one frame of an episode as pixels, and pixels as the vision encoder takes them.

Workers hand on uint8, a quarter of the bytes; the device that trains makes numbers of them. The steps are those of
`rdt_ros.model.preprocess`; the resize is torch's, six times as fast as Pillow's. Of its values 99.5 % are the same, and
camera pictures differ by one level of 255 at most.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from torch import Tensor

from rdt_ros import jpeg
from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.datasets import DAMAGE
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.model.preprocess import BACKGROUND, pad_to_square
from rdt_ros.robot.description import Robot

OPEN_FILES = 32


@dataclass(frozen=True)
class FrameSource:
    """The file of an episode. `colour_order` is that of its frames: "rgb", "bgr", or "" for the file's convention."""

    path: Path
    robot: Robot
    colour_order: str = ""


class FrameReader:
    """Reads single frames, and only their bytes. Files stay open for the next frame, in each process its own."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[Path, h5py.File | EpisodeReader] = OrderedDict()

    def __reduce__(self) -> tuple[type[FrameReader], tuple[()]]:
        """Another process opens files itself."""
        return FrameReader, ()

    def rgb(self, source: FrameSource, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; InputError names file, step and camera."""
        try:
            file = self._file(source)
            if isinstance(file, EpisodeReader):
                return jpeg.decode(file.content.pictures[camera](step), camera)
            return _decoded(file[layout.image_path(camera)], step, source.colour_order)
        except (InputError, IndexError, *DAMAGE) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{source.path}: step {step}: {camera}: no readable picture: {reason}") from None

    def close(self) -> None:
        """Closes all files."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self, source: FrameSource) -> h5py.File | EpisodeReader:
        if self._process != os.getpid():  # after a fork: the parent's handles are not ours
            self._process, self._files = os.getpid(), OrderedDict()
        if source.path not in self._files:
            self._files[source.path] = _opened(source)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(source.path)
        return self._files[source.path]


def _opened(source: FrameSource) -> h5py.File | EpisodeReader:
    """The file itself where its pictures are in the usual place: sixty times as fast to open as the whole episode."""
    file = h5py.File(source.path, "r", locking=False)
    if layout.image_path("") in file:
        return file
    file.close()
    return EpisodeReader(source.path, source.robot, colour_order=source.colour_order or None)


def _decoded(images: h5py.Dataset, step: int, colour_order: str) -> np.ndarray:
    """A frame of our own layout or of ALOHA's; nothing is encoded again, as it is where JPEG bytes are asked for."""
    value = images[step]
    ours = images.file.attrs.get("format") == layout.FORMAT
    order = "rgb" if ours else colour_order or ("rgb" if images.ndim == 4 else "bgr")
    if images.ndim == 4:
        rgb = value
    else:
        data = value if isinstance(value, bytes) else bytes(np.asarray(value))
        rgb = jpeg.decode(frames.stored(data, str(images.name)), str(images.name))
    return cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB) if order == "bgr" else rgb


def resized(rgb: np.ndarray, size: int) -> np.ndarray:
    """RGB (height, width, 3) uint8 -> (size, size, 3) uint8: square by grey bars, then bicubic."""
    square = torch.from_numpy(pad_to_square(rgb)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(square, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def background(size: int) -> np.ndarray:
    """In place of a picture that is missing or hidden: (size, size, 3) uint8."""
    return np.full((size, size, 3), BACKGROUND, np.uint8)


def normalised(pixels: Tensor) -> Tensor:
    """(..., size, size, 3) uint8 -> (..., 3, size, size) float32 in -1..1, on the pixels' device."""
    return pixels.movedim(-1, -3).float().div_(127.5).sub_(1)
