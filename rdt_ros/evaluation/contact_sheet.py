"""One picture of many episodes: a row each, moments from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.evaluation.film import Strip

HEADER_HEIGHT = 30  # pixels above a row
GUTTER = 4
STAMP_SIZE = (24, 60)  # pixels of a moment's corner, height and width, in which its time stands
GREEN, RED, WHITE, BLACK = (20, 110, 40), (150, 30, 30), (255, 255, 255), (0, 0, 0)


def write_sheet(strips: Sequence[Strip], path: Path) -> None:
    """Writes a PNG; the header of a success is green, that of a failure red."""
    rows = [_row(strip) for strip in strips]
    if not cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)):
        raise InputError(f"{path}: could not be written")


def _row(strip: Strip) -> np.ndarray:
    """(H, W, 3) RGB: seed, outcome and time, and below it the moments with theirs."""
    frames = []
    for seconds, pixels in strip.moments:
        frame = pixels.copy()
        frame[: STAMP_SIZE[0], : STAMP_SIZE[1]] = BLACK
        _write(frame, f"{seconds:.1f} s", 0.45)
        frames.append(cv2.copyMakeBorder(frame, 0, GUTTER, 0, GUTTER, cv2.BORDER_CONSTANT, value=WHITE))
    pictures, result = np.hstack(frames), strip.result
    header = np.full((HEADER_HEIGHT, pictures.shape[1], 3), GREEN if result.success else RED, np.uint8)
    _write(header, f"seed {result.seed}   {result.how}   {result.seconds:.2f} s   {result.instruction}", 0.6)
    return np.vstack([header, pictures])


def _write(pixels: np.ndarray, text: str, scale: float) -> None:
    """White, in the upper left corner."""
    at = (8, round(6 + 24 * scale))
    cv2.putText(pixels, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, 1, cv2.LINE_AA)
