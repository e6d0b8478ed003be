"""Tokens of JPEGs, kept for as long as the same bytes may come again: the older picture of a step is usually known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

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
        self._begun: list[tuple[bytes, Future]] = []
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

    def begin(self, jpegs: Sequence[bytes | None]) -> list[tuple[bytes, Future]]:
        """Starts to decode those of a step's pictures whose tokens are not known, unless they are under way.

        The last of them is left to who asks for it: a thread takes a third of the time of decoding to wake.
        """
        new: list[tuple[bytes, str]] = []
        for i, data in enumerate(jpegs):
            if data is not None and self._find(data) is None and all(data != other for other, _ in new):
                new.append((data, CAMERA_ROLES[i % len(CAMERA_ROLES)]))
        if len(new) > MOST:
            raise InputError(f"pictures: expected at most {MOST}, found {len(new)}")
        if [data for data, _ in new] == [data for data, _ in self._begun]:
            return self._begun
        wait([future for _, future in self._begun[:-1]])  # of a step that was given up: they write to the room
        self._uploads.wait()
        work = self._prepared if self._exact else self._decoded
        jobs = [functools.partial(work, data, role, place) for place, (data, role) in enumerate(new)]
        pictures = [self._threads.submit(job) for job in jobs[:-1]] + [_Asked(job) for job in jobs[-1:]]
        self._begun = [(data, picture) for (data, _), picture in zip(new, pictures, strict=True)]
        return self._begun

    def finish(self, begun: Sequence[tuple[bytes, Future]]) -> None:
        """Encodes what was decoded and keeps the tokens; while some are decoded, others go to the device."""
        if not begun:
            return
        places = {picture: place for place, (_, picture) in enumerate(begun)}
        try:
            begun[-1][1].result()
            for picture in as_completed(places):
                if not self._exact:
                    self._uploads.send(places[picture], picture.result())
        finally:
            wait([picture for _, picture in begun[:-1]])  # also for those beside one that fails
            self._begun = []
        found = [picture.result() for _, picture in begun]
        if self._exact:
            self._images[: len(found)].copy_(torch.from_numpy(np.stack(found)))
        else:
            self._uploads.finish(found)
        self._stages[next(count for count in BATCHES if count >= len(begun))]()
        for (data, _), tokens in zip(begun, self._encoded, strict=False):
            kept = self._free.pop() if self._free else self._known.pop(0)[1]
            kept.copy_(tokens)
            self._known.append((data, kept))

    def collect(self, jpegs: Sequence[bytes | None], out: Tensor) -> None:
        """Tokens of pictures that are known, one after the other into (n * patches, width); None is background."""
        for data, rows in zip(jpegs, out.unflatten(0, (len(jpegs), -1)), strict=True):
            tokens = self._background if data is None else self._find(data)
            assert tokens is not None  # finish() came before
            rows.copy_(tokens)

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

    def _prepared(self, data: bytes, role: str, _place: int) -> np.ndarray:
        return prepare_picture(jpeg.decode(data, role), self._size)

    def _decoded(self, data: bytes, role: str, place: int) -> np.ndarray:
        rgb = jpeg.decode(data, role)
        self._uploads.put(place, rgb)
        return rgb


class _Asked(Future):
    """What a job gives; whoever asks first does it."""

    def __init__(self, job: Callable[[], np.ndarray]) -> None:
        super().__init__()
        self._job = job

    def result(self, timeout: float | None = None) -> np.ndarray:
        """Does the job unless it is done; raises what it raises."""
        if not self.done():
            self.set_result(self._job())
        return super().result(timeout)
