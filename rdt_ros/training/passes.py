"""What the passes through the network are computed from, each sent to the device while the one before is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt_ros.training.loader import Batch
from rdt_ros.training.loss import Noise


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass, on the device."""

    batch: Batch
    noise: Noise
    weights: Tensor  # (B, 1, A) float32: those of the slots in the loss

    def tensors(self) -> list[Tensor]:
        """All of it."""
        values = [*vars(self.batch).values(), *vars(self.noise).values(), self.weights]
        return [value for value in values if isinstance(value, Tensor)]


class Passes:
    """Passes one after the other: `take` the one that was sent, `send` the next as soon as the device has enough to do.

    A GPU gets them on a stream of their own, out of page-locked memory: a copy from any other memory would wait for
    all that the GPU has been given before, and the GPU then for the host.
    """

    def __init__(
        self, loaded: Iterable[tuple[Batch, Noise]], slot_weights: Mapping[str, Tensor], device: torch.device
    ) -> None:
        """`slot_weights` (1, A) are by data set."""
        self._loaded = iter(loaded)
        self._slot_weights = slot_weights
        self._device = device
        self._coming: Pass | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.send()

    def send(self) -> None:
        """Waits for the loader, not for the device."""
        loaded = next(self._loaded, None)
        self._coming = None if loaded is None else self._sent(*loaded)

    def take(self) -> Pass:
        """What was sent last, once; LookupError where nothing was."""
        taken, self._coming = self._coming, None
        if taken is None:
            raise LookupError("no pass was sent since the last one was taken")
        return taken

    def _sent(self, batch: Batch, noise: Noise) -> Pass:
        weights = torch.stack([self._slot_weights[name] for name in batch.datasets])
        if self._stream is None:
            return Pass(batch.to(self._device), noise.to(self._device), weights.to(self._device))
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            noise, weights = noise.pin_memory(), weights.pin_memory()
            sent = Pass(batch.to(self._device), noise.to(self._device), weights.to(self._device, non_blocking=True))
        for tensor in sent.tensors():
            tensor.record_stream(computing)
        computing.wait_stream(self._stream)
        return sent
