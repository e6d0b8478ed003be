"""The learning rate's course, and that two halves of a weight are the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from rdt_ros.errors import InputError
from rdt_ros.training import optimizer as module
from rdt_ros.training.optimizer import SplitWeights, clipped_step, joined, learning_rate, make_optimizer, split
from rdt_ros.training.recipe import OptimizerConfig


def test_the_rate_rises_evenly_and_then_stays_or_falls_to_its_end():
    constant = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(step, 10, constant) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="cosine", final_share=0.1)
    rates = [learning_rate(step, 12, cosine) for step in range(13)]
    assert rates[:3] == [0.5, 1, 1] and rates[7] == pytest.approx(0.55) and rates[12] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[2:], rates[3:], strict=False))
    assert learning_rate(0, 5, OptimizerConfig(learning_rate=2.0, warmup_steps=0)) == 2


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127, min_value=-(2.0**127)),
        min_size=1,
    )
)
def test_two_halves_are_the_whole_bit_by_bit(values):
    full = torch.tensor(values, dtype=torch.float32)
    upper, lower = split(full)
    assert torch.equal(joined(upper, lower).view(torch.int32), full.view(torch.int32))
    assert upper.dtype == torch.bfloat16 and lower.dtype == torch.int16
    nearest = (full - full.to(torch.bfloat16).float()).abs()
    assert torch.equal((full - upper.float()).abs(), nearest)  # at a tie either neighbour is


@pytest.mark.parametrize("chunk", [2**25, 100])
def test_steps_on_halves_are_those_on_float32(chunk, monkeypatch):
    """A learning rate at which bfloat16 alone would stand still."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    config = OptimizerConfig(learning_rate=1e-5)
    shapes, rng = [(9, 7), (30,), (70,)], torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    whole = [Parameter(tensor.clone()) for tensor in start]
    halves = [Parameter(tensor.bfloat16()) for tensor in start]
    plain = make_optimizer(whole, config)
    both = SplitWeights(halves, lambda weights: make_optimizer(weights, config))
    for parameter, tensor in zip(halves, start, strict=True):
        both.adopt(parameter, tensor)
    for step in range(20):
        for one, other in zip(whole, halves, strict=True):
            gradient = torch.randn(one.shape, generator=rng).bfloat16()
            one.grad, other.grad = gradient.float(), gradient
        for optimizer in (plain, both):
            optimizer.param_groups[0]["lr"] = 1e-5 * (step + 1)
            optimizer.step()
            optimizer.zero_grad()
    for one, other, tensor in zip(whole, halves, start, strict=True):
        assert torch.equal(both.full(other), one.detach()) and not torch.equal(one.detach(), tensor)
        assert other.dtype == torch.bfloat16 and other.grad is None


def test_moments_of_halves_are_kept_in_float32_by_saving_and_loading():
    config = OptimizerConfig()
    optimizers = []
    for _ in range(2):
        parameter = Parameter(torch.ones(4).bfloat16())
        optimizer = SplitWeights([parameter], lambda weights: make_optimizer(weights, config))
        optimizer.adopt(parameter, torch.ones(4))
        optimizers.append((parameter, optimizer))
    (first, saved), (second, loaded) = optimizers
    first.grad = torch.tensor([0.1, 0.2, 0.3, 1 / 3]).bfloat16()
    saved.step()
    loaded.load_state_dict(saved.state_dict())
    moments = loaded.inner.state[second]
    assert moments["exp_avg"].dtype == torch.float32 and second.dtype == torch.bfloat16
    assert torch.equal(moments["exp_avg_sq"], saved.inner.state[first]["exp_avg_sq"])
    assert np.isclose(moments["exp_avg"][3].item(), 0.1 * torch.tensor(1 / 3).bfloat16().item(), rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("most", [0.5, 1e3])
def test_a_clipped_step_is_torchs_and_a_bad_one_is_none(fused, most):
    rng = torch.Generator().manual_seed(0)
    start, gradients = ([torch.randn(shape, generator=rng) for shape in ((9, 7), (30,))] for _ in range(2))

    def made() -> tuple[list[Parameter], torch.optim.Optimizer]:
        weights = [Parameter(tensor.clone()) for tensor in start]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        return weights, torch.optim.AdamW(weights, lr=0.1, fused=fused)

    (expected, torchs), (found, ours) = made(), made()
    torch.nn.utils.clip_grad_norm_(expected, most)
    torchs.step()
    norm = torch.nn.utils.get_total_norm(gradients)
    clipped_step(ours, found, norm, most, torch.tensor(1.0))
    assert all(map(torch.equal, found, start))

    for weight, gradient in zip(found, gradients, strict=True):
        weight.grad = gradient.clone()
    clipped_step(ours, found, norm, most, torch.tensor(0.0))

    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for weight, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.state[weight], torchs.state[other], rtol=1e-5, atol=1e-9)


def test_a_missing_bitsandbytes_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match="adamw8bit: expected bitsandbytes, found none .*pip install bitsandbytes"):
        make_optimizer([Parameter(torch.ones(2))], OptimizerConfig(kind="adamw8bit"))
