"""Frames in chunks: HDF5's own filter reads them, damage is seen, quality is known, too large ones shrink."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.episodes import frames
from rdt_ros.errors import InputError

END = b"\xff\xd9"


@given(st.binary(max_size=70_000), st.integers(0, 70_000))
def test_a_packed_frame_is_a_zlib_stream_of_frame_and_zeros(data, padding):
    size = len(data) + padding
    assert zlib.decompress(frames.packed(data, size)) == data.ljust(size, b"\0")


@given(st.binary(max_size=2000), st.integers(0, 3000), st.data())
def test_a_damaged_chunk_is_never_taken_for_another_frame(data, padding, draw):
    frame = frames.START + data + END
    chunk = bytearray(frames.packed(frame, len(frame) + padding))
    assert frames.unpacked(bytes(chunk), len(frame) + padding) == frame
    chunk[draw.draw(st.integers(0, len(chunk) - 1))] ^= draw.draw(st.integers(1, 255))
    assert frames.unpacked(bytes(chunk), len(frame) + padding) in (None, frame)  # a header's spare bits say nothing
    assert frames.unpacked(bytes(chunk[: len(chunk) // 2]), len(frame) + padding) is None


def test_padding_costs_next_to_nothing(maker):
    jpeg = maker.jpeg(height=480, width=640)
    assert len(frames.packed(jpeg, 2 * len(jpeg))) < 1.02 * len(jpeg)


@pytest.mark.parametrize("quality", [1, 50, 75, 95, 100])
def test_quality_is_read_from_the_frame(maker, quality):
    assert frames.quality(maker.jpeg(quality)) == quality


def test_quality_of_other_bytes_is_unknown():
    assert frames.quality(b"") is None
    assert frames.quality(b"\xff\xd8\xff\xe0\x00\x10") is None


def test_stored_is_the_frame_without_zeros_after_its_end(maker):
    jpeg = maker.jpeg()
    assert frames.stored(jpeg + bytes(5), "cam") == jpeg
    with pytest.raises(InputError, match=r"cam: expected a JPEG picture, found 3 bytes"):
        frames.stored(b"png", "cam")


def test_smaller_fits_and_shows_the_same(maker):
    pixels = cv2.resize(maker.random.integers(0, 256, (6, 8, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    less = frames.smaller(jpeg, len(jpeg) // 2, "cam")
    assert len(less) <= len(jpeg) // 2
    shown = cv2.imdecode(np.frombuffer(less, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown.astype(int) - pixels).mean() < 3
    with pytest.raises(InputError, match="cam: expected a picture of at most 10 bytes"):
        frames.smaller(jpeg, 10, "cam")
