"""Augmentation of a picture by the reference's recipe, each step a call of OpenCV or NumPy.

Source: the reference's train/dataset.py and train/image_corrupt.py. Half of the pictures stay as they are; the others
get new colours, noise and blur, or both.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy import special

PROBABILITY = 0.5
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.6, 1.4), (0.5, 1.5)  # factors
HUE = 0.03  # of a turn, either way
NOISE = 0.05 * 255  # largest scale of the noise, in levels
QUANTILES = 1 << 16  # noise is a table of quantiles looked up at random: Poisson's 50 ms a picture become 3
COUNTS = np.arange(128)  # what a Poisson number of at most NOISE on average may be


def augmented(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 RGB, changed or the same array."""
    if rng.random() >= PROBABILITY:
        return rgb
    kind = rng.integers(3)
    if kind != 0:
        rgb = recoloured(rgb, rng)
    return corrupted(rgb, rng) if kind != 1 else rgb


def recoloured(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed, in random order."""
    changes: list[tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, float]]] = [
        (_brightness, BRIGHTNESS),
        (_contrast, CONTRAST),
        (_saturation, SATURATION),
        (_hue, (-HUE, HUE)),
    ]
    for i in rng.permutation(len(changes)):
        change, span = changes[i]
        rgb = change(rgb, rng.uniform(*span))
    return rgb


def corrupted(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, and with probability 1/2 a blur, in random order."""
    steps = [noisy, blurred] if rng.random() < 0.5 else [noisy]
    for i in rng.permutation(len(steps)):
        rgb = steps[i](rgb, rng)
    return rgb


def noisy(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal, Laplace or signed Poisson noise of random strength, for half of the pictures the same in all channels."""
    table = NOISES[rng.integers(len(NOISES))](rng.uniform(0, NOISE))
    channels = 3 if rng.random() < 0.5 else 1
    noise = table[rng.integers(0, QUANTILES, (*rgb.shape[:2], channels), np.uint16)]
    return cv2.add(rgb, np.ascontiguousarray(np.broadcast_to(noise, rgb.shape)), dtype=cv2.CV_8U)


def blurred(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A motion blur for half of the pictures, a Gaussian, mean or median one for the others."""
    if rng.random() < 0.5:
        kernel = motion_kernel(_odd(rng.integers(3, 37)), rng.uniform(0, 360), rng.uniform(0, 1))
        return cv2.filter2D(rgb, -1, kernel)
    match rng.integers(3):
        case 0:
            sigma = rng.uniform(0, 3)
            return cv2.GaussianBlur(rgb, (0, 0), sigma) if sigma > 1e-3 else rgb
        case 1:
            size = int(rng.integers(2, 8))
            return cv2.blur(rgb, (size, size))
        case _:
            return cv2.medianBlur(rgb, _odd(rng.integers(3, 12)))


def motion_kernel(size: int, angle_deg: float, weight: float) -> np.ndarray:
    """(size, size) float32 of sum 1: a line through the middle, whose weight runs from `weight` to 1 - `weight`."""
    line = np.zeros((size, size), np.float32)
    line[:, size // 2] = np.linspace(weight, 1 - weight, size)
    middle = (size - 1) / 2
    turned = cv2.warpAffine(line, cv2.getRotationMatrix2D((middle, middle), angle_deg, 1), (size, size))
    return turned / turned.sum()


def _brightness(rgb: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(rgb, alpha=factor)


def _contrast(rgb: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean()
    levels = np.arange(256) * factor + mean * (1 - factor)
    return cv2.LUT(rgb, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _saturation(rgb: np.ndarray, factor: float) -> np.ndarray:
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(rgb, factor, gray, 1 - factor, 0)


def _hue(rgb: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # uint8 wraps, as hue does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _odd(size: int | np.integer) -> int:
    return int(size) | 1


_MIDDLES = (np.arange(QUANTILES) + 0.5) / QUANTILES
_NORMAL = special.ndtri(_MIDDLES).astype(np.float32)
_LAPLACE = (-np.sign(_MIDDLES - 0.5) * np.log1p(-2 * np.abs(_MIDDLES - 0.5))).astype(np.float32)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int16)


def _signed_poisson(mean: float) -> np.ndarray:
    positive = np.searchsorted(special.pdtr(COUNTS, mean), _MIDDLES[::2]).astype(np.int16)
    return np.concatenate([-positive, positive])


NOISES: tuple[Callable[[float], np.ndarray], ...] = (
    lambda scale: _levels(_NORMAL * np.float32(scale)),
    lambda scale: _levels(_LAPLACE * np.float32(scale)),
    _signed_poisson,
)
"""Quantiles (QUANTILES,) int16 of the noise of a strength, in levels."""
