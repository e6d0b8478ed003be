"""Our own attention to pictures against the plain one: on a GPU, elsewhere through Triton's interpreter."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import Tensor

from rdt_ros.model.config import MODEL_SIZES, NORMS, ModelConfig, Norm
from rdt_ros.model.network import Block, CrossAttention, RdtNetwork, RmsNorm
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import settings

CUDA = torch.cuda.is_available()
INTERPRETED = "TRITON_INTERPRET" in os.environ  # read when triton is imported, so in a process of its own
DEVICE = torch.device("cuda" if CUDA else "cpu")
runs_here = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs a GPU or Triton's interpreter")
on_cuda = pytest.mark.skipif(not CUDA, reason="needs a GPU")
if CUDA or INTERPRETED:
    from rdt_ros.training.picture_attention import PictureAttention, attend, install

CONFIG = dataclasses.replace(MODEL_SIZES["tiny"], hidden_size=96, num_heads=3)
RECIPE = {
    "checkpoint": "random:tiny",
    "vision": "random",
    "language": "hashed",
    "steps": 2,
    "batch_size": 2,
    "loader": {"workers": 0, "seed": 5},
    "sample": {"augment": False},
    "optimizer": {"warmup_steps": 0, "learning_rate": 1e-3},
    "evaluation": {"samples": 2, "curves": 0},
    "logging": {"every": 1, "tracker": "none"},
}


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests below run as they are")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_rest_passes_through_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture(autouse=True)
def one_state():
    """Accelerate keeps one state a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recipe(maker, tmp_path):
    def make(output: str, **changes) -> Recipe:
        if not (tmp_path / "set").exists():
            maker.folder(tmp_path / "set", (130, 131), height=12, width=16)
        data = {**RECIPE, "output": str(tmp_path / output), **changes}
        data["datasets"] = [{"path": str(tmp_path / "set"), "robot": "agilex"}]
        return settings(Recipe, data, "test")

    return make


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def plain_attend(q: Tensor, kv: Tensor, _bias: None, heads: int, form: Norm) -> Tensor:
    """By the library."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, *kv.chunk(2, -1)))
    return F.scaled_dot_product_attention(q, RmsNorm(q.shape[-1], form)(k), v).transpose(1, 2).flatten(2)


def cross_attention(config: ModelConfig) -> CrossAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = CrossAttention(config)
        for norm in (attention.q_norm, attention.k_norm):
            torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    return attention


def results(module: torch.nn.Module, given: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
    """The module's answer, and gradients of its inputs and weights."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    answer = module(*inputs, None)
    wanted = {str(i): x for i, x in enumerate(inputs)} | dict(module.named_parameters())
    found = torch.autograd.grad(answer, list(wanted.values()), given.to(answer.dtype))
    return {"answer": answer.detach()} | dict(zip(wanted, found, strict=True))


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.cpu().float() - expected).norm() / expected.norm())


@runs_here
@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize("rows, keys, heads, head", [(67, 150, 2, 16), (20, 130, 3, 32), (128, 64, 1, 16)])
@pytest.mark.parametrize("whole", [True, False])
def test_answers_and_gradients_are_those_of_the_library(form, rows, keys, heads, head, whole):
    width = heads * head
    if whole:
        q, kv, given = normal(2, rows, width), normal(2, keys, 2 * width), normal(2, rows, width)
    else:  # views
        q, kv = normal(2, width, rows).mT, normal(2, keys, 3 * width)[..., width:]
        given = normal(rows, 1, width).transpose(0, 1).expand(2, -1, -1)
    found, expected = [], []
    for attention, device, all_of_it in ((attend, DEVICE, found), (plain_attend, "cpu", expected)):
        inputs = [x.to(device).requires_grad_() for x in (q, kv)]
        answer = attention(*inputs, None, heads, form)
        all_of_it += [answer.detach(), *torch.autograd.grad(answer, inputs, given.to(device))]

    assert max(map(error, found, expected)) < 1e-5


@runs_here
@pytest.mark.parametrize("form", NORMS)
def test_the_module_is_the_plain_one(form: Norm):
    plain = cross_attention(dataclasses.replace(CONFIG, norm=form))
    inputs = normal(2, 67, 96), normal(2, 67, 96), normal(2, 150, 96)
    expected = results(plain, *inputs)

    found = results(PictureAttention(copy.deepcopy(plain).to(DEVICE)), *(x.to(DEVICE) for x in inputs))

    assert list(found) == list(expected)  # names of the weights too, in their order
    assert max(error(found[name], expected[name]) for name in expected) < 1e-5


