"""From decoded pictures to the encoder's input on any device: `preprocess.prepare_picture` as two matrix products.

Pillow resizes along rows, rounds to whole levels, then along columns and rounds again, with weights of 22 fractional
bits. Here the weights are the same and sums are float32: a sum that falls on half a level may round the other way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rdt_ros.model.fast.stage import Recorder, Stage
from rdt_ros.model.preprocess import BACKGROUND

CUBIC = -0.5  # Pillow's parameter of the bicubic kernel
REACH = 2.0  # of that kernel, in pixels of the smaller picture
WEIGHT_BITS = 22
SHAPES_KEPT = 4  # of pictures, with the stages that prepare them


def resize_weights(size: int, target: int) -> np.ndarray:
    """(target, size) float32: how Pillow's bicubic filter weighs an axis of `size` pixels (its Resample.c)."""
    scale = size / target
    stretch = max(scale, 1.0)  # the kernel grows when the picture shrinks, so that nothing is skipped
    weights = np.zeros((target, size))
    for i in range(target):
        center = (i + 0.5) * scale
        first = max(int(center - REACH * stretch + 0.5), 0)
        last = min(int(center + REACH * stretch + 0.5), size)
        kernel = _bicubic(np.abs(np.arange(first, last) + 0.5 - center) / stretch)
        weights[i, first:last] = kernel / kernel.sum()
    fixed = np.trunc(weights * 2**WEIGHT_BITS + np.copysign(0.5, weights))
    return (fixed / 2**WEIGHT_BITS).astype(np.float32)


def prepare_on_device(rgb: Tensor, image_size: int) -> Tensor:
    """RGB (n, height, width, 3) uint8 -> (n, 3, image_size, image_size) float32 in -1..1, where the pictures are."""
    height, width = rgb.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    levels = rgb.permute(0, 3, 1, 2).float()
    levels = F.pad(levels, (left, side - width - left, 0, 0), value=BACKGROUND)
    weights = _weights(side, image_size, rgb.device)
    levels = _rounded(levels @ weights.T)
    levels = F.pad(levels, (0, 0, top, side - height - top), value=BACKGROUND)
    return _rounded(weights @ levels) / 127.5 - 1


class Uploads:
    """Decoded pictures on their way into the encoder's input `images` (N, 3, size, size), each to a place in it.

    Threads put them where the device reads by itself; there each is prepared by a stage of its place and shape.
    """

    def __init__(self, images: Tensor, recorder: Recorder) -> None:
        self._images = images
        self._recorder = recorder
        self._sent: torch.cuda.Event | None = None
        self._make_room(0)

    def wait(self) -> None:
        """Until what was sent is on the device, and its place free."""
        if self._sent is not None:
            self._sent.synchronize()

    def put(self, place: int, rgb: np.ndarray) -> None:
        """Keeps a picture (height, width, 3) for `send`, from any thread, where there is room."""
        if rgb.nbytes <= self._here.shape[1]:
            self._here.numpy()[place, : rgb.nbytes] = rgb.reshape(-1)

    def send(self, place: int, rgb: np.ndarray) -> None:
        """Copies and prepares a picture that was put, where there was room, without waiting for it."""
        if rgb.nbytes > self._here.shape[1]:
            return
        self._there[place, : rgb.nbytes].copy_(self._here[place, : rgb.nbytes], non_blocking=True)
        if self._there.is_cuda:
            self._sent = torch.cuda.Event()
            self._sent.record()
        self._stages_of(rgb.shape)[place]()

    def finish(self, pictures: Sequence[np.ndarray]) -> None:
        """Sends all pictures, from the first place on, where there was no room for one of them; now there is."""
        largest = max(rgb.nbytes for rgb in pictures)
        if largest > self._here.shape[1]:
            self._make_room(largest)
            for place, rgb in enumerate(pictures):
                self.put(place, rgb)
                self.send(place, rgb)

    def _make_room(self, size: int) -> None:
        count, cuda = len(self._images), self._images.is_cuda
        self._here = torch.empty(count, size, dtype=torch.uint8, pin_memory=cuda and size > 0)
        self._there = torch.empty_like(self._here, device=self._images.device)
        self._stages: dict[tuple[int, ...], list[Stage]] = {}

    def _stages_of(self, shape: tuple[int, ...]) -> list[Stage]:
        """A stage for each place, all made when the shape first comes."""
        if shape not in self._stages:
            if len(self._stages) == SHAPES_KEPT:
                self._stages.clear()
            work = [functools.partial(self._prepare, shape, place) for place in range(len(self._images))]
            self._stages[shape] = [self._recorder.stage(one) for one in work]
        return self._stages[shape]

    def _prepare(self, shape: tuple[int, ...], place: int) -> None:
        rgb = self._there[place, : math.prod(shape)].view(1, *shape)
        self._images[place].copy_(prepare_on_device(rgb, self._images.shape[-1])[0])


@functools.lru_cache(maxsize=8)
def _weights(size: int, target: int, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_weights(size, target)).to(device)


def _rounded(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * CUBIC
    return np.where(distance < 1, near, np.where(distance < REACH, far, 0.0))
