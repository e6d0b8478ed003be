"""What is made small: the error of the clean actions that the network finds in noisy ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rdt_ros.model.network import Conditions, RdtNetwork
from rdt_ros.model.sampler import add_noise, sample
from rdt_ros.model.vision import VisionEncoder
from rdt_ros.training.loader import Batch
from rdt_ros.training.pictures import normalised

STREAM = (0, 1)  # behind seed and number: the samples themselves are drawn by another generator


@dataclass(frozen=True, eq=False)
class Noise:
    """What is drawn for the samples of a batch: a function of a seed and their numbers alone.

    So every device draws the same, however many processes share the samples, and a resumed run goes on.
    """

    noise: Tensor  # (B, T, A) float32, standard normal
    timestep: Tensor  # (B,) int64, from 0 below the number of training timesteps

    @classmethod
    def draw(cls, seed: int, samples: Sequence[int], network: RdtNetwork) -> Noise:
        """On the CPU."""
        config = network.config
        drawn, steps = [], []
        for number in samples:
            rng = np.random.default_rng([seed, number, *STREAM])
            drawn.append(rng.standard_normal((config.horizon, config.action_dim), np.float32))
            steps.append(int(rng.integers(config.num_train_timesteps)))
        return cls(torch.from_numpy(np.stack(drawn)), torch.tensor(steps))

    @classmethod
    def stream(cls, seed: int, order: Iterable[Sequence[int]], network: RdtNetwork) -> Iterator[Noise]:
        """That of one batch after another, each drawn by a thread while the batch before is computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="noise") as pool:
            ahead = deque[Future[Noise]]()
            for samples in order:
                ahead.append(pool.submit(cls.draw, seed, samples, network))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def pin_memory(self) -> Noise:
        """In page-locked memory."""
        return Noise(self.noise.pin_memory(), self.timestep.pin_memory())

    def to(self, device: torch.device) -> Noise:
        """On a device; from page-locked memory without waiting."""
        return Noise(self.noise.to(device, non_blocking=True), self.timestep.to(device, non_blocking=True))


class Objective(nn.Module):
    """The network with its vision encoder: batch in, one loss a sample out.

    A vision encoder that is a Module is trained, saved and averaged with the network, as any part of it; one that is
    not, as SigLIP's, is frozen.
    """

    def __init__(self, network: RdtNetwork, vision: VisionEncoder) -> None:
        super().__init__()
        self.network = network
        self.vision = vision

    def forward(self, batch: Batch, noise: Noise, weights: Tensor) -> Tensor:
        """(B,) float32: mean square error of the samples; `weights` (B, 1, A) are those of the slots, adding up to A.

        Noise is added in float32, and the state is never noisy.
        """
        timesteps = self.network.config.num_train_timesteps
        noisy = add_noise(batch.actions, noise.noise, noise.timestep, timesteps)
        clean = self.network(self._conditions(batch), batch.states, noisy, noise.timestep)
        return ((clean.float() - batch.actions).square() * weights).mean((1, 2))

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        """(B, T, A) float32: chunks as the robot would get them."""
        return sample(self.network, self._conditions(batch), batch.states, noise.noise)

    def _conditions(self, batch: Batch) -> Conditions:
        tokens = self._tokens(batch)
        return self.network.encode_conditions(
            batch.tokens,
            batch.token_mask,
            tokens.unflatten(0, (len(batch), -1)).flatten(1, 2),
            batch.mask,
            batch.rates_hz,
        )

    def _tokens(self, batch: Batch) -> Tensor:
        """(B * 6, patches, width)."""
        pictures = batch.pictures.flatten(0, 1)
        if pictures.dtype != torch.uint8:  # kept tokens
            return pictures
        if isinstance(self.vision, nn.Module):
            return self.vision.tokens(normalised(pictures))
        with torch.no_grad():
            return self.vision.tokens(normalised(pictures[batch.distinct]))[batch.encoded]