@runs_here
def test_it_is_installed_in_the_picture_blocks_with_the_same_weights():
    network = RdtNetwork(MODEL_SIZES["tiny"])
    before = list(network.named_parameters())
    install(network)
    assert [isinstance(block.cross_attn, PictureAttention) for block in network.model.blocks] == [False, True] * 2
    after = list(network.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(new is old for (_, new), (_, old) in zip(after, before, strict=True))


@runs_here
@pytest.mark.parametrize("sizes", [{"num_heads": 2, "hidden_size": 96}, {"num_heads": 8}, {"horizon": 126}])
def test_other_sizes_keep_the_plain_attention(sizes: dict[str, int]):
    network = RdtNetwork(dataclasses.replace(MODEL_SIZES["tiny"], **sizes))
    install(network)
    assert all(type(block.cross_attn) is CrossAttention for block in network.model.blocks)


@runs_here
def test_a_block_is_compiled_as_one_graph_for_any_batch():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Block(CONFIG)
    own = copy.deepcopy(plain).to(DEVICE)
    own.cross_attn = PictureAttention(own.cross_attn)
    own.compile(fullgraph=True, backend="inductor" if CUDA else "aot_eager")
    for batch in (2, 3, 4):
        inputs = normal(batch, 20, 96), normal(batch, 20, 96), normal(batch, 96, 96)
        found = results(own, *(x.to(DEVICE) for x in inputs))
        for name, expected in results(plain, *inputs).items():
            torch.testing.assert_close(found[name].cpu(), expected, rtol=1e-3, atol=1e-4)


@on_cuda
@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize("cast", [True, False])
def test_in_bf16_it_errs_no_more_than_the_plain_one(form: Norm, cast: bool):
    attention = cross_attention(dataclasses.replace(CONFIG, hidden_size=256, num_heads=4, norm=form))
    inputs = tuple(x.bfloat16() for x in (normal(4, 67, 256), normal(4, 67, 256), normal(4, 1000, 256)))
    attention.bfloat16().float()
    truth = results(attention, *(x.float() for x in inputs))
    casting = torch.autocast("cuda", torch.bfloat16) if cast else contextlib.nullcontext()
    sums = []
    for module in (PictureAttention(copy.deepcopy(attention)), copy.deepcopy(attention)):
        module.to(DEVICE, torch.float32 if cast else torch.bfloat16)
        with casting:
            found = results(module, *(x.to(DEVICE) for x in inputs))
        sums.append(sum(error(found[name], truth[name]) for name in found))
    assert sums[0] < 1.1 * sums[1]


@pytest.mark.skipif(CUDA or not INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize(
    "kind",
    [{"recompute": True, "ema": {"decay": 0.9}}, {"lora": {"rank": 2}, "freeze": ["lang_adaptor.*"]}],
    ids=["recompute", "lora"],
)
def test_a_run_is_the_plain_one(recipe, kind):
    if "lora" in kind:
        pytest.importorskip("peft")
    losses, weights = [], []
    for own in (False, True):
        tuning = FineTuning(recipe(f"run{own}", precision="fp32", **kind), cpu=True)
        if own:
            install(tuning.network)
        assert tuning.run()
        figures = [json.loads(line) for line in (Path(tuning.recipe.output) / "metrics.jsonl").read_text().splitlines()]
        losses.append([value for row in figures for name, value in row.items() if name == "loss" or "mse" in name])
        weights.append(tuning.weights())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert list(weights[1]) == list(weights[0])


@on_cuda
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [{}, {"weights": "split", "recompute": True}, {"lora": {"rank": 2}}],
    ids=["float32", "split", "lora"],
)
def test_a_compiled_run_on_a_gpu_takes_it(recipe, kind):
    if "lora" in kind:
        pytest.importorskip("peft")
    tuning = FineTuning(recipe("run", compile=True, **kind))
    assert isinstance(tuning.network.model.blocks[1].cross_attn, PictureAttention)
    assert tuning.run()


def test_a_compiled_run_on_the_cpu_keeps_the_plain_attention(recipe):
    tuning = FineTuning(recipe("run", compile=True), cpu=True)
    assert all(type(block.cross_attn) is CrossAttention for block in tuning.network.model.blocks)
