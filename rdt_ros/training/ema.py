"""The running mean of the weights, in float32 whatever they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from rdt_ros.training.recipe import EmaConfig

POWER = 0.75  # of the warm-up; the reference's setting


class Ema:
    """A mean of named parameters; `full` gives a parameter's value in float32."""

    def __init__(
        self, parameters: Mapping[str, Parameter], full: Callable[[Parameter], Tensor], config: EmaConfig
    ) -> None:
        self._parameters, self._full, self._config = dict(parameters), full, config
        self.mean = {name: self._kept(full(parameter).clone()) for name, parameter in self._parameters.items()}

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.cpu() if self._config.device == "cpu" else tensor

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the step that makes them `step` in all; the decay of steps passed over is made up for."""
        if step % self._config.every:
            return
        keep = decay(step, self._config.decay) ** self._config.every
        for name, parameter in self._parameters.items():
            self.mean[name].lerp_(self._kept(self._full(parameter)), 1 - keep)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The network computes with the mean; afterwards with its own weights again."""
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self.mean[name].to(parameter.device, parameter.dtype)
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    @torch.no_grad()
    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Goes on from a saved mean."""
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])


def decay(step: int, most: float) -> float:
    """1 - step^-0.75 up to `most`, so that the beginning is soon forgotten (the reference's models/ema_model.py)."""
    return min(most, 1 - max(1, step) ** -POWER)
