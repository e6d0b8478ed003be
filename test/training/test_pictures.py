"""Frames out of files, and the pixels that the encoder gets."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pytest
import torch

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.model.preprocess import prepare_picture
from rdt_ros.training import pictures
from rdt_ros.training.pictures import FrameReader, FrameSource, background, normalised, resized

IMAGES = "/observations/images/cam_high"


@pytest.mark.parametrize(
    ("shape", "levels"), [((480, 640), 1), ((640, 480), 1), ((720, 1280), 1), ((101, 77), 2), ((384, 384), 0)]
)
def test_pixels_are_those_of_the_robots_preprocessing(shape, levels):
    """Torch's resize and Pillow's round apart in a few of a thousand values."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    rgb = np.clip(cv2.resize(coarse, shape[::-1]) + rng.integers(-9, 10, (*shape, 3)), 0, 255).astype(np.uint8)
    ours = normalised(torch.from_numpy(resized(rgb, 384))).numpy()
    expected = prepare_picture(rgb, 384)
    difference = np.abs(ours - expected)
    assert difference.max() <= levels / 127.5 + 1e-6
    assert (difference > 1e-6).mean() < 0.005


def test_numbers_are_bit_by_bit_those_of_the_robots_preprocessing():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(normalised(torch.from_numpy(levels)).numpy(), prepare_picture(levels, 16))
    assert normalised(torch.from_numpy(background(8))).unique().tolist() == pytest.approx([-0.5 / 127.5])


@pytest.fixture
def file(maker, tmp_path):
    return maker.write(tmp_path / "e.hdf5", steps=3)


def read(path, robot, order="", step=1):
    reader = FrameReader()
    try:
        return reader.rgb(FrameSource(path, robot, order), "cam_high", step)
    finally:
        reader.close()


def test_colours_are_those_of_the_files_convention(maker, file):
    standard = jpeg.decode(maker.picture(1, 0))
    assert np.array_equal(read(file, maker.robot), standard[..., ::-1])  # published files have red and blue exchanged
    assert np.array_equal(read(file, maker.robot, "rgb"), standard)


def test_frames_that_are_not_encoded_are_taken_as_they_are(maker, file):
    raw = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), np.uint8)
    with h5py.File(file, "a") as content:
        del content[IMAGES]
        content[IMAGES] = raw
    assert np.array_equal(read(file, maker.robot), raw[1])
    assert np.array_equal(read(file, maker.robot, "bgr"), raw[1][..., ::-1])


@pytest.mark.parametrize(
    ("step", "data", "message"),
    [(1, b"\xff\xd8 broken", "do not decode"), (1, b"", "expected a JPEG"), (7, b"", "no readable picture")],
)
def test_a_broken_frame_is_named(maker, file, step, data, message):
    with h5py.File(file, "a") as content:
        content[IMAGES][1] = data
    with pytest.raises(InputError, match=rf"e.hdf5: step {step}: cam_high: .*{message}") as error:
        read(file, maker.robot, step=step)
    assert "\n" not in str(error.value)


def test_few_files_stay_open(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "OPEN_FILES", 2)
    reader = FrameReader()
    for name in "abcab":
        path = tmp_path / f"{name}.hdf5"
        if not path.exists():
            maker.write(path, steps=2)
        assert reader.rgb(FrameSource(path, maker.robot), "cam_high", 0).shape == (48, 64, 3)
    assert [path.stem for path in reader._files] == ["a", "b"]
    reader.close()
