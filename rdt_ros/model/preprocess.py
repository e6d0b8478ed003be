"""From JPEG bytes to the encoder's input: the one preprocessing, shared by training and robot. No torch here.

Colours are RGB. The steps are those of the reference: square by grey bars, bicubic to the
encoder's size, then from 0..255 to -1..1 (SigLIP's mean and deviation are 0.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rdt_ros import jpeg
from rdt_ros.robot.description import CAMERA_ROLES

BACKGROUND = 127  # int(255 * SigLIP's mean of 0.5), in every channel


def pad_to_square(rgb: np.ndarray) -> np.ndarray:
    """(height, width, 3) -> (side, side, 3): grey bars on both sides of the shorter axis, an odd row to the end."""
    height, width, _ = rgb.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), BACKGROUND, np.uint8)
    square[top : top + height, left : left + width] = rgb
    return square


def prepare_picture(rgb: np.ndarray, image_size: int) -> np.ndarray:
    """RGB (height, width, 3) uint8 -> (3, image_size, image_size) float32 in -1..1."""
    resized = Image.fromarray(pad_to_square(rgb)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1


def background(image_size: int) -> np.ndarray:
    """What the network sees in place of a missing picture: (3, image_size, image_size) float32, all -0.003922."""
    return prepare_picture(np.full((image_size, image_size, 3), BACKGROUND, np.uint8), image_size)


def prepare_pictures(moments: Sequence[Mapping[str, bytes]], image_size: int) -> np.ndarray:
    """JPEGs by camera role, a mapping per moment, oldest first -> (moments * 3, 3, size, size) float32.

    The order within a moment is that of CAMERA_ROLES: external, right wrist, left wrist. A role that is absent
    becomes background.
    """
    prepared = [
        prepare_picture(jpeg.decode(pictures[role], role), image_size) if role in pictures else background(image_size)
        for pictures in moments
        for role in CAMERA_ROLES
    ]
    return np.stack(prepared)
