"""Runs that train the vision encoder with the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import SAFETENSORS, VISION
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.efficientnet import EfficientNetEncoder
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.pictures import FrameReader, FrameSource, normalised, resized
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import settings

SIDE = 32  # of the pictures
VISION_NAME = f"efficientnet-lite0-{SIDE}"
SEEING = dataclasses.replace(
    MODEL_SIZES["small"], hidden_size=32, depth=2, num_heads=2, img_patches=(SIDE // 16) ** 2, vision=VISION_NAME
)
SMALL = {
    "checkpoint": "random:seeing",
    "vision": "random",
    "language": "hashed",
    "steps": 2,
    "batch_size": 1,
    "precision": "fp32",
    "loader": {"workers": 0, "seed": 5},
    "sample": {"augment": False, "condition_dropout": 0.0},
    "optimizer": {"warmup_steps": 0, "learning_rate": 1e-3},
    "ema": {"decay": 0.9},
    "evaluation": {"samples": 1, "curves": 0},
    "saving": {"every": 1},
    "logging": {"every": 1, "tracker": "none"},
}


@pytest.fixture(autouse=True)
def small_process(monkeypatch):
    """A size of its own; and accelerate keeps one state a process."""
    monkeypatch.setitem(MODEL_SIZES, "seeing", SEEING)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def episodes(maker, tmp_path) -> Path:
    return maker.folder(tmp_path / "set", (130,), height=24, width=32)


@pytest.fixture
def run(episodes, tmp_path):
    """Runs a recipe, and gives the folder of its last checkpoint."""

    def run(output: str = "run", start: Path | None = None, **changes) -> Path:
        dataset = {"path": str(episodes), "robot": "agilex"}
        data = {**SMALL, "output": str(tmp_path / output), "datasets": [dataset]}
        if start is not None:
            data |= {"checkpoint": str(start), "vision": "", "language": "store"}
            dataset["instructions"] = str(start)
        for name, value in changes.items():
            data[name] = {**data.get(name, {}), **value} if isinstance(value, dict) else value
        recipe = settings(Recipe, data, "test")
        tuning = FineTuning(recipe, cpu=True)
        assert tuning.run()
        return tuning.folder.checkpoint(recipe.steps)

    return run


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    parts = load_file(checkpoint / SAFETENSORS), load_file(checkpoint / VISION)
    return {f"{i}.{name}": tensor for i, part in enumerate(parts) for name, tensor in part.items()}


def test_the_encoder_learns_its_norms_stay_and_resuming_changes_nothing(run):
    whole = run("whole")
    run("parts", steps=1)
    parts = run("parts")
    first, last = weights(whole.with_name("step_000001")), weights(whole)
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(parts).items())
    changed = {name for name in last if name.startswith("1.") and not torch.equal(first[name], last[name])}
    assert changed == {name for name in last if name.startswith("1.") and name.endswith(".conv.weight")}


def test_the_policy_sees_with_the_encoder_of_its_checkpoint(run, episodes):
    checkpoint = run()
    policy = RdtPolicy.from_checkpoint(checkpoint, device="cpu", instruction="fold the towel")
    robot = load_robot("agilex")
    rgb = FrameReader().rgb(FrameSource(episodes / "e0.hdf5", robot), robot.cameras[0].name, 20)
    images = normalised(torch.from_numpy(resized(rgb, SIDE)[None]))
    plain = EfficientNetEncoder.load(VISION_NAME, checkpoint / VISION).eval()
    _, encoder = policy.parts
    with torch.no_grad():
        expected, found = plain.tokens(images), encoder.tokens(images)
    assert expected.abs().max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_checkpoint_that_lost_its_encoder_is_refused(run):
    checkpoint = run(steps=1)
    (checkpoint / VISION).unlink()
    with pytest.raises(InputError, match="expected the weights trained with the network"):
        RdtPolicy.from_checkpoint(checkpoint, device="cpu")
    with pytest.raises(InputError, match="expected vision.safetensors to go on from, found none"):
        run(steps=2)


def test_a_run_starts_from_a_trained_encoder(run):
    start = run("start", ema={"decay": 0.0})
    still = {"learning_rate": 0.0, "weight_decay": 0.0}
    again = run("again", start, steps=1, optimizer=still)
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(start).items())


def test_a_frozen_encoder_stays_and_is_kept_all_the_same(run):
    start = run("start", steps=1)
    frozen = run("frozen", start, steps=1, freeze=["vision.*"])
    before, after = load_file(start / VISION), load_file(frozen / VISION)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_halves_of_weights_are_refused(run):
    with pytest.raises(InputError, match=f"{VISION_NAME} is trained along: expected weights float32"):
        run(precision="bf16", weights="split")
