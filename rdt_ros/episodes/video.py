"""An episode as an MP4 that every browser plays: its cameras side by side, each step shown at its own time."""

from __future__ import annotations

import fractions
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    _pyav()  # before the episode is looked at: what is not installed is the better thing to say
    if not len(episode) or not episode.content.pictures:
        raise InputError(f"{episode.path}: expected pictures to make a video of, found none")

    def canvas(step: int, height: int) -> np.ndarray:
        pictures = {
            f"{episode.path}: {camera}, step {step}": jpeg(step) for camera, jpeg in episode.content.pictures.items()
        }
        seconds = (episode.ticks[step] - episode.ticks[0]) / NS_PER_S
        return side_by_side(pictures, f"{seconds:7.2f} s   step {step} of {len(episode)}", height)

    write_frames(
        path,
        episode.ticks,
        canvas,
        rate_hz=episode.robot.control_rate_hz,
        title=episode.instruction,
        progress=progress,
    )


def write_frames(
    path: Path,
    stamps_ns: np.ndarray,
    canvas: Callable[[int, int], np.ndarray],
    *,
    rate_hz: float,
    title: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes an MP4 of frames, each shown from its stamp (N,) to the next one's.

    `canvas` gives frame k as `side_by_side` does, with the height of the first one; that one is asked for with 0.
    """
    av = _pyav()
    scratch = path.with_name(path.name + WRITING)
    try:
        with av.open(scratch, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["title"] = title
            _encode(av, container, stamps_ns, canvas, rate_hz, progress)
        scratch.rename(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror or error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def side_by_side(pictures: Mapping[str, bytes], text: str, height: int = 0) -> np.ndarray:
    """(H, W, 3) RGB, both even as H.264 wants it: JPEG pictures, as high as the first, and a text above them.

    `pictures` has what errors call each one; `height` 0 is the first picture's own.
    """
    shown = []
    for name, jpeg in pictures.items():
        pixels = decode(jpeg, name)
        height = height or pixels.shape[0] // 2 * 2 + STRIP_HEIGHT
        inside = height - STRIP_HEIGHT
        width = round(pixels.shape[1] * inside / pixels.shape[0] / 2) * 2
        shown.append(cv2.resize(pixels, (width, inside)) if pixels.shape[:2] != (inside, width) else pixels)
    row = np.hstack(shown)
    canvas = np.zeros((height, row.shape[1], 3), np.uint8)
    canvas[STRIP_HEIGHT:] = row
    cv2.putText(canvas, text, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def _pyav():
    try:
        import av
    except ImportError:
        raise InputError(f"video: expected the package PyAV, found none: pip install {PACKAGE}") from None
    return av


def _encode(
    av: Any,
    container: Any,
    stamps_ns: np.ndarray,
    canvas: Callable[[int, int], np.ndarray],
    rate_hz: float,
    progress: Callable[[int, int], None],
) -> None:
    rate = fractions.Fraction(rate_hz).limit_denominator(1000)
    stream = container.add_stream("libx264", rate=rate, options=ENCODER)
    first = canvas(0, 0)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = TIME_BASE
    context.gop_size = round(rate)  # a key frame a second, so that jumping in the browser is quick
    context.color_primaries = context.color_trc = context.colorspace = BT601
    context.color_range = TV_RANGE
    due = np.round((stamps_ns - stamps_ns[0]) * (TIME_BASE.denominator / NS_PER_S)).astype(int).tolist()
    lasts = [*np.diff(due).tolist(), round(TIME_BASE.denominator / rate)]
    for step, (pts, duration) in enumerate(zip(due, lasts, strict=True)):
        frame = av.VideoFrame.from_ndarray(canvas(step, first.shape[0]), format="rgb24")
        frame.pts, frame.time_base, frame.duration = pts, TIME_BASE, duration
        container.mux(stream.encode(frame))
        progress(step + 1, len(stamps_ns))
    container.mux(stream.encode(None))
