"""Against the reference code itself, in one process, where it is installed (rdt_ros.bench.reference says how)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rdt_ros.bench import parity
from rdt_ros.bench.reference import HOW_TO, Reference
from rdt_ros.compat.agilex_model import create_model
from rdt_ros.model.checkpoint import save_checkpoint, save_for_reference
from rdt_ros.model.config import MODEL_SIZES, ModelConfig

TOLERANCE = 1e-5  # float32: actions, loss, rad
ULP = 2**-7  # of bf16, relative to its power of two
TINY = MODEL_SIZES["tiny"]
OTHERS = {"lang_token_dim": 48, "img_token_dim": 24, "max_lang_cond_len": 20, "img_patches": 9}
CONFIGS = [
    TINY,
    ModelConfig(64, 3, 4, 4, 8, lang_token_dim=12, img_token_dim=10, max_lang_cond_len=6, img_patches=2),
    ModelConfig(128, 5, 2, 32, img_history=1, **OTHERS),
    ModelConfig(96, 2, 8, 16, action_dim=20, img_cameras=1, **OTHERS),
    ModelConfig(128, 5, 2, 32, lang_adaptor_depth=1, state_adaptor_depth=4, num_inference_timesteps=10, **OTHERS),
    ModelConfig(256, 6, 8, 64, **OTHERS),
    ModelConfig(192, 1, 3, 64, num_inference_timesteps=1, num_train_timesteps=1000, **OTHERS),
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """`make` installs it; a robot with ROS 2 from its own packages has none. One that is there must work."""
    if importlib.util.find_spec("dora_rdt_1b") is None:
        pytest.skip(f"the reference code is not installed: {HOW_TO}")
    return Reference()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.save_weights(TINY, tmp_path_factory.mktemp("weights"))


def answers(
    reference: Reference, config: ModelConfig, seed: int, dtype: torch.dtype
) -> tuple[parity.Answers, parity.Answers]:
    network = parity.random_network(config, seed).to(dtype)
    inputs = parity.random_inputs(config, seed).to("cpu", dtype)
    with torch.inference_mode():
        theirs = parity.reference_answers(reference.network(config, network.state_dict(), dtype), inputs)
        return parity.our_answers(network, inputs, action_dtype=dtype), theirs


def check_exact(ours: parity.Answers, theirs: parity.Answers) -> None:
    assert (ours.output - theirs.output).abs().max() < TOLERANCE
    assert (ours.chunk - theirs.chunk).abs().max() < TOLERANCE
    assert ours.loss == pytest.approx(theirs.loss, abs=TOLERANCE)
    assert theirs.chunk.abs().max() > 0.5


@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_network_sample_and_loss_in_float32(seed: int, reference: Reference):
    check_exact(*answers(reference, CONFIGS[seed], seed, torch.float32))


@pytest.mark.slow
def test_network_sample_and_loss_of_rdt_170m_in_float32(reference: Reference):
    check_exact(*answers(reference, MODEL_SIZES["rdt-170m"], 0, torch.float32))


@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_network_and_sample_in_bf16_are_within_an_ulp(seed: int, reference: Reference):
    ours, theirs = answers(reference, CONFIGS[seed], seed, torch.bfloat16)

    for mine, other in ((ours.output, theirs.output), (ours.chunk, theirs.chunk)):
        assert mine.dtype == other.dtype == torch.bfloat16
        ulp = ULP * torch.exp2(other.float().abs().clamp_min(1e-30).log2().floor())
        assert ((mine.float() - other.float()).abs() <= ulp).all()


def steps(reference: Reference, weights: Path, dtype: torch.dtype, action_dtype: str) -> Any:
    """Pairs of chunks (1, 64, 14) of us and of them; all picture sizes, each camera missing once."""
    args = reference.base_yaml(TINY)
    ours = parity.deploy(create_model, args, weights, "cpu", dtype, action_dtype=action_dtype)
    theirs = parity.deploy(reference.deployment.create_model, args, weights, "cpu", dtype)
    for seed in range(6):
        step = parity.random_step_inputs(TINY, seed)
        yield (
            ours.step(step.proprio, step.images, step.text_embeds, step.noise),
            parity.reference_step(theirs, step),
        )


def test_steps_in_float32_are_those_of_the_reference(reference: Reference, weights: Path):
    for ours, theirs in steps(reference, weights, torch.float32, "float32"):
        apart = (ours - theirs).abs()
        assert ours.shape == theirs.shape == (1, 64, 14)
        assert apart[..., parity.ARM_JOINTS].max() < TOLERANCE
        assert apart[..., parity.GRIPPERS].max() < TOLERANCE * parity.COMMAND_GRIPPER  # in command units


@pytest.mark.slow
def test_rounded_steps_in_bf16_are_those_of_the_reference(reference: Reference, weights: Path):
    for ours, theirs in steps(reference, weights, torch.bfloat16, "model"):
        ulp = ULP * torch.exp2(theirs.abs().clamp_min(1e-30).log2().floor())
        assert ((ours - theirs).abs() <= ulp).all()


@pytest.mark.slow
def test_unrounded_steps_in_bf16_differ_by_the_rounding(reference: Reference, weights: Path):
    for ours, theirs in steps(reference, weights, torch.bfloat16, "float32"):
        assert torch.equal(theirs, theirs.bfloat16().float())
        assert (ours != ours.bfloat16().float()).float().mean() > 0.9
        assert parity.relative_error(ours, theirs) < 0.03


@pytest.mark.parametrize("save", [save_checkpoint, save_for_reference])
def test_the_reference_loads_what_we_save(save: Any, reference: Reference, tmp_path: Path):
    network = parity.random_network(TINY, 0)
    save(tmp_path / "rdt", TINY, network.state_dict())

    loaded = reference.from_folder(tmp_path / "rdt").float().state_dict()

    assert list(loaded) == list(network.state_dict())
    # Its transformer is made in bf16; these weights are bf16 numbers.
    assert all(torch.equal(loaded[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.slow
def test_the_bench_prints_its_figures(reference: Reference, capsys: pytest.CaptureFixture[str]):
    assert parity.main(["--size", "tiny", "--device", "cpu", "--inputs", "2"]) == 0

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert max(figures["float32_max_difference"].values()) < TOLERANCE * parity.COMMAND_GRIPPER
    for what in parity.WHAT:
        found = figures["relative_error"][what]
        assert found["ours_rounded_ratio"] == pytest.approx(1, abs=0.05)
        assert 0 < found["ours_ratio"] < 1.2
    assert figures["arm_error_rad"]["grid_over_joint_ranges"]["max"] == pytest.approx(0.0078, abs=1e-4)


def test_relative_error_is_of_the_norms():
    assert parity.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_random_inputs_are_bf16_numbers_and_repeat_themselves():
    inputs, again = (parity.random_inputs(TINY, 3) for _ in range(2))

    for name in ("lang", "img", "state", "noise", "target"):
        tensor = getattr(inputs, name)
        assert torch.equal(tensor, tensor.bfloat16().float())
        assert torch.equal(tensor, getattr(again, name))
    assert inputs.to("cpu", torch.bfloat16).lang_mask.dtype == torch.bool
