from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, ModelConfig
from rdt_ros.model.network import Conditions, RdtNetwork
from rdt_ros.model.sampler import (
    FADING_ROWS,
    Prefix,
    action_type,
    add_noise,
    alphas_bar,
    fading_weights,
    sample,
    solver_steps,
)

TRAIN_STEPS = 1000
COEFFICIENT_TOLERANCE = 1e-6  # relative; the table was computed in float32
TRAJECTORY_TOLERANCE = 2e-6


def test_signal_power_is_that_of_the_reference():
    table = {
        0: 0.999958694,
        100: 0.971575618,
        250: 0.845888019,
        500: 0.492285043,
        750: 0.143178657,
        900: 0.0236161072,
        990: 1.96717e-4,
        998: 2.42877e-6,
        999: 2.42873e-9,
    }
    assert alphas_bar(TRAIN_STEPS)[list(table)].tolist() == pytest.approx(list(table.values()), rel=5e-6)


def test_noise_is_added_as_diffusers_adds_it():
    scheduler: Any = diffusers.DDPMScheduler(TRAIN_STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    clean, noise = torch.randn(4, 64, 128), torch.randn(4, 64, 128)
    timestep = torch.tensor([0, 100, 900, 999])

    assert torch.equal(alphas_bar(TRAIN_STEPS), scheduler.alphas_cumprod)
    assert torch.equal(add_noise(clean, noise, timestep, TRAIN_STEPS), scheduler.add_noise(clean, noise, timestep))


def test_bf16_training_gets_noise_from_the_first_timestep():
    clean, noise = torch.zeros(1, 4, 8, dtype=torch.bfloat16), torch.ones(1, 4, 8, dtype=torch.bfloat16)

    noisy = add_noise(clean, noise, torch.tensor([0]), TRAIN_STEPS)

    assert noisy.unique().tolist() == pytest.approx([(1 - 0.999958694) ** 0.5], rel=1e-4)


def test_coefficients_of_five_steps_are_those_of_the_reference():
    steps = solver_steps(TRAIN_STEPS, 5)

    assert [step.timestep for step in steps] == [999, 799, 599, 400, 200]
    assert [step.keep for step in steps] == pytest.approx(
        [0.951816380, 0.853006363, 0.732830465, 0.537396789, 0], rel=COEFFICIENT_TOLERANCE
    )
    assert [step.take for step in steps] == pytest.approx(
        [0.306621641, 0.322198749, 0.375915438, 0.515579641, 1], rel=COEFFICIENT_TOLERANCE
    )
    changes = [0, 0.161099374 * 0.0913749561, 0.187957719 * 0.785501361, 0.257789820 * 1.24582827, 0]
    assert [step.change for step in steps] == pytest.approx(changes, rel=COEFFICIENT_TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 10, 26, 50])
def test_solver_follows_diffusers(count: int):
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(
        TRAIN_STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )
    scheduler.set_timesteps(count)
    steps = solver_steps(TRAIN_STEPS, count)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()

    ours = theirs = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 8), np.float32))
    before = None
    for step in steps:
        answer = torch.cos(ours * 3 + step.timestep / 100)  # any function that changes from step to step
        theirs = scheduler.step(answer, step.timestep, theirs).prev_sample
        ours, before = step.advance(ours, answer, before), answer
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=TRAJECTORY_TOLERANCE)
    assert torch.equal(ours, answer)  # the last step returns the network's output


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_solver_rounds_bf16_where_diffusers_does(count: int):
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(
        TRAIN_STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )
    scheduler.set_timesteps(count)
    ours = theirs = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = None
    for step in solver_steps(TRAIN_STEPS, count):
        answer = torch.cos(ours * 3 + step.timestep / 100)
        theirs = scheduler.step(answer, step.timestep, theirs).prev_sample.bfloat16()
        ours, before = step.advance(ours, answer, before).bfloat16(), answer
        assert torch.equal(ours, theirs)


def test_the_type_of_actions_is_a_setting():
    assert action_type("float32", torch.bfloat16) == torch.float32
    assert action_type("model", torch.bfloat16) == torch.bfloat16
    with pytest.raises(InputError, match="action_dtype: expected one of float32, model, found 'bf16'"):
        action_type("bf16", torch.bfloat16)


