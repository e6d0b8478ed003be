"""Who decodes a step's pictures, and that nothing goes on when one of them fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.model.fast.encoder import MOST, FastEncoder
from rdt_ros.model.fast.kernels import Kernels
from rdt_ros.model.fast.stage import FastOptions, Recorder
from rdt_ros.model.preprocess import prepare_picture
from rdt_ros.model.vision import SiglipEncoder

BROKEN = b"no picture"
Decode = Callable[[bytes, str], np.ndarray]


@pytest.fixture(scope="module")
def vision() -> SiglipEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SiglipEncoder.random("tiny")


@pytest.fixture(params=["exact", "device"])
def encoder(request: pytest.FixtureRequest, vision: SiglipEncoder) -> Iterator[FastEncoder]:
    recorder = Recorder(torch.device("cpu"), FastOptions(compiled=False))
    with torch.inference_mode():
        yield FastEncoder(vision, torch.float32, request.param, recorder, Kernels(recorder))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, list[threading.Thread]]:
    """Which threads decoded which pictures."""
    found: dict[bytes, list[threading.Thread]] = {}
    decode = jpeg.decode

    def noted(data: bytes, name: str) -> np.ndarray:
        found.setdefault(data, []).append(threading.current_thread())
        return decode(data, name)

    monkeypatch.setattr(jpeg, "decode", noted)
    return found


def pictures(count: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng([seed, count])
    return [jpeg.encode(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 3, MOST])
def test_tokens_are_those_of_the_plain_encoder(encoder: FastEncoder, vision: SiglipEncoder, count: int):
    jpegs = pictures(count)
    images = torch.from_numpy(np.stack([prepare_picture(jpeg.decode(data), vision.image_size) for data in jpegs]))

    encoder.see(jpegs)

    found = torch.zeros(count * vision.patches, vision.width)
    encoder.collect(jpegs, found)
    expected = vision.tokens(images).flatten(0, 1)
    # Pictures on the device may be one of 256 levels off.
    assert (found - expected).norm() < 5e-3 * expected.norm()


@pytest.mark.parametrize("count", [1, 3, MOST])
def test_the_caller_decodes_the_last_and_threads_the_others(encoder: FastEncoder, decoded, count: int):
    jpegs = pictures(count)

    encoder.see(jpegs)
    encoder.see(jpegs)  # known already

    here = threading.current_thread()
    assert [[thread is here for thread in decoded[data]] for data in jpegs] == [[False]] * (count - 1) + [[True]]


@pytest.mark.parametrize("place", [0, MOST - 1])
def test_a_broken_picture_is_reported_when_nothing_is_under_way_any_more(
    encoder: FastEncoder, vision: SiglipEncoder, monkeypatch: pytest.MonkeyPatch, place: int
):
    jpegs = pictures(MOST)
    jpegs[place] = BROKEN
    decode, may_end, under_way = jpeg.decode, threading.Event(), set()

    def slow(data: bytes, name: str) -> np.ndarray:
        under_way.add(data)
        if data == BROKEN:
            may_end.set()
        elif data is jpegs[2]:
            may_end.wait(10)
            time.sleep(0.05)  # the broken one fails first
        try:
            return decode(data, name)
        finally:
            under_way.remove(data)

    monkeypatch.setattr(jpeg, "decode", slow)
    with pytest.raises(InputError, match="expected JPEG data, found 10 bytes"):
        encoder.see(jpegs)

    assert not under_way
    jpegs[place] = jpegs[1]
    encoder.see(jpegs)  # goes on as if nothing had been
    encoder.collect(jpegs, torch.zeros(MOST * vision.patches, vision.width))


def test_pictures_may_differ_in_size_and_grow(encoder: FastEncoder, vision: SiglipEncoder):
    rng = np.random.default_rng(0)
    for shapes in ([(48, 64), (30, 40), (48, 64)], [(96, 128), (30, 40), (64, 48)], [(48, 64)] * MOST):
        jpegs = [jpeg.encode(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]

        encoder.see(jpegs)

        found = torch.zeros(len(jpegs) * vision.patches, vision.width)
        encoder.collect(jpegs, found)
        images = [prepare_picture(jpeg.decode(data), vision.image_size) for data in jpegs]
        expected = vision.tokens(torch.from_numpy(np.stack(images))).flatten(0, 1)
        assert (found - expected).norm() < 5e-3 * expected.norm()
