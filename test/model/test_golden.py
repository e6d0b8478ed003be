"""Network, sampler and loss against numbers that the reference code gave for weights and inputs made from sines."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rdt_ros.model.config import ModelConfig, Norm
from rdt_ros.model.network import Conditions, RdtNetwork
from rdt_ros.model.sampler import add_noise, sample

TOLERANCE = 1e-5  # of one value or a loss
SUM_TOLERANCE = 64 * TOLERANCE  # of the sum of 64 values


@dataclass(frozen=True)
class Golden:
    """What the reference printed for one norm form: sums and two rows of each result."""

    norm: Norm
    output_sums: tuple[float, float]
    output_first: str
    output_last: str
    sample_sums: tuple[float, float]
    sample_first: str
    sample_last: str
    loss: float


GOLDEN = [
    Golden(
        "variance",
        (-0.680741, 43.198106),
        "-0.159204 0.150807 0.387199 0.410884 0.202160 -0.124611 -0.385026 -0.430790",
        "-0.119381 0.035942 0.190263 0.256381 0.187766 0.010205 -0.186232 -0.293696",
        (11.183278, 40.278418),
        "-0.102633 0.441151 0.727760 0.586359 0.101612 -0.437614 0 0",
        "0 0 0.076307 0.223432 0.256654 0.137379 -0.081171 -0.277169",
        0.8117408,
    ),
    Golden(
        "mean_square",
        (-1.02722, 54.01185),
        "-0.137275 0.154062 0.369721 0.383723 0.182487 -0.124359 -0.365008 -0.403662",
        "-0.118520 0.021056 0.169042 0.242240 0.189646 0.026916 -0.165254 -0.281713",
        (11.88617, 41.01201),
        "-0.092399 0.708096 1.082654 0.804836 0.045551 -0.732771 0 0",
        "0 0 0.039562 0.208179 0.272537 0.174356 -0.046476 -0.266690",
        0.891963,
    ),
]


def wave(name: str, shape: tuple[int, ...], amplitude: float = 1.0) -> torch.Tensor:
    """Element j is amplitude * sin(crc32(name) mod 1000 + 0.7 j)."""
    values = amplitude * np.sin(zlib.crc32(name.encode()) % 1000 + 0.7 * np.arange(math.prod(shape)))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def golden_network(norm: Norm) -> RdtNetwork:
    config = ModelConfig(
        hidden_size=64,
        depth=3,
        num_heads=4,
        horizon=4,
        action_dim=8,
        lang_token_dim=12,
        img_token_dim=10,
        max_lang_cond_len=6,
        img_patches=2,
        norm=norm,
    )
    network = RdtNetwork(config)
    weights = {key: wave(key, tuple(value.shape), 0.2) for key, value in network.state_dict().items()}
    network.load_state_dict({key: value + 1 if "norm" in key else value for key, value in weights.items()})
    return network.requires_grad_(False)


def golden_conditions(network: RdtNetwork) -> Conditions:
    lang_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    action_mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]]).float()[:, None]
    rates_hz = torch.tensor([25, 0])
    return network.encode_conditions(
        wave("lang", (2, 5, 12)), lang_mask, wave("img", (2, 12, 10)), action_mask, rates_hz
    )


def check(result: torch.Tensor, sums: tuple[float, float], first: str, last: str) -> None:
    assert (result.sum().item(), result.abs().sum().item()) == pytest.approx(sums, abs=SUM_TOLERANCE)
    assert result[0, 0].tolist() == pytest.approx([float(x) for x in first.split()], abs=TOLERANCE)
    assert result[1, 3].tolist() == pytest.approx([float(x) for x in last.split()], abs=TOLERANCE)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.norm)
def test_network_sample_and_loss_are_those_of_the_reference(golden: Golden):
    network = golden_network(golden.norm)
    conditions = golden_conditions(network)
    state, noise, target = wave("state", (2, 1, 8)), wave("noise", (2, 4, 8)), wave("gt", (2, 4, 8))

    output = network(conditions, state, noise, torch.tensor([599, 599]))
    check(output, golden.output_sums, golden.output_first, golden.output_last)

    chunk = sample(network, conditions, state, noise)
    check(chunk, golden.sample_sums, golden.sample_first, golden.sample_last)

    timestep = torch.tensor([100, 900])
    noisy = add_noise(target, noise, timestep, network.config.num_train_timesteps)
    loss = F.mse_loss(network(conditions, state, noisy, timestep), target)
    assert loss.item() == pytest.approx(golden.loss, abs=TOLERANCE)