class Spy(RdtNetwork):
    """Keeps the noisy actions and the answer of every call."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(
        self, conditions: Conditions, state: torch.Tensor, noisy_actions: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        answer = super().forward(conditions, state, noisy_actions, timestep)
        self.calls.append((noisy_actions, answer))
        return answer


@pytest.fixture
def network() -> Spy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Spy(MODEL_SIZES["tiny"])
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight)
    return network.requires_grad_(False)


def test_sampling_is_pure_and_masks_only_at_the_end(network: Spy):
    config = network.config
    mask = torch.ones(1, 1, config.action_dim)
    mask[..., 3:] = 0
    conditions = network.encode_conditions(
        torch.randn(1, 5, config.lang_token_dim),
        torch.ones(1, 5, dtype=torch.bool),
        torch.randn(1, config.img_cond_len, config.img_token_dim),
        mask,
        torch.tensor([25]),
    )
    state, noise = torch.randn(1, 1, config.action_dim), torch.randn(1, config.horizon, config.action_dim)
    kept, generator_state = noise.clone(), torch.get_rng_state()

    first = sample(network, conditions, state, noise)
    second = sample(network, conditions, state, noise)

    assert torch.equal(first, second)
    assert torch.equal(noise, kept)
    assert torch.equal(torch.get_rng_state(), generator_state)
    calls = network.calls[:5]
    assert torch.equal(calls[0][0], noise)
    assert all(noisy[..., 3:].abs().min() > 0 for noisy, _ in calls)
    assert torch.equal(first, calls[-1][1] * mask)


def test_actions_stay_in_float32_between_the_steps_of_a_bf16_network(network: Spy):
    network.to(torch.bfloat16)
    config = network.config
    conditions = network.encode_conditions(
        torch.zeros(1, 1, config.lang_token_dim),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, config.img_cond_len, config.img_token_dim),
        torch.ones(1, 1, config.action_dim),
        torch.tensor([25]),
    )
    noise = torch.randn(1, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(0))

    chunk = sample(network, conditions, torch.zeros(1, 1, config.action_dim), noise)

    assert {noisy.dtype for noisy, _ in network.calls} == {torch.float32}
    assert chunk.dtype == torch.float32


def test_with_the_models_type_every_step_is_rounded(network: Spy):
    network.to(torch.bfloat16)
    config = network.config
    conditions = network.encode_conditions(
        torch.zeros(1, 1, config.lang_token_dim),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, config.img_cond_len, config.img_token_dim),
        torch.ones(1, 1, config.action_dim),
        torch.tensor([25]),
    )
    noise = torch.randn(1, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(0))

    chunk = sample(network, conditions, torch.zeros(1, 1, config.action_dim), noise, torch.bfloat16)

    assert {tensor.dtype for call in network.calls for tensor in call} == {torch.bfloat16}
    assert chunk.dtype == torch.bfloat16


def plain_conditions(network: Spy, mask: torch.Tensor) -> Conditions:
    config = network.config
    return network.encode_conditions(
        torch.zeros(len(mask), 1, config.lang_token_dim),
        torch.ones(len(mask), 1, dtype=torch.bool),
        torch.zeros(len(mask), config.img_cond_len, config.img_token_dim),
        mask,
        torch.tensor([25] * len(mask)),
    )


def test_weights_fall_from_one_to_zero_behind_the_prefix():
    weights = fading_weights(5, 64)

    assert (weights[:5] == 1).all() and not weights[5 + FADING_ROWS :].any()
    assert (weights[4 : 4 + FADING_ROWS].diff() < 0).all()
    share = FADING_ROWS / (FADING_ROWS + 1)
    assert weights[5].item() == pytest.approx(share * math.expm1(share) / math.expm1(1))


def test_a_prefix_is_exact_in_the_output_and_noised_as_its_timestep_asks(network: Spy):
    config, counts = network.config, (6, 0)
    given = torch.zeros(config.action_dim)
    given[:10] = 1
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(count, config.action_dim, generator=generator) for count in counts]
    noise = torch.randn(2, config.horizon, config.action_dim, generator=generator)
    conditions = plain_conditions(network, torch.ones(2, 1, config.action_dim))
    state = torch.zeros(2, 1, config.action_dim)
    prefix = Prefix.of(rows, given, given, config.horizon)

    chunk = sample(network, conditions, state, noise, prefix=prefix)
    calls = list(network.calls)
    free = sample(network, conditions, state, noise)

    assert torch.equal(chunk[0, :6, :10], rows[0][:, :10])
    assert torch.equal(chunk[1], free[1])  # it was given none
    assert not torch.equal(chunk[0, 6:], free[0, 6:])
    for step, (noisy, _) in zip(solver_steps(TRAIN_STEPS, 5), calls, strict=True):
        at = torch.tensor([step.timestep])
        expected = add_noise(rows[0][None, :, :10], noise[:1, :6, :10], at, TRAIN_STEPS)
        assert noisy[0, :6, :10].numpy() == pytest.approx(expected[0].numpy(), abs=1e-4)


def test_rows_behind_a_prefix_take_over_its_last_offset():
    given, fading = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    prefix = Prefix.of([torch.full((2, 3), 5.0)], given, fading, 64)

    painted = prefix.inpaint(torch.ones(1, 64, 3))[0]

    assert (painted[:2] == torch.tensor([5.0, 5.0, 1.0])).all()
    assert painted[2:, 0].tolist() == pytest.approx((1 + 4 * fading_weights(2, 64)[2:]).tolist())
    assert (painted[2:, 1:] == 1).all()
