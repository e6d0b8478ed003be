"""Camera messages as JPEG of true colours: what arrives as JPEG stays byte for byte, the rest is encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Camera
from rdt_ros.types import Picture

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}

# Markers of ISO/IEC 10918-1, table B.1. A frame header is any SOFn, which leaves out DHT, JPG and DAC.
_START, _END, _SCAN = b"\xff\xd8\xff", b"\xff\xd9", 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class RawPicture:
    """A checked picture that is not encoded yet: only those that make it into a set need it."""

    camera: str
    stamp_ns: int
    encoding: str  # one of CHANNELS
    width: int
    step: int  # bytes a row, at least width x channels
    data: bytes

    def encode(self) -> Picture:
        """The picture as JPEG."""
        channels = CHANNELS[self.encoding]
        rows = np.frombuffer(self.data, np.uint8).reshape(-1, self.step)[:, : self.width * channels]
        pixels = rows.reshape(len(rows), self.width, channels)
        encode = jpeg.encode_bgr if self.encoding == "bgr8" else jpeg.encode
        return Picture(self.camera, self.stamp_ns, encode(pixels))


def raw_picture(
    camera: Camera, stamp_ns: int, *, encoding: str, width: int, height: int, step: int, data: bytes
) -> RawPicture:
    """An uncompressed message; InputError where it is not what the robot file says."""
    if encoding not in CHANNELS:
        raise InputError(f"{camera.name}: expected encoding {', '.join(CHANNELS)}, found {encoding!r}")
    _check_size(camera, width, height)
    if step < width * CHANNELS[encoding]:
        raise InputError(f"{camera.name}: expected a step of {width * CHANNELS[encoding]} bytes, found {step}")
    if len(data) != step * height:
        raise InputError(f"{camera.name}: expected {step * height} bytes, found {len(data)}")
    return RawPicture(camera.name, stamp_ns, encoding, width, step, data)


def compressed_picture(camera: Camera, stamp_ns: int, *, format: str, data: bytes) -> Picture | RawPicture:
    """A compressed message; its bytes, not its format field, say what it is. InputError where it cannot be used."""
    if data.startswith(_PNG):
        return _decoded(camera, stamp_ns, data)
    if not data.startswith(_START):
        raise InputError(f"{camera.name}: expected JPEG or PNG data, found format {format!r}")
    # image_transport encodes BGR; this suffix says that the driver gave it RGB, so the colours in the file are swapped.
    if format.endswith("compressed rgb8"):
        raise InputError(f"{camera.name}: expected true colours, found format {format!r}: red and blue are swapped")
    size = _jpeg_size(data)
    if size is None or data.rfind(_END) < 0:
        raise InputError(f"{camera.name}: expected a whole JPEG, found {len(data)} bytes that are cut short or damaged")
    _check_size(camera, *size)
    return Picture(camera.name, stamp_ns, data)


def _decoded(camera: Camera, stamp_ns: int, data: bytes) -> RawPicture:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise InputError(f"{camera.name}: expected a whole PNG, found {len(data)} bytes that are cut short or damaged")
    height, width, _ = pixels.shape
    _check_size(camera, width, height)
    return RawPicture(camera.name, stamp_ns, "bgr8", width, 3 * width, pixels.tobytes())


def _check_size(camera: Camera, width: int, height: int) -> None:
    if (width, height) != (camera.width, camera.height):
        raise InputError(f"{camera.name}: expected {camera.width}x{camera.height} pixels, found {width}x{height}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header, None where there is none before the first scan."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            return width, height
        if marker == _SCAN:
            return None
        # 0xFF may repeat before a marker
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
