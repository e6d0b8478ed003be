"""The fast step: pictures, language and state of one robot to a chunk, ready when it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdt_ros.model.fast.encoder import FastEncoder
from rdt_ros.model.fast.kernels import Kernels
from rdt_ros.model.fast.solver import FastSolver
from rdt_ros.model.fast.stage import FastOptions, Recorder
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.sampler import Prefix
from rdt_ros.model.vision import VisionEncoder

Report = Callable[[str], object]


class FastStep:
    """What the plain network, encoder and sampler answer, for one chunk at a time.

    `report` is told what is being prepared, which takes seconds, or minutes where kernels are compiled first.
    """

    @torch.inference_mode()
    def __init__(
        self,
        network: RdtNetwork,
        vision: VisionEncoder,
        *,
        device: torch.device,
        rate_hz: float,
        action_dtype: torch.dtype,
        pictures: str,
        options: FastOptions,
        report: Report,
    ) -> None:
        began_s = time.perf_counter()
        report(f"preparing the vision encoder ({'compile' if options.compiled else 'graph'})")
        recorder = self.recorder = Recorder(device, options)
        kernels = self.kernels = Kernels(recorder)
        self.encoder = FastEncoder(vision, network.dtype, pictures, recorder, kernels)
        report(f"preparing the solver, after {time.perf_counter() - began_s:.1f} s")
        self.solver = FastSolver(network, rate_hz, action_dtype, recorder, kernels)
        report(f"prepared in {time.perf_counter() - began_s:.1f} s")

    def follow(self, tokens: Tensor) -> None:
        """Takes the tokens (L, width) of another instruction."""
        self.solver.follow(tokens)

    def see(self, jpegs: Sequence[bytes | None]) -> None:
        """Encodes pictures that a step will need, without waiting for a GPU; None is one that is missing."""
        self.encoder.see(jpegs)

    def sample(
        self, jpegs: Sequence[bytes | None], state: Tensor, mask: Tensor, noise: Tensor, prefix: Prefix | None
    ) -> Tensor:
        """The chunk (1, T, A), overwritten by the next: six pictures in the network's order, None where missing.

        State and mask are (1, 1, A), noise (1, T, A).
        """
        self.see(jpegs)
        self.solver.load(state, mask, noise, prefix)
        self.encoder.collect(jpegs, self.solver.picture_tokens)
        return self.solver.run()

    def sample_prepared(self, images: Tensor, state: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """`sample` of six prepared pictures, (6, 3, size, size) in -1..1; their tokens are not kept."""
        self.solver.load(state, mask, noise, None)
        self.encoder.tokens(images, self.solver.picture_tokens)
        return self.solver.run()
