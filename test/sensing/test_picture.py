from __future__ import annotations

import cv2
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Camera
from rdt_ros.sensing.picture import RawPicture, compressed_picture, raw_picture
from rdt_ros.types import Picture

CAMERA = Camera("cam_high", "external", "camera_f/color/image_raw", 64, 48, 30.0, None)
RED, GREEN = (200, 30, 20), (20, 180, 40)  # RGB


def half_red_half_green() -> np.ndarray:
    """(48, 64, 3) RGB: left red, right green."""
    rgb = np.empty((48, 64, 3), np.uint8)
    rgb[:, :32], rgb[:, 32:] = RED, GREEN
    return rgb


def raw(pixels: np.ndarray, encoding: str, /, **changes) -> RawPicture:
    height, width = pixels.shape[:2]
    fields = {"encoding": encoding, "width": width, "height": height, "step": pixels[0].size, "data": pixels.tobytes()}
    return raw_picture(CAMERA, 7, **{**fields, **changes})


def decoded_rgb(picture: Picture) -> np.ndarray:
    return jpeg.decode(picture.jpeg).astype(int)


def assert_red_left_green_right(picture: Picture) -> None:
    rgb = decoded_rgb(picture)
    assert abs(rgb[:, :24].mean((0, 1)) - RED).max() < 4
    assert abs(rgb[:, 40:].mean((0, 1)) - GREEN).max() < 4


@pytest.mark.parametrize(("encoding", "order"), [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0])])
def test_raw_pictures_keep_their_colours(encoding: str, order: list[int]) -> None:
    picture = raw(half_red_half_green()[..., order], encoding).encode()
    assert (picture.camera, picture.stamp_ns) == ("cam_high", 7)
    assert_red_left_green_right(picture)


def test_gray_pictures_stay_gray() -> None:
    gray = np.full((48, 64), 90, np.uint8)
    rgb = decoded_rgb(raw(gray, "mono8").encode())
    assert abs(rgb - 90).max() <= 1


def test_rows_may_be_padded() -> None:
    padded = np.concatenate([half_red_half_green(), np.full((48, 4, 3), 255, np.uint8)], axis=1)
    assert_red_left_green_right(raw(padded, "rgb8", width=64).encode())


@pytest.mark.parametrize(
    "format", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "mono8; jpeg compressed ", ""]
)
def test_jpeg_passes_byte_for_byte(format: str) -> None:
    data = jpeg.encode(half_red_half_green())
    picture = compressed_picture(CAMERA, 7, format=format, data=data)
    assert picture.jpeg is data


def test_a_trailing_pad_does_not_hide_the_end() -> None:
    data = jpeg.encode(half_red_half_green()) + bytes(100)
    assert compressed_picture(CAMERA, 7, format="jpeg", data=data).jpeg == data


def test_png_is_encoded_anew_in_true_colours() -> None:
    _, png = cv2.imencode(".png", half_red_half_green()[..., ::-1])
    picture = compressed_picture(CAMERA, 7, format="rgb8; png compressed bgr8", data=png.tobytes())
    assert_red_left_green_right(picture.encode())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "16UC1"}, "cam_high: expected encoding rgb8, bgr8, mono8, found '16UC1'"),
        ({"width": 32}, "cam_high: expected 64x48 pixels, found 32x48"),
        ({"step": 100}, "cam_high: expected a step of 192 bytes, found 100"),
        ({"data": bytes(10)}, "cam_high: expected 9216 bytes, found 10"),
    ],
)
def test_a_wrong_raw_picture_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        raw(half_red_half_green(), "rgb8", **changes)
    assert str(error.value) == words


JPEG = jpeg.encode(half_red_half_green())


@pytest.mark.parametrize(
    ("format", "data", "words"),
    [
        ("16UC1; compressedDepth", bytes(100), "expected JPEG or PNG data, found format '16UC1; compressedDepth'"),
        ("rgb8; jpeg compressed rgb8", JPEG, "red and blue are swapped"),
        ("jpeg", JPEG[:-20], "expected a whole JPEG"),
        ("jpeg", JPEG[:100], "expected a whole JPEG"),
        ("jpeg", b"", "expected JPEG or PNG data"),
        ("jpeg", jpeg.encode(np.zeros((24, 64, 3), np.uint8)), "expected 64x48 pixels, found 64x24"),
        ("png", b"\x89PNG\r\n\x1a\n" + bytes(50), "expected a whole PNG"),
    ],
)
def test_a_wrong_compressed_picture_is_refused(format: str, data: bytes, words: str) -> None:
    with pytest.raises(InputError) as error:
        compressed_picture(CAMERA, 7, format=format, data=data)
    assert str(error.value).startswith("cam_high: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
