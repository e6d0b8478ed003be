"""Times of work on a device, and the floor under a step: bytes and operations over the card's measured rates."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder

MS_PER_S = 1e3
COPY_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
MATRIX_SIDE = {"cuda": 8192, "cpu": 512}
RATE_ROUNDS = 10


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times_ms(
    work: Callable[[], object], device: torch.device, rounds: int, before: Callable[[], object] | None = None
) -> np.ndarray:
    """(rounds,) how long each run took on the device, after one that does not count; `before` is not timed."""
    found = np.zeros(rounds + 1)
    for i in range(rounds + 1):
        if before is not None:
            before()
        wait(device)
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            found[i] = start.elapsed_time(end)
        else:
            began_s = time.perf_counter()
            work()
            found[i] = (time.perf_counter() - began_s) * MS_PER_S
    return found[1:]


def median_ms(
    work: Callable[[], object], device: torch.device, rounds: int, before: Callable[[], object] | None = None
) -> float:
    """The median of `times_ms`."""
    return float(np.median(times_ms(work, device, rounds, before)))


@dataclass(frozen=True)
class Rates:
    """What a card does, measured."""

    copy_bytes_s: float  # bytes read plus bytes written
    matrix_flop_s: float  # of a large square product


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Of a large copy within the device, and of a large product of random numbers."""
    source = torch.empty(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_ms, moved = median_ms(functools.partial(target.copy_, source), device, RATE_ROUNDS), 2 * source.nbytes
    del source, target
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product_ms = median_ms(lambda: a @ b, device, RATE_ROUNDS)
    return Rates(moved / copy_ms * MS_PER_S, 2 * side**3 / product_ms * MS_PER_S)


@dataclass(frozen=True)
class Work:
    """The least that a chunk needs; pictures that are not new are left out where it says so."""

    solver_bytes: int  # weights of the blocks and condition keys and values, read once a solver step
    condition_flop: int  # picture adaptor, keys and values of the pictures
    picture_flop: int  # the vision encoder, one picture

    def floor_ms(self, rates: Rates, new_pictures: int) -> dict[str, float]:
        """Each part at the card's full rate."""
        return {
            "solver": self.solver_bytes / rates.copy_bytes_s * MS_PER_S,
            "conditions": self.condition_flop / rates.matrix_flop_s * MS_PER_S,
            "vision": new_pictures * self.picture_flop / rates.matrix_flop_s * MS_PER_S,
        }


def work_of(network: RdtNetwork, vision: SiglipEncoder) -> Work:
    """Counted from the weights themselves."""
    config = network.config
    item = network.dtype.itemsize
    blocks: list[Any] = list(network.model.blocks)
    weights = _parameters(network.model.blocks) - sum(_parameters(block.cross_attn.kv) for block in blocks)
    weights += _parameters(network.state_adaptor) + _parameters(network.model.final_layer)
    kept = len(blocks[1::2]) * config.img_cond_len * 2 * config.hidden_size
    picture_blocks = sum(_parameters(block.cross_attn.kv) for block in blocks[1::2])
    tower: Any = vision.tower.config
    width = vision.width
    attention = 4 * vision.patches**2 * width * tower.num_hidden_layers
    embedding = 2 * vision.patches * width * 3 * tower.patch_size**2
    layers = sum(module.weight.numel() for module in vision.tower.modules() if isinstance(module, nn.Linear))
    return Work(
        solver_bytes=config.num_inference_timesteps * (weights + kept) * item,
        condition_flop=2 * config.img_cond_len * (_parameters(network.img_adaptor) + picture_blocks),
        picture_flop=2 * vision.patches * layers + attention + embedding,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
