from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from transformers import SiglipImageProcessor

from rdt_ros.jpeg import decode
from rdt_ros.model.preprocess import background, pad_to_square, prepare_picture, prepare_pictures

PROCESSOR_TOLERANCE = 1e-6
BACKGROUND_VALUE = -0.003922
LEVEL = 2 / 255  # one step of 0..255 in -1..1


def jpeg_of(rgb: np.ndarray) -> bytes:
    """Encoded by PIL, which takes RGB, so that a swap in our decoder shows."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def textured(height: int, width: int) -> np.ndarray:
    """Waves of different length in each channel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([127 + 120 * np.sin(x / 9 + c) * np.cos(y / (5 + c)) for c in range(3)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50)])
def test_colours_come_out_as_rgb(colour: tuple[int, int, int]):
    decoded = decode(jpeg_of(plain(colour)), "front")

    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - colour).max() <= 3


def test_red_is_the_first_channel_of_the_prepared_picture():
    (picture, *_) = prepare_pictures([{"external": jpeg_of(plain((255, 0, 0), 64, 64))}], 32)

    red, green, blue = picture.mean(axis=(1, 2))
    assert red == pytest.approx(1, abs=3 * LEVEL)
    assert (green, blue) == pytest.approx((-1, -1), abs=3 * LEVEL)


def test_a_wide_picture_gets_bars_above_and_below():
    square = pad_to_square(plain((1, 2, 3), 480, 640))

    assert square.shape == (640, 640, 3)
    assert (square[:80] == 127).all()
    assert (square[80:560] == (1, 2, 3)).all()
    assert (square[560:] == 127).all()


def test_a_tall_picture_gets_bars_left_and_right_and_the_odd_column_right():
    square = pad_to_square(plain((1, 2, 3), 5, 2))

    assert [column.tolist() for column in square[0]] == [[127] * 3, [1, 2, 3], [1, 2, 3], [127] * 3, [127] * 3]


def test_background_is_grey_of_one_value():
    grey = background(384)

    assert grey.shape == (3, 384, 384)
    assert grey.dtype == np.float32
    assert (grey.min(), grey.max()) == pytest.approx((BACKGROUND_VALUE, BACKGROUND_VALUE), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (240, 320), (640, 480), (384, 384), (50, 31)])
def test_agrees_with_the_siglip_processor(height: int, width: int):
    rgb = textured(height, width)
    side = max(height, width)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(Image.fromarray(rgb), ((side - width) // 2, (side - height) // 2))
    processor = SiglipImageProcessor(size={"height": 384, "width": 384}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    expected = np.asarray(processor(square, return_tensors="np")["pixel_values"][0])

    found = prepare_picture(rgb, 384)

    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < PROCESSOR_TOLERANCE


def test_six_pictures_stand_in_the_order_of_the_reference():
    greys = {
        (moment, role): 20 * n
        for n, (moment, role) in enumerate(
            [(m, r) for m in (0, 1) for r in ("external", "right_wrist", "left_wrist")], start=1
        )
    }
    moments = [{role: jpeg_of(plain((g, g, g), 16, 16)) for (m, role), g in greys.items() if m == n} for n in (0, 1)]
    moments = [dict(reversed(moment.items())) for moment in moments]  # the order of the mapping does not matter

    pictures = prepare_pictures(moments, 16)

    assert pictures.shape == (6, 3, 16, 16)
    levels = (pictures.mean(axis=(1, 2, 3)) + 1) / LEVEL
    assert levels.tolist() == pytest.approx([20, 40, 60, 80, 100, 120], abs=1.5)


def test_missing_pictures_become_background():
    pictures = prepare_pictures([{}, {"right_wrist": jpeg_of(plain((255, 255, 255), 16, 16))}], 16)

    is_background = [np.array_equal(picture, background(16)) for picture in pictures]
    assert is_background == [True, True, True, True, False, True]
