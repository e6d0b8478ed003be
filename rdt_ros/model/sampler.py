"""The noise that training adds, and the solver that takes it away again: pure functions, no state, no random draws.

`abar` is the share of the signal's power left at a timestep: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.network import Conditions, RdtNetwork

MAX_BETA = 0.999
ACTION_DTYPES = ("float32", "model")
COSINE_OFFSET = 0.008  # keeps the first steps from adding too little noise
FADING_ROWS = 16  # rows after a prefix that are drawn towards it


@lru_cache
def alphas_bar(num_train_timesteps: int) -> Tensor:
    """(N,) float32, falling: the cosine schedule (arXiv 2102.09672, equation 17), called squaredcos_cap_v2."""

    def signal(share: float) -> float:
        return math.cos((share + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2

    n = num_train_timesteps
    betas = [min(1 - signal((i + 1) / n) / signal(i / n), MAX_BETA) for i in range(n)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)


def add_noise(clean: Tensor, noise: Tensor, timestep: Tensor, num_train_timesteps: int) -> Tensor:
    """Clean actions and noise (B, T, A), timestep (B,) -> noisy actions (B, T, A) float32.

    In float32 whatever the training type: bf16 would round abar to 1 in the first 21 steps and add no noise.
    """
    abar = alphas_bar(num_train_timesteps).to(clean.device)[timestep][:, None, None]
    return abar.sqrt() * clean.float() + (1 - abar).sqrt() * noise.float()


@dataclass(frozen=True)
class SolverStep:
    """x <- keep * x + take * m + change * (m - m_before), with m the network's output at `timestep`."""

    timestep: int
    keep: float
    take: float
    ratio: float  # of this step's width to that of the step before, in log SNR; 0 in a step of first order

    @property
    def change(self) -> float:
        """How much of the output's change is added."""
        return self.take / 2 * self.ratio

    def advance(self, x: Tensor, m: Tensor, m_before: Tensor | None) -> Tensor:
        """The actions one step less noisy, (B, T, A) float32; `m_before` is None in the first step.

        Coefficients are tensors and multiply in the order of diffusers, so that an output in bf16 is rounded
        where it is there.
        """
        take = torch.tensor(self.take)
        x = self.keep * x.float() + take * m
        return x if m_before is None else x + take / 2 * (torch.tensor(self.ratio) * (m - m_before))


@lru_cache
def solver_steps(num_train_timesteps: int, num_inference_timesteps: int) -> tuple[SolverStep, ...]:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2), midpoint form, first order in the first and last step.

    Timesteps are spread evenly from the noisiest one down; the last step ends at no noise, where the update is
    the network's output itself.
    """
    n, last = num_inference_timesteps, num_train_timesteps - 1
    timesteps = [int(t) for t in np.linspace(0, last, n + 1).round()[:0:-1]]
    abar = [float(alphas_bar(num_train_timesteps)[t]) for t in timesteps] + [1.0]
    alpha = [math.sqrt(a) for a in abar]
    sigma = [math.sqrt(1 - a) for a in abar]
    log_snr = [math.log(a / s) if s else math.inf for a, s in zip(alpha, sigma, strict=True)]

    steps = []
    for k, timestep in enumerate(timesteps):
        h = log_snr[k + 1] - log_snr[k]
        take = -alpha[k + 1] * math.expm1(-h)
        second_order = 0 < k < n - 1
        ratio = h / (log_snr[k] - log_snr[k - 1]) if second_order else 0.0
        steps.append(SolverStep(timestep, sigma[k + 1] / sigma[k], take, ratio))
    return tuple(steps)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Rows that chunks must begin with, in-painted into the network's output before every solver step.

    The network's output is the clean actions, so there is no gradient to take: the prefix replaces its rows, and the
    offset found at the last of them is added to the rows behind it with falling weights. The output at a prefix row
    being constant, the solver gives that row exactly the noise of its timestep, and attention shows it to all others.
    """

    rows: Tensor  # (B, T, A) float32, zero behind the prefix
    weights: Tensor  # (B, T, A) float32: 1 in the prefix, then falling to 0; 0 at slots that are not given
    source: Tensor  # (B, T, 1) int64: the row whose offset a row takes, its own or the prefix's last

    @classmethod
    def of(cls, rows: Sequence[Tensor], given: Tensor, fading: Tensor, horizon: int) -> Prefix:
        """From the first rows (P, A) of each chunk, P from 0 up to the horizon.

        `given` (A,) is 1 at the slots that the rows hold, `fading` (A,) at those of them that are drawn on behind.
        """
        index = torch.arange(horizon, device=given.device)
        filled = given.new_zeros(len(rows), horizon, len(given))
        weights, source = torch.zeros_like(filled), index.repeat(len(rows), 1)[..., None]
        for i, first in enumerate(rows):
            if count := len(first):
                filled[i, :count] = first * given
                weights[i] = fading_weights(count, horizon).to(given)[:, None] * fading
                weights[i, :count] = given
                source[i].clamp_(max=count - 1)
        return cls(filled, weights, source)

    def inpaint(self, clean: Tensor) -> Tensor:
        """The network's output (B, T, A) with the prefix in it."""
        rows, weights = self.rows.to(clean.dtype), self.weights.to(clean.dtype)
        offset = torch.take_along_dim(rows - clean, self.source, dim=1)
        return torch.where(weights == 1, rows, clean + weights * offset)


def fading_weights(count: int, horizon: int) -> Tensor:
    """(T,) float32: 1 in the first `count` rows, then falling over FADING_ROWS (arXiv 2506.07339, equation 5)."""
    share = ((count + FADING_ROWS - torch.arange(horizon)) / (FADING_ROWS + 1)).clamp(0, 1)
    return share * torch.expm1(share) / math.expm1(1)


def action_type(setting: str, network: torch.dtype) -> torch.dtype:
    """The type of actions while they are sampled: float32, or with "model" the network's, as in the reference."""
    if setting not in ACTION_DTYPES:
        raise InputError(f"action_dtype: expected one of {', '.join(ACTION_DTYPES)}, found {setting!r}")
    return torch.float32 if setting == "float32" else network


def sample(
    network: RdtNetwork,
    conditions: Conditions,
    state: Tensor,
    noise: Tensor,
    action_dtype: torch.dtype = torch.float32,
    prefix: Prefix | None = None,
) -> Tensor:
    """A chunk of clean actions (B, T, A) from the state (B, 1, A) and standard normal noise (B, T, A).

    The actions are `action_dtype` in and between the steps, whatever the network's type. Slots that the robot does
    not have are set to zero at the end only, as in the reference. The chunk begins with the rows of `prefix`, rounded
    to no more than `action_dtype`.
    """
    config = network.config
    x, m_before = noise.to(action_dtype), None
    for step in solver_steps(config.num_train_timesteps, config.num_inference_timesteps):
        m = network(conditions, state, x, torch.full((len(x),), step.timestep, device=x.device))
        if prefix is not None:
            m = prefix.inpaint(m)
        x, m_before = step.advance(x, m, m_before).to(action_dtype), m
    return x * conditions.action_mask.to(action_dtype)
