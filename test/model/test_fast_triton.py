"""The Triton kernels against the library: on a GPU as they are, elsewhere through Triton's interpreter."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.fast import kernels
from rdt_ros.model.fast.solver import FastSolver
from rdt_ros.model.fast.stage import FastOptions, Recorder
from rdt_ros.model.fast.tower import FastTower
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.sampler import Prefix
from rdt_ros.model.vision import SiglipEncoder

CUDA = torch.cuda.is_available()
INTERPRETED = "TRITON_INTERPRET" in os.environ  # read when triton is imported, so in a process of its own
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
TOLERANCE = 2e-2 if CUDA else 1e-5  # relative
runs_here = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs a GPU or Triton's interpreter")
if CUDA or INTERPRETED:
    from rdt_ros.model.fast import attention, fused


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests below run as they are")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_rest_passes_through_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


def normal(*shape: int, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found.float() - expected.float()).norm() < TOLERANCE * expected.float().norm()


@runs_here
@pytest.mark.parametrize("form", ["variance", "mean_square"])
@pytest.mark.parametrize("rows, heads, head", [(67, 4, 32), (64, 2, 16), (33, 1, 32), (5, 2, 16)])
def test_attention_within_is_that_of_the_library(rows: int, heads: int, head: int, form: kernels.Norm):
    parts, bias = normal(2, rows, 3 * heads * head, dtype=torch.float32), normal(3 * heads * head)
    norms = normal(head), normal(head) + 1, form

    answer = attention.attend_within(parts, bias, *norms)

    q, k, v = (x.transpose(0, 1)[None].float() for x in kernels.self_heads(parts, bias, *norms))
    check(answer, F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))


def library(parts: torch.Tensor, bias: torch.Tensor, norm: torch.Tensor, kept: torch.Tensor, known: int):
    """Attention to the first `known` of the keys."""
    q = kernels.queries(parts, bias, norm, "variance").transpose(0, 1)[None].float()
    heads = kept[:known].unflatten(-1, (2, q.shape[1], -1)).unbind(1)
    k, v = (x.transpose(0, 1)[None].float() for x in heads)
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)


@runs_here
@pytest.mark.parametrize("keys, known", [(64, 10), (64, 64), (150, 1), (150, 140)])
def test_attention_to_an_instruction_is_that_of_the_library(keys: int, known: int):
    queries = normal(3, 67, 64, dtype=torch.float32), normal(64), normal(32)
    kept, added = normal(keys, 2 * 64), torch.zeros(keys, device=DEVICE, dtype=DTYPE)
    added[known:] = -torch.inf

    check(attention.attend_to(*queries, "variance", kept, added), library(*queries, kept, known))


@runs_here
@pytest.mark.parametrize("keys, stretches", [(200, 3), (64, 1), (8, 4)])
def test_attention_in_stretches_is_that_of_the_library(keys: int, stretches: int):
    queries, kept = (normal(3, 67, 64, dtype=torch.float32), normal(64), normal(32)), normal(keys, 2 * 64)

    answer = attention.attend_in_stretches(*queries, "variance", kept, stretches)

    check(answer, library(*queries, kept, keys))


@runs_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows, width", [(7, 1152), (1, 2), (5, 33), (3, 128), (0, 32)])
def test_residual_and_layer_norm_are_those_of_the_library(rows: int, width: int, dtype: torch.dtype):
    x, y = normal(rows, width, dtype=dtype) + 3, normal(width, rows, dtype=dtype).T.contiguous()
    given = x, y, normal(width, dtype=dtype) + 1, normal(width + 1, dtype=dtype)[1:], 1e-6

    found = fused.add_layer_norm(*given)

    for answer, expected in zip(found, kernels.add_layer_norm(*given), strict=True):
        assert answer.dtype == dtype
        torch.testing.assert_close(answer, expected)


@runs_here
@pytest.mark.parametrize("form", ["variance", "mean_square"])
@pytest.mark.parametrize("parts, rows, width, dtype", [(1, 3, 33, torch.float32), (2, 67, 128, torch.bfloat16)])
def test_residual_and_norm_are_those_of_the_library(
    parts: int, rows: int, width: int, dtype: torch.dtype, form: kernels.Norm
):
    x, bias, weight = normal(rows, width, dtype=dtype) + 1, normal(width, dtype=dtype), normal(width, dtype=dtype) + 1
    given = x, normal(parts, rows, width, dtype=torch.float32), bias, weight, form

    found = fused.add_norm(*given)

    for answer, expected in zip(found, kernels.add_norm(*given), strict=True):
        assert answer.dtype == dtype
        torch.testing.assert_close(answer, expected)


def check_all(name: str, *given: object) -> None:
    """A kernel's answers are those of the function of `kernels`, within a rounding."""
    answers, expected = (getattr(module, name)(*given) for module in (fused, kernels))
    if isinstance(answers, torch.Tensor):
        answers, expected = (answers,), (expected,)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.dtype == other.dtype
        torch.testing.assert_close(answer, other)


