from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rdt_ros.compat.agilex_model import RoboticDiffusionTransformerModel, create_model
from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import save_checkpoint
from rdt_ros.model.config import MODEL_SIZES, config_to_json
from rdt_ros.model.fast.stage import FastOptions
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Observation

CONFIG = MODEL_SIZES["tiny"]
TEXT_EMBEDS = torch.randn(1, 5, CONFIG.lang_token_dim, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(2))
PROPRIO = torch.linspace(-1, 1, 14)[None]
TOLERANCE = 1e-5
MEASURED_GRIPPERS, COMMAND_GRIPPERS = (4.7908, 4.7888), (11.8997, 13.9231)  # of the reference
ROUNDED_GRIPPERS = (11.875, 13.9375)


def args(**dataset: Any) -> dict[str, Any]:
    """The content of the reference's base.yaml for the tiny size."""
    flat = config_to_json(CONFIG)
    model = {key: value for key, value in flat.items() if key.endswith("_adaptor") or key.endswith("_token_dim")}
    return {
        "common": {"img_history_size": 2, "action_chunk_size": 64, "num_cameras": 3, "state_dim": 128},
        "dataset": {"tokenizer_max_length": CONFIG.max_lang_cond_len, "image_aspect_ratio": "pad"} | dataset,
        "model": model | {"rdt": flat["rdt"], "noise_scheduler": flat["noise_scheduler"]},
    }


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vision")
    SiglipEncoder.random("tiny").tower.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def network() -> RdtNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RdtNetwork(CONFIG).requires_grad_(False)
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight)
    return network


@pytest.fixture(scope="module")
def weights(network: RdtNetwork, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "mp_rank_00_model_states.pt"
    torch.save({"module": network.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def make(weights: str, vision: str) -> Any:
    def make(**options: Any) -> RoboticDiffusionTransformerModel:
        defaults = {"device": "cpu", "dtype": torch.float32, "pretrained": weights}
        return create_model(args(), **(defaults | {"pretrained_vision_encoder_name_or_path": vision} | options))

    return make


@pytest.fixture(scope="module")
def model(make: Any) -> RoboticDiffusionTransformerModel:
    return make()


def test_a_step_gives_command_units_of_what_the_policy_gives(model: Any, network: RdtNetwork, vision: str):
    class Given:
        width = CONFIG.lang_token_dim

        def tokens(self, instruction: str) -> torch.Tensor:
            return TEXT_EMBEDS[0]

    robot = load_robot("agilex")
    measured = PROPRIO[0].clone()
    measured[[6, 13]] /= torch.tensor(MEASURED_GRIPPERS)
    observation = Observation(0, "agilex", (), robot.joint_names, measured.numpy())
    policy = RdtPolicy(robot, network, SiglipEncoder.load(vision), Given(), instruction="any")
    expected = torch.from_numpy(policy.step([observation], noise=NOISE).rows)[None]
    expected[..., [6, 13]] *= torch.tensor(COMMAND_GRIPPERS)

    rows = model.step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE)

    assert rows.shape == (1, 64, 14)
    assert rows.dtype == torch.float32
    assert (rows - expected).abs().max() < TOLERANCE


def test_the_fast_step_gives_the_same(make: Any, model: Any):
    fast = make(backend=FastOptions(compiled=False))
    pictures = [picture(64, 48, seed) for seed in range(5)] + [None]

    for text in (TEXT_EMBEDS, TEXT_EMBEDS[:, :3], TEXT_EMBEDS[:, :3]):
        expected = model.step(PROPRIO, pictures, text, NOISE)
        assert (fast.step(PROPRIO, pictures, text, NOISE) - expected).norm() < TOLERANCE * expected.norm()


def test_a_backend_that_the_device_has_not_is_refused(make: Any):
    with pytest.raises(InputError, match="expected eager or compile on cpu"):
        make(backend="graph")


def test_every_form_of_weights_gives_the_same(make: Any, model: Any, network: RdtNetwork, tmp_path: Path):
    save_checkpoint(tmp_path / "rdt", CONFIG, network.state_dict())
    expected = model.step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE)

    rows = make(pretrained=str(tmp_path / "rdt")).step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE)

    # Mapped weights lie differently in memory and take other kernels; a gripper's unit magnifies it.
    assert rows.numpy() == pytest.approx(expected.numpy(), rel=TOLERANCE, abs=TOLERANCE * max(COMMAND_GRIPPERS))


