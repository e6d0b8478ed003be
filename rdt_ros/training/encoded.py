"""Batches with tokens in place of pictures, those of the next batch computed beside the step of this one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch

from rdt_ros.training.loader import Batch
from rdt_ros.training.loss import Noise, Objective


class Encoded:
    """What a frozen encoder makes of a batch depends on no step: a stream of its own fills the gaps of the step.

    Optimizer, clipping and norms wait for memory, the encoder's products for arithmetic, and where the host looks at
    the loss the device would have nothing to do.
    """

    def __init__(self, objective: Objective, device: torch.device) -> None:
        self._objective = objective
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, loaded: Iterable[tuple[Batch, Noise]]) -> Iterator[tuple[Batch, Noise]]:
        """The same batches on the device, each given when the encoding of the next one is under way."""
        before = None
        for batch, noise in loaded:
            with self._beside():
                encoded = self._objective.encoded(batch.to(self._device))
            if before is not None:
                yield self._joined(*before)
            before = encoded, noise, None if self._stream is None else self._stream.record_event()
        if before is not None:
            yield self._joined(*before)

    def _beside(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _joined(self, batch: Batch, noise: Noise, done: torch.cuda.Event | None) -> tuple[Batch, Noise]:
        """Makes the step wait for its own pictures, and their memory for the step."""
        if done is not None:
            step = torch.cuda.current_stream(self._device)
            step.wait_event(done)
            batch.record_stream(step)
        return batch, noise