@runs_here
@pytest.mark.parametrize("form", ["variance", "mean_square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_norm_of_a_chunk_is_that_of_the_library(dtype: torch.dtype, form: kernels.Norm):
    rows = [normal(count, 33, dtype=dtype) for count in (2, 7)]
    given = rows[0], normal(3, 5, 33, dtype=torch.float32), normal(33, dtype=dtype), rows[1], normal(33, dtype=dtype)
    check_all("embed", *given, form)


@runs_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_and_gelu_are_those_of_the_library(dtype: torch.dtype):
    check_all("activated", 3 * normal(2, 67, 33, dtype=torch.float32), normal(33, dtype=dtype))


@runs_here
@pytest.mark.parametrize("form", ["variance", "mean_square"])
@pytest.mark.parametrize("heads, head", [(2, 16), (3, 5)])
def test_the_norm_of_keys_is_that_of_the_library(heads: int, head: int, form: kernels.Norm):
    found, expected = (normal(9, 2 * heads * head).unflatten(-1, (2, heads, head)) for _ in range(2))
    weight = normal(head) + 1
    fused.normalise_keys(found[:, 0], weight, form)
    kernels.normalise_keys(expected[:, 0], weight, form)
    check(found, expected)  # the values beside them too


@runs_here
def test_the_adaptors_input_is_that_of_the_library():
    check_all("adaptor_input", normal(1, 33), normal(7, 33, dtype=torch.float32), normal(33))


@runs_here
@pytest.mark.parametrize("count", [0, 3])
def test_a_solver_step_is_that_of_the_library(count: int):
    slots = torch.tensor([1.0, 1, 1, 1, 0, 0])
    fading = slots * torch.tensor([1.0, 0, 1, 1, 1, 1])
    prefix = Prefix.of([normal(count, 6, dtype=torch.float32).cpu()], slots, fading, 100)
    x, before = (normal(100, 6, dtype=torch.float32) * scale for scale in (1, 2))
    given = x, normal(2, 100, 6, dtype=torch.float32), normal(6, dtype=torch.float32), before
    committed = tuple(tensor[0].to(DEVICE) for tensor in (prefix.rows, prefix.weights, prefix.source))
    check_all("advance", *given, committed, torch.tensor([0.3, 0.6, 0.2], device=DEVICE))


@runs_here
def test_tokens_are_those_of_the_plain_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SiglipEncoder.random("tiny").to(DEVICE, DTYPE)
    images = normal(2, 3, encoder.image_size, encoder.image_size)
    chosen = kernels.Kernels(Recorder(DEVICE, FastOptions(compiled=False, between="own")))
    with torch.inference_mode():
        expected = encoder.tokens(images).clone()
        assert chosen.add_layer_norm is fused.add_layer_norm
        check(FastTower(encoder, chosen).tokens(images), expected)


@runs_here
def test_a_chunk_is_that_of_the_library():
    with torch.random.fork_rng(), torch.device(DEVICE):
        torch.manual_seed(0)
        network = RdtNetwork(dataclasses.replace(MODEL_SIZES["tiny"], num_inference_timesteps=2))
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=0.1)
    network = network.to(DTYPE).requires_grad_(False)
    chunks = []
    for choice in ("library", "own"):
        recorder = Recorder(DEVICE, FastOptions(compiled=False, attention=choice, between=choice))
        with torch.inference_mode():
            solver = FastSolver(network, 25.0, torch.float32, recorder, kernels.Kernels(recorder))
            solver.picture_tokens.copy_(normal(*solver.picture_tokens.shape))
            solver.follow(normal(20, network.config.lang_token_dim))
            solver.load(normal(1, 1, 128), torch.ones(1, 1, 128), normal(1, 64, 128), None)
            chunks.append(solver.run().clone())
    check(chunks[1], chunks[0])
