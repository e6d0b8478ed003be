"""What a pass is computed from, and when it is sent."""

from __future__ import annotations

import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.training.loader import Batch
from rdt_ros.training.loss import Noise
from rdt_ros.training.passes import Passes

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
WEIGHTS = {"a": torch.full((1, 128), 0.5), "b": torch.full((1, 128), 2.0)}


def batch(number: int) -> Batch:
    return Batch(
        states=torch.full((2, 1, 128), float(number)),
        actions=torch.full((2, 64, 128), float(number)),
        mask=torch.ones(2, 1, 128),
        rates_hz=torch.tensor([25.0, 0.0]),
        tokens=torch.zeros(2, 5, 64),
        token_mask=torch.ones(2, 5, dtype=torch.bool),
        pictures=torch.full((2, 6, 96, 96, 3), number, dtype=torch.uint8),
        distinct=torch.arange(12),
        encoded=torch.arange(12),
        state_norms=torch.ones(2, 128),
        datasets=("a", "b"),
        where=("a.hdf5 step 1", "b.hdf5 step 2"),
    )


def noise(number: int) -> Noise:
    return Noise(torch.full((2, 64, 128), float(number)), torch.tensor([number, number]))


@pytest.mark.parametrize("device", DEVICES)
def test_each_is_what_was_loaded_and_the_next_is_sent_when_told(device):
    loaded = []

    def loader():
        for number in range(20):
            loaded.append(number)
            yield batch(number), noise(number)

    passes = Passes(loader(), WEIGHTS, torch.device(device))
    found = []
    for number in range(20):
        one = passes.take()
        assert loaded[-1] == number
        with pytest.raises(LookupError):
            passes.take()
        assert all(tensor.device.type == device for tensor in one.tensors()) and len(one.tensors()) == 13
        # computed before and after the next is on its way, which is not to touch this one
        before = one.batch.pictures.sum() + one.noise.noise.sum() + one.batch.states.sum()
        passes.send()
        found.append((before, one.batch.pictures.sum() + one.noise.noise.sum() + one.batch.states.sum()))
        assert torch.equal(one.weights.cpu(), torch.stack([WEIGHTS["a"], WEIGHTS["b"]]))
        assert (one.batch.datasets, one.batch.where) == (batch(0).datasets, batch(0).where)
    size = 12 * 96 * 96 * 3 + 2 * 64 * 128 + 2 * 128
    assert [(a.item(), b.item()) for a, b in found] == [(size * n, size * n) for n in range(20)]
    with pytest.raises(LookupError):
        passes.take()


def test_what_the_loader_refuses_is_refused_when_it_would_be_sent():
    def loader():
        yield batch(1), noise(1)
        raise InputError("a.hdf5: step 3: no readable picture")

    passes = Passes(loader(), WEIGHTS, torch.device("cpu"))
    assert passes.take().batch.states.mean() == 1
    with pytest.raises(InputError, match="step 3"):
        passes.send()
