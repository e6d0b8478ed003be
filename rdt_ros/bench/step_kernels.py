"""Which way to the same numbers is fastest here: library calls of the step's shapes, and the step's own choices."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt_ros.bench.step_timing import median_ms
from rdt_ros.model.config import ModelConfig
from rdt_ros.model.fast.encoder import BATCHES, FastEncoder
from rdt_ros.model.fast.kernels import ATTENTION, Kernels, attention_by, gelu_linear, product
from rdt_ros.model.fast.solver import SHORT_INSTRUCTION, FastSolver
from rdt_ros.model.fast.stage import FastOptions, Recorder
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder

ROUNDS = 20
COPIES = 16  # of weights or keys, so that none is in the cache when its turn comes
SPLITS = (1, 2, 4, 8)
US_PER_MS = 1e3
SOLVER_CHOICES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "not compiled": {"compiled": False},
    "one library call a product": {"splits": 1},
    "4 splits": {"splits": 4},
    "GELU behind the product": {"gelu_inside": False},
    "kernels between by the compiler": {"between": "library"},
    "the library's attention": {"attention": "library"},
    "the library's, as torch chooses": {"attention": "library", "picture_attention": "auto"},
    "keys and values first": {"overlap": False},
}
TOWER_CHOICES: dict[str, dict[str, Any]] = {
    **{f"attention {kernel}": {"tower_attention": kernel} for kernel in ("auto", "flash", "cudnn")},
    "kernels between by the compiler": {"between": "library"},
    "not compiled": {"compiled": False},
}


def library_us(config: ModelConfig, vision: SiglipEncoder, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Microseconds of single operations, replayed as a graph over many weights; None where a kernel refuses."""
    recorder = Recorder(device, FastOptions(compiled=False))
    time_us = functools.partial(_each_us, recorder)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype) / shape[-1] ** 0.5

    width, heads, tokens = config.hidden_size, config.num_heads, config.horizon + 3
    x = normal(tokens, width)
    found: dict[str, Any] = {}
    for out in (width, 3 * width):
        weights = [normal(out, width) for _ in range(COPIES)]
        found[f"product {tokens}x{width} to {out}"] = {
            f"splits {splits}": time_us([functools.partial(product, x, weight, splits) for weight in weights])
            for splits in SPLITS
        }
    q = normal(1, heads, tokens, width // heads)
    beside = [normal(config.img_cond_len, 2, heads, width // heads) for _ in range(COPIES // 2)]
    apart = [kv.permute(1, 2, 0, 3).contiguous() for kv in beside]
    for layout, kept in (("heads beside each other", [kv.permute(1, 2, 0, 3) for kv in beside]), ("apart", apart)):
        found[f"attention to pictures, {layout}"] = _by_kernel(time_us, q, [(kv[0][None], kv[1][None]) for kv in kept])
    bias = torch.zeros(SHORT_INSTRUCTION, device=device, dtype=dtype)
    bias[SHORT_INSTRUCTION // 4 :] = -torch.inf
    words = [normal(2, 1, heads, SHORT_INSTRUCTION, width // heads).unbind(0) for _ in range(COPIES)]
    found["attention to language"] = _by_kernel(time_us, q, words, bias[None, None, None])
    found["attention within the network's tokens"] = _by_kernel(time_us, q, [(q, q)])
    side, tower = vision.patches, vision.tower.config
    for count in BATCHES:
        heads = tower.num_attention_heads
        q, k, v = normal(count, side, 3, heads, vision.width // heads).permute(2, 0, 3, 1, 4)
        found[f"attention within {count} pictures"] = _by_kernel(time_us, q, [(k, v)])
        hidden = normal(count * side, vision.width), normal(tower.intermediate_size, vision.width)
        given = (*hidden, normal(tower.intermediate_size))
        found[f"fc1 and GELU of {count} pictures"] = {
            "one call": time_us([functools.partial(gelu_linear, *given)]),
            "two calls": time_us([functools.partial(_gelu_linear_apart, *given)]),
        }
    return found


def choices_ms(network: RdtNetwork, vision: SiglipEncoder, device: torch.device, rate_hz: float) -> dict[str, Any]:
    """Milliseconds of the solver with its conditions, and of the vision encoder, for each way to run them."""
    found: dict[str, Any] = {}
    for name, changes in SOLVER_CHOICES.items():
        recorder = Recorder(device, dataclasses.replace(FastOptions(), **changes))

        def solver_ms(recorder: Recorder = recorder) -> float:
            solver = FastSolver(network, rate_hz, torch.float32, recorder, Kernels(recorder))
            return median_ms(solver.run, device, ROUNDS)

        found[f"conditions and solver, {name}"] = _or_none(name, solver_ms)
    for name, changes in TOWER_CHOICES.items():
        recorder = Recorder(device, dataclasses.replace(FastOptions(), **changes))

        def tower_ms(recorder: Recorder = recorder) -> list[float]:
            encoder = FastEncoder(vision, network.dtype, "device", recorder, Kernels(recorder))
            return [median_ms(encoder.encode(count), device, ROUNDS) for count in BATCHES]

        name = f"vision of {' and '.join(map(str, BATCHES))}, {name}"
        found[name] = _or_none(name, tower_ms)
    return found


def _gelu_linear_apart(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _by_kernel(
    time_us: Callable[[list[Callable[[], object]]], float | None],
    q: Tensor,
    kept: Sequence[Sequence[Tensor]],
    bias: Tensor | None = None,
) -> dict[str, float | None]:
    def attend(kernel: str, k: Tensor, v: Tensor) -> Tensor:
        with attention_by(kernel, q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    kernels = ("auto", *ATTENTION)
    return {kernel: time_us([functools.partial(attend, kernel, k, v) for k, v in kept]) for kernel in kernels}


def _each_us(recorder: Recorder, calls: list[Callable[[], object]]) -> float | None:
    """Of one call, when all of them run one after the other several times."""
    repeats = max(COPIES // len(calls), 1)

    def run() -> None:
        for _ in range(repeats):
            for call in calls:
                call()

    def measure() -> float:
        stage = recorder.stage(run)
        return median_ms(stage, recorder.device, ROUNDS) * US_PER_MS / (repeats * len(calls))

    return _or_none(str(calls[0]), measure)


def _or_none(name: str, measure: Callable[[], Any]) -> Any:
    """A way that does not run here is one figure less."""
    try:
        return measure()
    except RuntimeError as error:
        print(f"not measured: {name}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
