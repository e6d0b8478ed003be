"""From decoded pictures to the encoder's input on any device: `preprocess.prepare_picture` as two matrix products.

Pillow resizes along rows, rounds to whole levels, then along columns and rounds again, with weights of 22 fractional
bits. Here the weights are the same and sums are float32: a sum that falls on half a level may round the other way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rdt_ros.model.preprocess import BACKGROUND

CUBIC = -0.5  # Pillow's parameter of the bicubic kernel
REACH = 2.0  # of that kernel, in pixels of the smaller picture
WEIGHT_BITS = 22


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


def group_by_shape(shapes: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The places of each shape: cameras may differ."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(place)
    return groups


@functools.lru_cache(maxsize=8)
def _weights(size: int, target: int, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_weights(size, target)).to(device)


def _rounded(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * CUBIC
    return np.where(distance < 1, near, np.where(distance < REACH, far, 0.0))
