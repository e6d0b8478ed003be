"""Tokens of JPEGs, kept for as long as the same bytes may come again: the older picture of a step is usually known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

import numpy as np
import torch
from torch import Tensor

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.model.fast.kernels import Kernels
from rdt_ros.model.fast.pictures import Uploads
from rdt_ros.model.fast.stage import Recorder, Stage
from rdt_ros.model.fast.tower import FastTower
from rdt_ros.model.preprocess import background, prepare_picture
from rdt_ros.model.vision import SiglipEncoder, VisionEncoder
from rdt_ros.robot.description import CAMERA_ROLES

PICTURES = ("auto", "exact", "device")
MOMENTS = 2
MOST = MOMENTS * len(CAMERA_ROLES)  # pictures of a step
KEPT = 2 * MOST  # pictures whose tokens are kept; a step needs at most half of them
BATCHES = (len(CAMERA_ROLES), MOST)  # numbers of pictures that are encoded at once


class FastEncoder:
    """`prepare_pictures` and `VisionEncoder.tokens` for the pictures of one step after another.

    Tokens follow from the JPEG's bytes alone, so equal bytes find theirs whatever camera and time they are of.
    `pictures` "exact" prepares them on the CPU as training does, "device" where the encoder is.
    """

    def __init__(
        self, vision: VisionEncoder, dtype: torch.dtype, pictures: str, recorder: Recorder, kernels: Kernels
    ) -> None:
        device = recorder.device
        self._size = vision.image_size
        self._exact = pictures == "exact"
        self._images = torch.zeros(MOST, 3, self._size, self._size, device=device, dtype=dtype)
        self._encoded = torch.zeros(MOST, vision.patches, vision.width, device=device, dtype=dtype)
        self._known: list[tuple[bytes, Tensor]] = []  # least recently used first
        self._free = list(torch.zeros(KEPT, vision.patches, vision.width, device=device, dtype=dtype))
        self._threads = ThreadPoolExecutor(MOST - 1, thread_name_prefix="decode")
        self._uploads = Uploads(self._images, recorder)

        tokens = vision.tokens
        if isinstance(vision, SiglipEncoder):
            tokens = FastTower(vision, kernels, recorder.options.tower_attention).tokens
        self._stages: dict[int, Stage] = {}
        for count in BATCHES:
            self._stages[count] = recorder.stage(functools.partial(self._encode, tokens, count))
        self._images[0].copy_(torch.from_numpy(background(self._size)))
        self._stages[BATCHES[0]]()
        self._background = self._encoded[0].clone()

    def see(self, jpegs: Sequence[bytes | None]) -> None:
        """Encodes and keeps those of a step's pictures that are not known, without waiting for a GPU."""
        new: list[tuple[bytes, str]] = []
        for i, data in enumerate(jpegs):
            if data is not None and self._find(data) is None and all(data != other for other, _ in new):
                new.append((data, CAMERA_ROLES[i % len(CAMERA_ROLES)]))
        if len(new) > MOST:
            raise InputError(f"pictures: expected at most {MOST}, found {len(new)}")
        if not new:
            return
        pictures = self.decode(new)
        if not self._exact:
            self._uploads.finish(pictures)
        self._stages[next(count for count in BATCHES if count >= len(new))]()
        kept = [self._free.pop() if self._free else self._known.pop(0)[1] for _ in new]
        torch._foreach_copy_(kept, list(self._encoded[: len(new)]))
        self._known += [(data, tokens) for (data, _), tokens in zip(new, kept, strict=True)]

    def decode(self, jpegs: Sequence[tuple[bytes, str]]) -> list[np.ndarray]:
        """Pictures of JPEGs with names; each is on its way to the device while others are decoded.

        The last is decoded here: a thread takes a third of the time of decoding to wake.
        """
        self._uploads.wait()
        work = self._prepared if self._exact else self._decoded
        jobs = [functools.partial(work, place, *jpeg) for place, jpeg in enumerate(jpegs)]
        others = {self._threads.submit(job): place for place, job in enumerate(jobs[:-1])}
        try:
            last = jobs[-1]()
            self._send(len(others), last)
            for picture in as_completed(others):
                self._send(others[picture], picture.result())
        finally:
            wait(others)  # also for those beside one that fails: they write to where the next will lie
        return [*(picture.result() for picture in others), last]

    def send(self, pictures: Sequence[np.ndarray]) -> None:
        """Brings decoded pictures to the encoder's input, as `decode` does with each."""
        for place, picture in enumerate(pictures):
            self._send(place, picture)

    def collect(self, jpegs: Sequence[bytes | None], out: Tensor) -> None:
        """Tokens of pictures that are known, one after the other into (n * patches, width); None is background."""
        found = []
        for data in jpegs:
            tokens = self._background if data is None else self._find(data)
            assert tokens is not None  # see() came before
            found.append(tokens)
        torch._foreach_copy_(list(out.unflatten(0, (len(jpegs), -1))), found)

    def tokens(self, images: Tensor, out: Tensor) -> None:
        """Tokens of a step's prepared pictures (6, 3, size, size), one after the other into (6 * patches, width)."""
        self._images.copy_(images)
        self._stages[MOST]()
        out.copy_(self._encoded.flatten(0, 1))

    def encode(self, count: int) -> Stage:
        """What encodes the first `count` prepared pictures, one of BATCHES."""
        return self._stages[count]

    def _encode(self, tokens: Callable[[Tensor], Tensor], count: int) -> None:
        self._encoded[:count].copy_(tokens(self._images[:count]))

    def _find(self, data: bytes) -> Tensor | None:
        """Its tokens, which become the last that will be given up."""
        for i, (other, tokens) in enumerate(self._known):
            if other == data:
                self._known.append(self._known.pop(i))
                return tokens
        return None

    def _prepared(self, _place: int, data: bytes, role: str) -> np.ndarray:
        return prepare_picture(jpeg.decode(data, role), self._size)

    def _decoded(self, place: int, data: bytes, role: str) -> np.ndarray:
        rgb = jpeg.decode(data, role)
        self._uploads.put(place, rgb)
        return rgb

    def _send(self, place: int, picture: np.ndarray) -> None:
        if self._exact:
            self._images[place].copy_(torch.from_numpy(picture))
        else:
            self._uploads.send(place, picture)
