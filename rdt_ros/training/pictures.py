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

OPEN_FILES = 256  # of a process; 1024 handles are what a Linux process has by default


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
        self._files: OrderedDict[Path, _File | EpisodeReader] = OrderedDict()

    def __reduce__(self) -> tuple[type[FrameReader], tuple[()]]:
        """Another process opens files itself."""
        return FrameReader, ()

    def rgb(self, source: FrameSource, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; InputError names file, step and camera."""
        try:
            file = self._file(source)
            if isinstance(file, EpisodeReader):
                return jpeg.decode(file.content.pictures[camera](step), camera)
            return file.rgb(camera, step)
        except (InputError, IndexError, *DAMAGE) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{source.path}: step {step}: {camera}: no readable picture: {reason}") from None

    def close(self) -> None:
        """Closes all files."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self, source: FrameSource) -> _File | EpisodeReader:
        if self._process != os.getpid():  # after a fork: the parent's handles are not ours
            self._process, self._files = os.getpid(), OrderedDict()
        if source.path not in self._files:
            self._files[source.path] = _opened(source)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(source.path)
        return self._files[source.path]


def _opened(source: FrameSource) -> _File | EpisodeReader:
    """The file itself where its pictures are in the usual place: sixty times as fast to open as the whole episode."""
    file = h5py.File(source.path, "r", locking=False)
    if layout.image_path("") in file:
        return _File(file, source.colour_order)
    file.close()
    return EpisodeReader(source.path, source.robot, colour_order=source.colour_order or None)


class _File:
    """A file of our own layout or of ALOHA's, whose data sets are looked up once: that costs as much as a frame."""

    def __init__(self, file: h5py.File, colour_order: str) -> None:
        self._file = file
        self._order = "rgb" if file.attrs.get("format") == layout.FORMAT else colour_order
        self._images: dict[str, h5py.Dataset] = {}

    def rgb(self, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; nothing is encoded again, as it is where JPEG bytes are asked for."""
        if camera not in self._images:
            self._images[camera] = self._file[layout.image_path(camera)]
        images = self._images[camera]
        value = images[step]
        order = self._order or ("rgb" if images.ndim == 4 else "bgr")
        if images.ndim == 4:
            rgb = value
        else:
            data = value if isinstance(value, bytes) else bytes(np.asarray(value))
            rgb = jpeg.decode(frames.stored(data, camera), camera)
        return cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB) if order == "bgr" else rgb

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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
