from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rdt_ros.model.fast.pictures import prepare_on_device, resize_weights
from rdt_ros.model.preprocess import background, prepare_picture

LEVEL = 1 / 127.5  # one of 256, as the encoder sees it
SIZES = [(480, 640), (640, 480), (384, 384), (720, 1280), (97, 33), (48, 64), (1, 5)]  # height, width


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, which makes a bicubic filter overshoot everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_the_cpus_but_for_a_level_in_a_thousand_places(size: tuple[int, int]):
    rgb = picture(*size)

    found = prepare_on_device(torch.from_numpy(rgb)[None], 384)[0].numpy()

    off = np.abs(found - prepare_picture(rgb, 384)) / LEVEL
    assert off.max() < 1.01
    assert (off > 0.01).mean() < 1e-3


def test_overshoot_is_clamped():
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, 32:] = 255

    found = prepare_on_device(torch.from_numpy(rgb)[None], 96)

    assert found.min() == -1 and found.max() == 1


def test_pictures_of_a_batch_are_as_each_alone():
    batch = torch.from_numpy(np.stack([picture(48, 64, seed) for seed in range(3)]))

    together = prepare_on_device(batch, 96)

    for i in range(3):
        assert (together[i] - prepare_on_device(batch[i : i + 1], 96)[0]).abs().max() < 1.01 * LEVEL


def test_grey_is_the_background():
    grey = torch.full((1, 48, 64, 3), 127, dtype=torch.uint8)

    assert np.array_equal(prepare_on_device(grey, 96)[0].numpy(), background(96))


@pytest.mark.parametrize(("size", "target"), [(640, 384), (384, 640), (97, 96), (1000, 7), (3, 5)])
def test_weights_are_pillows(size: int, target: int):
    """Pillow in floating point resizes the unit vectors to the columns of the matrix."""
    weights = resize_weights(size, target)

    for column in range(0, size, max(size // 8, 1)):
        unit = np.zeros((1, size), np.float32)
        unit[0, column] = 1
        resized = np.asarray(Image.fromarray(unit).resize((target, 1), Image.Resampling.BICUBIC))[0]
        assert np.abs(weights[:, column] - resized).max() < 1e-6
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-5


def test_a_size_that_stays_is_not_filtered():
    assert np.array_equal(resize_weights(5, 5), np.eye(5, dtype=np.float32))