def test_each_picture_counts_and_a_missing_one_is_background(model: Any):
    images: list[Any] = [picture(64, 48, seed) for seed in range(6)]
    rows = model.step(PROPRIO, images, TEXT_EMBEDS, NOISE)

    for i in range(6):
        without = [*images[:i], None, *images[i + 1 :]]
        grey = [*images[:i], Image.new("RGB", (96, 96), (127, 127, 127)), *images[i + 1 :]]
        answer = model.step(PROPRIO, without, TEXT_EMBEDS, NOISE)
        assert not torch.equal(answer, rows)
        assert torch.equal(answer, model.step(PROPRIO, grey, TEXT_EMBEDS, NOISE))


def test_noise_comes_from_torchs_generator_where_none_is_given(model: Any):
    def step() -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return model.step(PROPRIO, [None] * 6, TEXT_EMBEDS)

    assert torch.equal(step(), step())


def test_model_precision_rounds_actions_and_gripper_factors(make: Any):
    exact = make(dtype=torch.bfloat16).step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE)
    rounded = make(dtype=torch.bfloat16, action_dtype="model").step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE)

    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
    assert tuple(torch.tensor(COMMAND_GRIPPERS).bfloat16().tolist()) == ROUNDED_GRIPPERS
    assert (rounded - exact).norm() / exact.norm() < 0.03


def test_an_untrained_model_takes_its_sizes_from_the_arguments(make: Any):
    model = make(pretrained=None)

    assert model.policy.config == CONFIG.__class__(**{**vars(CONFIG), "vision": model.policy.config.vision})
    assert not model.step(PROPRIO, [None] * 6, TEXT_EMBEDS, NOISE).any()  # the last Linear of an untrained network


def refused(model: Any, **changed: Any) -> str:
    inputs = {"proprio": PROPRIO, "images": [None] * 6, "text_embeds": TEXT_EMBEDS, "noise": NOISE} | changed
    with pytest.raises(InputError) as refusal:
        model.step(**inputs)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_bad_input_is_named(model: Any):
    with_nan = PROPRIO.clone()
    with_nan[0, 9] = float("nan")

    assert "images: expected 6 (external before, " in refused(model, images=[None] * 5)
    assert refused(model, images=[None] * 5).endswith("found 5")
    assert refused(model, images=[None, Image.new("RGB", (0, 0)), *[None] * 4]) == (
        "images, right wrist before: expected a picture, found one of 0 x 0"
    )
    assert "external now: expected a PIL image or None, found ndarray" in refused(
        model, images=[None, None, None, np.zeros((4, 4, 3), np.uint8), None, None]
    )
    assert refused(model, proprio=with_nan) == "proprio: expected a finite position of right_joint2, found nan"
    assert refused(model, proprio=PROPRIO[0]) == "proprio: expected shape (1, 14), found (14,)"
    assert refused(model, text_embeds=TEXT_EMBEDS[..., :63]) == (
        "text_embeds: expected shape (1, L, 64), found (1, 5, 63)"
    )
    assert refused(model, text_embeds=TEXT_EMBEDS[0]) == "text_embeds: expected shape (1, L, 64), found (5, 64)"
    assert "found (1, 0, 64)" in refused(model, text_embeds=TEXT_EMBEDS[:, :0])
    assert refused(model, text_embeds=torch.zeros(1, 129, 64)) == "text_embeds: expected at most 128 tokens, found 129"
    assert "text_embeds: expected finite values" in refused(model, text_embeds=TEXT_EMBEDS * float("inf"))
    assert refused(model, noise=NOISE[0]) == "noise: expected shape (1, 64, 128), found (64, 128)"


def test_bad_settings_are_named(make: Any, weights: str, vision: str):
    def message(**options: Any) -> str:
        with pytest.raises(InputError) as refusal:
            make(**options)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert message(image_size=384) == "image_size: expected None, the encoder's own, found 384"
    assert message(action_dtype="bf16") == "action_dtype: expected one of float32, model, found 'bf16'"
    assert "no such file or folder" in message(pretrained="/nowhere/rdt.pt")
    other = copy.deepcopy(args())
    other["model"]["rdt"]["depth"] = 28
    with pytest.raises(InputError, match="base.yaml: depth: expected 4 as in mp_rank_00_model_states.pt, found 28"):
        create_model(other, device="cpu", pretrained=weights, pretrained_vision_encoder_name_or_path=vision)
    for setting in ({"auto_adjust_image_brightness": True}, {"image_aspect_ratio": "stretch"}):
        with pytest.raises(InputError, match=rf"args\.dataset\.{next(iter(setting))}: expected"):
            create_model(args(**setting), device="cpu", pretrained_vision_encoder_name_or_path=vision)
