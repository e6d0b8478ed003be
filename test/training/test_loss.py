"""The loss and the figures against their definitions, and against the reference's own code."""

from __future__ import annotations

import pytest
import torch

from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.training.ema import Ema, decay
from rdt_ros.training.loader import Batch
from rdt_ros.training.loss import Noise, Objective
from rdt_ros.training.pictures import normalised
from rdt_ros.training.recipe import EmaConfig
from rdt_ros.training.sampling_error import Errors

TINY = MODEL_SIZES["tiny"]


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 1, 128)
    mask[:, :, :7] = 1
    return Batch(
        states=torch.randn(2, 1, 128, generator=rng) * mask,
        actions=torch.randn(2, 64, 128, generator=rng) * mask,
        mask=mask,
        rates_hz=torch.tensor([25.0, 0.0]),
        tokens=torch.randn(2, 5, 64, generator=rng),
        token_mask=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        pictures=torch.randint(0, 256, (2, 6, 96, 96, 3), generator=rng, dtype=torch.uint8),
        distinct=torch.arange(12),
        encoded=torch.arange(12),
        state_norms=torch.rand(2, 128, generator=rng),
        datasets=("a", "b"),
        where=("a.hdf5 step 1", "b.hdf5 step 2"),
    )


@pytest.fixture
def objective():
    torch.manual_seed(0)
    network = RdtNetwork(TINY)
    torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=0.05)
    return Objective(network, SiglipEncoder.random("tiny"))


def test_the_loss_is_the_references(batch, objective, reference):
    """Its own network and loss, with the same noise and timesteps."""
    from rdt_ros.bench.reference import drawing

    theirs = reference.network(TINY, objective.network.state_dict(), torch.float32)
    noise = Noise.draw(3, [10, 11], objective.network)
    tokens = objective.vision.tokens(normalised(batch.pictures.flatten(0, 1))).unflatten(0, (2, -1)).flatten(1, 2)
    with drawing(noise.noise, noise.timestep):
        expected = theirs.compute_loss(
            lang_tokens=batch.tokens,
            lang_attn_mask=batch.token_mask,
            img_tokens=tokens,
            state_tokens=batch.states,
            action_gt=batch.actions,
            action_mask=batch.mask,
            ctrl_freqs=batch.rates_hz,
        )
    ours = objective(batch, noise, torch.ones(2, 1, 128))
    assert ours.shape == (2,) and float(ours.mean()) == pytest.approx(float(expected), rel=1e-5)


def test_slots_without_weight_do_not_count(batch, objective):
    noise = Noise.draw(3, [10, 11], objective.network)
    weights = torch.zeros(2, 1, 128)
    weights[:, :, :7] = 128 / 7
    with torch.no_grad():
        masked, every = objective(batch, noise, weights), objective(batch, noise, torch.ones(2, 1, 128))
        rest = objective(batch, noise, (torch.ones(2, 1, 128) - weights * 7 / 128) * 128 / 121)
    torch.testing.assert_close(masked * 7 / 128 + rest * 121 / 128, every)


def test_noise_is_a_function_of_seed_and_sample_alone(objective):
    both, second = (Noise.draw(3, numbers, objective.network) for numbers in ([10, 11], [11]))
    assert torch.equal(both.noise[1:], second.noise) and torch.equal(both.timestep[1:], second.timestep)
    assert not torch.equal(both.noise[0], both.noise[1])
    steps = torch.cat([Noise.draw(0, range(i * 50, i * 50 + 50), objective.network).timestep for i in range(6)])
    assert steps.min() < 50 and steps.max() > 949 and 400 < steps.float().mean() < 600


def test_noise_drawn_ahead_is_the_same(objective):
    order = [[10, 11], [12, 13], [14, 15]]
    for numbers, ahead in zip(order, Noise.stream(3, order, objective.network), strict=True):
        now = Noise.draw(3, numbers, objective.network)
        assert torch.equal(ahead.noise, now.noise) and torch.equal(ahead.timestep, now.timestep)
    assert list(Noise.stream(3, [], objective.network)) == []


def test_low_noise_levels_stay_apart_in_bfloat16(batch, objective):
    """The reference rounds the noise of the first 21 timesteps away."""
    objective.network.bfloat16()
    noise = Noise(torch.randn(2, 64, 128), torch.tensor([5, 20]))
    seen = []
    objective.network.state_adaptor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective(batch, noise, torch.ones(2, 1, 128))
    moved = (seen[1][:, :, :128].float() - batch.actions).abs().mean((1, 2))
    assert 0 < moved[0] < moved[1]


def test_the_figures_are_the_references(batch):
    """Formulas of its train/sample.py, written out sample by sample."""
    predicted = batch.actions + 0.1
    predicted[1] += 0.2 * batch.mask[1]
    predicted[:, :, 50] = 9.0  # a slot that the robot does not have
    errors = Errors.of(predicted, batch)
    assert errors.mse.tolist() == pytest.approx([0.01, 0.09], rel=1e-4)
    expected = [(size / (batch.state_norms[i, :7] + 1e-3)).mean().item() for i, size in enumerate((0.1, 0.3))]
    assert errors.l2err.tolist() == pytest.approx(expected, rel=1e-4)
    assert errors.overall == pytest.approx((0.05, sum(expected) / 2), rel=1e-4)


def test_the_mean_moves_where_bfloat16_would_stand_still():
    parameter = torch.nn.Parameter(torch.ones(3).bfloat16())
    ema = Ema({"p": parameter}, lambda p: p.detach().float(), EmaConfig(decay=0.999))
    parameter.data = torch.full((3,), 1.01, dtype=torch.bfloat16)
    for step in range(100000, 100400):
        ema.update(step)
    target = parameter[0].item()
    assert ema.mean["p"][0].item() == pytest.approx(target - (target - 1) * 0.999**400, rel=1e-5)
    with ema.in_place():
        assert parameter.dtype == torch.bfloat16 and parameter[0].item() != target
    assert parameter[0].item() == target


def test_a_mean_updated_every_few_steps_forgets_as_fast():
    every, third = (
        Ema({"p": p}, lambda p: p.detach(), EmaConfig(decay=0.9, every=n))
        for n, p in ((1, torch.nn.Parameter(torch.zeros(1))), (3, torch.nn.Parameter(torch.zeros(1))))
    )
    for ema in (every, third):
        for parameter in ema._parameters.values():
            parameter.data.fill_(1)
        for step in range(1000, 1030):
            ema.update(step)
    assert every.mean["p"].item() == pytest.approx(third.mean["p"].item(), rel=1e-5)


def test_the_decay_is_the_references():
    """Its counter runs one behind."""
    for n, expected in ((2, 0.4054), (10, 0.8222), (100, 0.9684), (1000, 0.9944)):
        assert decay(n, 0.9999) == pytest.approx(expected, abs=1e-4)
    assert decay(1, 0.9999) == 0 and decay(10**7, 0.9999) == 0.9999
