from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rdt_ros.model.fast import kernels
from rdt_ros.model.network import RmsNorm
from rdt_ros.model.sampler import Prefix, solver_steps

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
def test_the_parts_of_a_product_sum_to_it(splits: int):
    x, weight, bias = normal(5, 16), normal(6, 16, seed=1), normal(6, seed=2)

    parts = kernels.product(x, weight, splits)

    assert parts.shape == (splits, 5, 6)
    torch.testing.assert_close(kernels.total(parts, bias), F.linear(x, weight, bias), **CLOSE)


@pytest.mark.parametrize("form", ["variance", "mean_square"])
def test_norms_are_those_of_the_network(form):
    norm = RmsNorm(8, form)
    norm.weight.data.copy_(normal(8))
    x, parts, bias = normal(3, 8, seed=1), normal(2, 3, 8, seed=2), normal(8, seed=3)

    residual, normed = kernels.add_norm(x, parts, bias, norm.weight, form)

    torch.testing.assert_close(residual, x + parts.sum(0) + bias, **CLOSE)
    torch.testing.assert_close(normed, norm(residual), **CLOSE)


def test_bf16_is_rounded_once_at_the_end():
    x = normal(3, 8).bfloat16()
    parts, bias, weight = normal(2, 3, 8, seed=1), normal(8, seed=2).bfloat16(), normal(8, seed=3).bfloat16()

    residual, normed = kernels.add_norm(x, parts, bias, weight, "variance")

    exact = x.float() + parts.sum(0) + bias.float()
    assert residual.dtype == normed.dtype == torch.bfloat16
    assert torch.equal(residual, exact.bfloat16())
    assert torch.equal(normed, kernels.rms(exact, weight.float(), "variance").bfloat16())


@pytest.mark.parametrize("count", [0, 3])
def test_a_solver_step_is_the_samplers(count: int):
    rows = [normal(count, 6)]
    slots = torch.tensor([1.0, 1, 1, 1, 0, 0])
    prefix = Prefix.of(rows, slots, slots * torch.tensor([1.0, 0, 1, 1, 1, 1]), 20)
    x, clean, before = (normal(1, 20, 6, seed=seed) for seed in (1, 2, 3))

    for step in solver_steps(1000, 5)[1:]:
        found = kernels.advance(
            x[0],
            clean,
            torch.zeros(6),
            before[0],
            (prefix.rows[0], prefix.weights[0], prefix.source[0]),
            torch.tensor([step.keep, step.take, step.change]),
        )
        painted = prefix.inpaint(clean)
        torch.testing.assert_close(found[1], painted[0], **CLOSE)
        torch.testing.assert_close(found[0], step.advance(x, painted, before)[0], **CLOSE)
