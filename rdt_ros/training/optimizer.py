"""How weights follow their gradients: AdamW in full or 8-bit, the learning rate, and weights split in two halves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from rdt_ros.errors import InputError
from rdt_ros.training.recipe import OptimizerConfig

CHUNK = 2**25  # weights that a split optimizer puts together at a time: 128 MiB, and as much for their gradients
HALF_BITS = 16
NORM_MARGIN = 1e-6  # as torch's clip_grad_norm_ has it


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Of the step that follows `step` others, out of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, share))) / 2
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)


def make_optimizer(parameters: Iterable[Parameter], config: OptimizerConfig) -> Optimizer:
    """AdamW over these parameters; InputError where bitsandbytes is asked for and missing."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            f"optimizer adamw8bit: expected bitsandbytes, found none ({error}): pip install bitsandbytes"
        ) from None
    return AdamW8bit(parameters, **settings)


def clipped_step(optimizer: Optimizer, parameters: Iterable[Parameter], norm: Tensor, most: float, bad: Tensor) -> None:
    """One step with gradients of length `norm`, cut to `most`; none where `bad`, a float on their device, is 1.

    The fused AdamW does both in its one pass over the weights, as for a `GradScaler`, without waiting for the device.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        fused: Any = optimizer
        fused.grad_scale = ((norm + NORM_MARGIN) / most).clamp(min=1)
        fused.found_inf = bad
        fused.step()
        del fused.grad_scale, fused.found_inf
        return
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    if not bad.item():
        optimizer.step()


def split(full: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 -> its nearest bfloat16, and an int16 with the rest; four bytes a weight, and nothing is lost."""
    bits = full.contiguous().view(torch.int32)
    lower = (bits << HALF_BITS) >> HALF_BITS  # signed: below zero where the upper half was rounded up
    upper = ((bits - lower) >> HALF_BITS).to(torch.int16).view(torch.bfloat16)
    return upper, lower.to(torch.int16)


def joined(upper: Tensor, lower: Tensor) -> Tensor:
    """The float32 that `split` took apart."""
    bits = (upper.view(torch.int16).to(torch.int32) << HALF_BITS) + lower.to(torch.int32)
    return bits.view(torch.float32)


class SplitWeights(Optimizer):
    """Any optimizer on float32 weights of which only the upper halves are in the network.

    bfloat16 alone loses steps below 1/256 of a weight, which is most of fine-tuning. Float32 masters beside bfloat16
    weights take six bytes; the two halves of one number take four. A step puts some weights together, lets `inner`
    change them, and takes them apart again. Parameters that are float32 already stay so.
    """

    def __init__(self, parameters: Iterable[Parameter], make: Callable[[list[Parameter]], Optimizer]) -> None:
        weights = list(parameters)
        self.inner = make(weights)
        super().__init__(weights, {})
        self.param_groups = self.inner.param_groups  # one learning rate for both
        self._lower: dict[Parameter, Tensor] = {}

    @torch.no_grad()
    def adopt(self, parameter: Parameter, full: Tensor) -> None:
        """Gives a parameter the value of a float32 tensor, in two halves from now on."""
        upper, self._lower[parameter] = split(full.to(parameter.device, torch.float32))
        parameter.data = upper

    def full(self, parameter: Parameter) -> Tensor:
        """The float32 value of a parameter."""
        lower = self._lower.get(parameter)
        return parameter.detach().float() if lower is None else joined(parameter.detach(), lower)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all parameters that have gradients."""
        ready = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = {parameter: parameter.grad for parameter in ready}
        for parameter in ready:
            parameter.grad = None
        for chunk in _chunks(ready):
            for parameter in chunk:
                parameter.data = self.full(parameter)
                parameter.grad = gradients.pop(parameter).float()  # type: ignore[union-attr]
            self.inner.step()
            for parameter in chunk:
                parameter.grad = None
                if parameter in self._lower:
                    self.adopt(parameter, parameter.data)

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer within; the halves are in the weights."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moments are float32 whatever the weights are in the network."""
        weights = [p for group in self.param_groups for p in group["params"]]
        halves = {parameter: parameter.data for parameter in weights}
        for parameter in weights:  # torch gives moments the type of their parameter
            parameter.data = parameter.data.new_empty(0, dtype=torch.float32)
        self.inner.load_state_dict(state)
        for parameter, half in halves.items():
            parameter.data = half
        self.param_groups = self.inner.param_groups


def _chunks(parameters: list[Parameter]) -> Iterator[list[Parameter]]:
    chunk: list[Parameter] = []
    for parameter in parameters:
        if chunk and sum(p.numel() for p in chunk) + parameter.numel() > CHUNK:
            yield chunk
            chunk = []
        chunk.append(parameter)
    if chunk:
        yield chunk
