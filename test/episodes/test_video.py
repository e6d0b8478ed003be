"""The film of an episode, read back."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.video import STRIP_HEIGHT, write_video
from rdt_ros.errors import InputError
from rdt_ros.types import Picture

RED, GREEN, BLUE = (230, 20, 20), (20, 200, 20), (20, 20, 230)


@pytest.fixture
def path(maker, tmp_path):
    """Cameras in one colour each; the last one is smaller, its height is odd, and it darkens with every step."""
    observations = []
    for i, observation in enumerate(maker.observations(32)):
        if 10 <= i < 15:
            continue
        colours = {"cam_high": RED, "cam_left_wrist": GREEN, "cam_right_wrist": tuple(c * (60 - i) // 60 for c in BLUE)}
        pictures = tuple(
            Picture(p.camera, p.stamp_ns, jpeg.encode(np.full(size, colours[p.camera], np.uint8)))
            for p, size in zip(observation.pictures, [(120, 160, 3)] * 2 + [(61, 80, 3)], strict=True)
        )
        observations.append(dataclasses.replace(observation, pictures=pictures))
    maker.write(tmp_path / "e.hdf5", observations)
    return tmp_path / "e.hdf5"


def test_every_step_is_shown_at_its_time_in_its_colours(path, tmp_path):
    av = pytest.importorskip("av")
    heard = []
    with EpisodeReader(path) as episode:
        ticks = episode.ticks
        write_video(episode, tmp_path / "e.mp4", progress=lambda done, total: heard.append((done, total)))
        instruction = episode.instruction

    with av.open(str(tmp_path / "e.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.format.name) == ("h264", "yuv420p")
        assert container.metadata["title"] == instruction
        seconds = float(stream.duration * stream.time_base)
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]

    assert len(ticks) == 23 == len(frames) and heard == [(i + 1, 23) for i in range(23)]  # 8, 9 had no action
    np.testing.assert_allclose([time for time, _ in frames], (ticks - ticks[0]) / 1e9, atol=1e-4)
    assert seconds == pytest.approx((ticks[-1] - ticks[0]) / 1e9 + 0.04, abs=1e-3)
    for i, (_, pixels) in enumerate(frames):
        assert pixels.shape == (120 + STRIP_HEIGHT, 160 + 160 + 158, 3)
        tick = ticks[i] // 40_000_000 - 100
        expected = (RED, GREEN, tuple(c * (60 - tick) // 60 for c in BLUE))
        for column, colour in zip((80, 240, 400), expected, strict=True):
            patch = pixels[STRIP_HEIGHT + 40 : STRIP_HEIGHT + 80, column - 20 : column + 20].mean(axis=(0, 1))
            np.testing.assert_allclose(patch, colour, atol=12)
        assert pixels[:STRIP_HEIGHT].max() > 150  # the text
    assert not list(tmp_path.glob("*.writing"))


def test_without_the_library_it_is_one_line(path, tmp_path, monkeypatch):
    with EpisodeReader(path) as episode:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(InputError, match="expected the package PyAV, found none: pip install av=="):
            write_video(episode, tmp_path / "e.mp4")
    assert not list(tmp_path.glob("*.mp4*"))


def test_without_pictures_it_is_one_line(maker, tmp_path):
    pytest.importorskip("av")
    maker.write(tmp_path / "e.hdf5", [dataclasses.replace(o, pictures=()) for o in maker.observations(5)])
    with EpisodeReader(tmp_path / "e.hdf5") as episode, pytest.raises(InputError, match="expected pictures to make"):
        write_video(episode, tmp_path / "e.mp4")


def test_a_damaged_picture_leaves_no_film(path, tmp_path):
    pytest.importorskip("av")
    with EpisodeReader(path) as episode:
        pictures = {**episode.content.pictures, "cam_high": lambda step: b"\xff\xd8 no picture"}
        episode.content = dataclasses.replace(episode.content, pictures=pictures)
        with pytest.raises(InputError, match="cam_high, step 0: expected JPEG data"):
            write_video(episode, tmp_path / "e.mp4")
    assert not list(tmp_path.glob("*.mp4*"))
