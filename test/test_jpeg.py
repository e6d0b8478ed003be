"""The one encoder and decoder: true colours, quality 95, 4:2:0."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rdt_ros import jpeg
from rdt_ros.errors import InputError

RED = np.full((32, 48, 3), (220, 30, 10), np.uint8)


def test_red_stays_red_for_every_decoder_and_encoder():
    data = jpeg.encode(RED)
    by_pil = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(by_pil.astype(int) - RED).max() <= 3
    assert np.abs(jpeg.decode(data).astype(int) - RED).max() <= 3
    assert jpeg.encode_bgr(np.ascontiguousarray(RED[..., ::-1])) == data


def test_gray_comes_back_as_three_equal_channels():
    gray = np.full((16, 16, 1), 90, np.uint8)
    assert np.abs(jpeg.decode(jpeg.encode(gray)).astype(int) - 90).max() <= 1


def test_the_files_are_of_quality_95_and_420():
    picture = Image.open(io.BytesIO(jpeg.encode(RED)))
    expected = io.BytesIO()
    Image.fromarray(RED).save(expected, "JPEG", quality=95, subsampling="4:2:0")
    assert picture.quantization == Image.open(expected).quantization
    assert picture.layer[0][1:3] == (2, 2)  # luminance sampled twice as densely, both ways


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg.encode(RED)[:40]])
def test_what_is_no_picture_is_refused_by_name(data):
    with pytest.raises(InputError, match="front: expected JPEG data, found"):
        jpeg.decode(data, "front")
