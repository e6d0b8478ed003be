"""Augmentation: how much, how often, and that a seed decides it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from rdt_ros.training import augmentation
from rdt_ros.training.augmentation import NOISES, augmented, blurred, corrupted, motion_kernel, noisy, recoloured


@pytest.fixture
def rgb():
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC)


def test_a_seed_decides_everything(rgb):
    for seed in range(20):
        a, b = (augmented(rgb.copy(), np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(a, b) and a.shape == rgb.shape and a.dtype == np.uint8


def test_half_of_the_pictures_stay_as_they_are(rgb):
    rng = np.random.default_rng(1)
    assert np.mean([augmented(rgb, rng) is rgb for _ in range(600)]) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("change", [recoloured, corrupted, noisy, blurred])
def test_the_given_picture_is_never_written_to(rgb, change):
    before = rgb.copy()
    for seed in range(30):
        change(rgb, np.random.default_rng(seed))
    assert np.array_equal(rgb, before)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augmentation._brightness, ImageEnhance.Brightness),
        (augmentation._contrast, ImageEnhance.Contrast),
        (augmentation._saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.35])
def test_colours_change_as_by_the_library_that_the_reference_uses(rgb, ours, theirs, factor):
    """torchvision's ColorJitter of a Pillow picture is Pillow's ImageEnhance."""
    expected = np.asarray(theirs(Image.fromarray(rgb)).enhance(factor)).astype(int)
    assert np.abs(ours(rgb, factor) - expected).max() <= 2


def test_hue_turns_the_colour_circle(rgb):
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    assert augmentation._hue(red, 1 / 3)[0, 0].astype(int) == pytest.approx((0, 200, 0), abs=6)
    assert augmentation._hue(red, -1 / 3)[0, 0].astype(int) == pytest.approx((0, 0, 200), abs=6)
    assert np.abs(augmentation._hue(rgb, 0.0).astype(int) - rgb).max() <= 8  # hue has 256 values


@pytest.mark.parametrize("strength", [1.5, 4.0, 12.75])
def test_noise_has_the_references_distributions(strength):
    normal, laplace, poisson = (table(strength).astype(float) for table in NOISES)
    rounding = 1 / 12  # variance of rounding to whole levels
    assert np.var(normal) == pytest.approx(strength**2 + rounding, rel=0.03, abs=0.02)
    assert np.var(laplace) == pytest.approx(2 * strength**2 + rounding, rel=0.03, abs=0.1)
    assert np.abs(poisson).mean() == pytest.approx(strength, rel=0.01)
    assert np.var(np.abs(poisson)) == pytest.approx(strength, rel=0.02)
    assert [abs(table.mean()) < 0.01 for table in (normal, laplace, poisson)] == [True] * 3
    assert np.mean(np.abs(poisson) == 2) == pytest.approx(stats.poisson.pmf(2, strength), abs=1e-3)


def test_noise_is_sometimes_the_same_in_all_channels():
    gray = np.full((24, 32, 3), 128, np.uint8)
    alike = [np.ptp(noisy(gray, np.random.default_rng(seed)), axis=2).max() == 0 for seed in range(200)]
    assert np.mean(alike) == pytest.approx(0.5, abs=0.12)


def test_a_blur_keeps_the_mean_and_lowers_the_contrast(rgb):
    for seed in range(40):
        out = blurred(rgb, np.random.default_rng(seed))
        assert out.mean() == pytest.approx(rgb.mean(), abs=6)
        assert out.std() <= rgb.std() + 1


@pytest.mark.parametrize("angle_deg", [0, 37, 90, 200])
def test_a_motion_blur_is_a_line_through_the_middle(angle_deg):
    kernel = motion_kernel(15, angle_deg, 0.5)
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    ys, xs = np.nonzero(kernel > 1e-3)
    assert kernel[7, 7] > 0 and len(xs) < 45
    spread = (np.ptp(xs), np.ptp(ys))
    assert (spread[0] <= 2) == (angle_deg == 0) and (spread[1] <= 2) == (angle_deg == 90)
