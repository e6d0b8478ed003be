"""An episode as an MP4 that every browser plays: its cameras side by side, each step shown at its own time."""

from __future__ import annotations

import fractions
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.jpeg import decode
from rdt_ros.types import NS_PER_S

PACKAGE = "av==18.1.0"
TIME_BASE = fractions.Fraction(1, 90_000)
STRIP_HEIGHT = 32  # pixels above the pictures for time and step
WRITING = ".writing"
ENCODER = {"preset": "veryfast", "crf": "23"}  # x264: good enough to judge an episode, quick on a robot's computer
BT601 = 6  # H.264's number of the colour space in which RGB is converted, for primaries, transfer and matrix alike
TV_RANGE = 1


def write_video(
    episode: EpisodeReader, path: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Writes H.264 (yuv420p). A step stands until the next one's tick, so lost steps are seen as a hold.

    `progress` hears steps done and steps in all. InputError where there are no pictures, or PyAV is not installed.
    """
    av = _pyav()
    if not len(episode) or not episode.content.pictures:
        raise InputError(f"{episode.path}: expected pictures to make a video of, found none")
    scratch = path.with_name(path.name + WRITING)
    try:
        with av.open(scratch, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["title"] = episode.instruction
            _encode(av, container, episode, progress)
        scratch.rename(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror or error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def _pyav():
    try:
        import av
    except ImportError:
        raise InputError(f"video: expected the package PyAV, found none: pip install {PACKAGE}") from None
    return av


def _encode(av, container, episode: EpisodeReader, progress: Callable[[int, int], None]) -> None:
    rate = fractions.Fraction(episode.robot.control_rate_hz).limit_denominator(1000)
    stream = container.add_stream("libx264", rate=rate, options=ENCODER)
    first = _canvas(episode, 0)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = TIME_BASE
    context.gop_size = round(rate)  # a key frame a second, so that jumping in the browser is quick
    context.color_primaries = context.color_trc = context.colorspace = BT601
    context.color_range = TV_RANGE
    due = np.round((episode.ticks - episode.ticks[0]) * (TIME_BASE.denominator / NS_PER_S)).astype(int).tolist()
    lasts = [*np.diff(due).tolist(), round(TIME_BASE.denominator / rate)]
    for step, (pts, duration) in enumerate(zip(due, lasts, strict=True)):
        frame = av.VideoFrame.from_ndarray(_canvas(episode, step, first.shape[0]), format="rgb24")
        frame.pts, frame.time_base, frame.duration = pts, TIME_BASE, duration
        container.mux(stream.encode(frame))
        progress(step + 1, len(episode))
    container.mux(stream.encode(None))


def _canvas(episode: EpisodeReader, step: int, height: int = 0) -> np.ndarray:
    """(H, W, 3) RGB, both even as H.264 wants it: the pictures side by side, as high as the first, and the text."""
    shown = []
    for camera, jpeg in episode.content.pictures.items():
        pixels = decode(jpeg(step), f"{episode.path}: {camera}, step {step}")
        height = height or pixels.shape[0] // 2 * 2 + STRIP_HEIGHT
        inside = height - STRIP_HEIGHT
        width = round(pixels.shape[1] * inside / pixels.shape[0] / 2) * 2
        shown.append(cv2.resize(pixels, (width, inside)) if pixels.shape[:2] != (inside, width) else pixels)
    row = np.hstack(shown)
    canvas = np.zeros((height, row.shape[1], 3), np.uint8)
    canvas[STRIP_HEIGHT:] = row
    seconds = (episode.ticks[step] - episode.ticks[0]) / NS_PER_S
    text = f"{seconds:7.2f} s   step {step} of {len(episode)}"
    cv2.putText(canvas, text, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas
