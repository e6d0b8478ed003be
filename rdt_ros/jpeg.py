"""The one JPEG encoder and the one decoder, so that recorder, training and robot see the same pixels.

Pictures outside are RGB; the files decode to true colours in any decoder.
"""

from __future__ import annotations

import cv2
import numpy as np

from rdt_ros.errors import InputError

QUALITY = 95
SETTINGS = (
    cv2.IMWRITE_JPEG_QUALITY,
    QUALITY,
)  # 4:2:0 is OpenCV's default; old versions cannot be told, a test holds it


def encode(pixels: np.ndarray) -> bytes:
    """JPEG of (H, W, 3) uint8 RGB or (H, W, 1) uint8 gray: quality 95, 4:2:0."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    return encode_bgr(bgr)


def encode_bgr(pixels: np.ndarray) -> bytes:
    """The same of (H, W, 3) uint8 BGR or (H, W, 1) uint8 gray, as cameras with OpenCV inside give it."""
    return cv2.imencode(".jpg", pixels, SETTINGS)[1].tobytes()


def decode(jpeg: bytes, name: str = "picture") -> np.ndarray:
    """(H, W, 3) uint8 RGB; InputError with `name` where the bytes are no picture."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if bgr is None:
        raise InputError(f"{name}: expected JPEG data, found {len(jpeg)} bytes that do not decode")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
