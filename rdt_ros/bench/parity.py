"""Our network, sampler and step beside the reference's: same weights, same noise, one process.

`PYTHONPATH=ref python -m rdt_ros.bench.parity --size rdt-1b --device cuda`; rdt_ros.bench.reference says how to get
the reference. Errors are relative L2 errors against our float32, whose distance from the reference's float32 is
stated beside them; weights and inputs are bf16 numbers everywhere, so that only arithmetic differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rdt_ros.bench import loading
from rdt_ros.bench.reference import HOW_TO, Reference, drawing, quiet, without_init
from rdt_ros.compat.agilex_model import create_model
from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, ModelConfig
from rdt_ros.model.network import Conditions, RdtNetwork
from rdt_ros.model.sampler import add_noise, sample
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.model.weights import open_weights
from rdt_ros.robot.description import load_robot

TIMESTEP = 599  # of the single network call
LOSS_TIMESTEPS = (100, 900)
RATE_HZ = 25
WEIGHT_SPREAD = 0.1  # of norms around 1 and of biases around 0
PICTURE_SIZES = ((640, 480), (480, 640), (384, 384), (1280, 720), (97, 33))  # width, height
GRIPPERS = [6, 13]  # of the 14
ARM_JOINTS = [i for i in range(14) if i not in GRIPPERS]
MEASURED_GRIPPER, COMMAND_GRIPPER = 4.79, 13.9  # open, in the robot's units, about
BF16 = torch.bfloat16
WEIGHTS = "mp_rank_00_model_states.pt"
VISION_FOLDER = "vision"
WHAT = ("network", "sample", "step")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one call of the network takes; shapes as in `rdt_ros.model.network`."""

    lang: Tensor
    lang_mask: Tensor
    img: Tensor
    state: Tensor
    action_mask: Tensor
    rates_hz: Tensor
    noise: Tensor
    target: Tensor

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Inputs:
        """The same numbers elsewhere; masks and rates keep their type."""
        kept = ("lang_mask", "rates_hz")
        moved = {
            field.name: getattr(self, field.name).to(device, None if field.name in kept else dtype)
            for field in fields(self)
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class StepInputs:
    """What one step of the deployment module takes."""

    proprio: Tensor
    images: list[Image.Image | None]
    text_embeds: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Answers:
    """Network output and sampled chunk (B, T, A), and the training loss."""

    output: Tensor
    chunk: Tensor
    loss: float


def random_network(config: ModelConfig, seed: int) -> RdtNetwork:
    """Initial weights, but no norm of exactly 1, no bias of 0, and an answer: all that training changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RdtNetwork(config).requires_grad_(False)
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.normal_(1, WEIGHT_SPREAD)
            elif name.endswith("bias"):
                parameter.normal_(0, WEIGHT_SPREAD)
        network.model.final_layer.ffn_final.fc2.weight.normal_(std=config.hidden_size**-0.5)
    return network.to(BF16).float()


def random_inputs(config: ModelConfig, seed: int, batch: int = 2) -> Inputs:
    """Float32 on the CPU, of values that bf16 holds."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(BF16).float()

    length = min(config.max_lang_cond_len, 11)
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[1:, length // 2 + 1 :] = False
    rates_hz = torch.tensor([RATE_HZ, *[0] * (batch - 1)])
    return Inputs(
        lang=normal(length, config.lang_token_dim),
        lang_mask=mask,
        img=normal(config.img_cond_len, config.img_token_dim),
        state=normal(1, config.action_dim),
        action_mask=(normal(1, config.action_dim) > -0.5).float(),
        rates_hz=rates_hz,
        noise=normal(config.horizon, config.action_dim),
        target=normal(config.horizon, config.action_dim),
    )


def random_step_inputs(config: ModelConfig, seed: int) -> StepInputs:
    """Textured pictures of many sizes, one of them missing; joints and grippers in an AgileX robot's units."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    images: list[Image.Image | None] = [
        _picture(random, *PICTURE_SIZES[(seed + i) % len(PICTURE_SIZES)]) for i in range(6)
    ]
    images[seed % 6] = None
    proprio = torch.from_numpy(random.uniform(-2, 2, (1, 14)).astype(np.float32))
    proprio[:, GRIPPERS] = torch.rand(1, 2, generator=generator) * MEASURED_GRIPPER
    length = 3 + seed % min(30, config.max_lang_cond_len - 3)
    return StepInputs(
        proprio,
        images,
        torch.randn(1, length, config.lang_token_dim, generator=generator).to(BF16).float(),
        torch.randn(1, config.horizon, config.action_dim, generator=generator).to(BF16).float(),
    )


def our_answers(network: RdtNetwork, inputs: Inputs, action_dtype: torch.dtype = torch.float32) -> Answers:
    """What this project computes."""
    conditions = _conditions(network, inputs)
    batch, device = len(inputs.state), inputs.state.device
    timestep = torch.full((batch,), TIMESTEP, device=device)
    losses = torch.tensor(LOSS_TIMESTEPS, device=device)[:batch]
    noisy = add_noise(inputs.target, inputs.noise, losses, network.config.num_train_timesteps)
    predicted = network(conditions, inputs.state, noisy, losses)
    return Answers(
        network(conditions, inputs.state, inputs.noise.to(action_dtype), timestep),
        sample(network, conditions, inputs.state, inputs.noise, action_dtype),
        F.mse_loss(predicted.float(), inputs.target.float()).item(),
    )


def reference_answers(runner: Any, inputs: Inputs) -> Answers:
    """What the reference computes, of its own inputs' type."""
    x, mask = inputs, inputs.action_mask
    lang, img, state = runner.adapt_conditions(x.lang, x.img, torch.cat([x.state, mask], -1))
    actions = runner.state_adaptor(torch.cat([x.noise, mask.expand_as(x.noise)], -1))
    timestep = torch.tensor([TIMESTEP], device=x.state.device)
    losses = torch.tensor(LOSS_TIMESTEPS, device=x.state.device)[: len(x.state)]
    output = runner.model(torch.cat([state, actions], 1), x.rates_hz, timestep, lang, img, lang_mask=x.lang_mask)
    with drawing(x.noise, losses):
        chunk = runner.predict_action(x.lang, x.lang_mask, x.img, x.state, mask, x.rates_hz)
        loss = runner.compute_loss(x.lang, x.lang_mask, x.img, x.state, x.target, mask, x.rates_hz)
    return Answers(output, chunk, loss.item())


def save_vision(size: str, folder: Path, seed: int) -> Path:
    """A SigLIP tower of random weights, as a folder that we and the reference load."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = SiglipEncoder.random(size)
    encoder.tower.to(BF16).save(folder)
    side = encoder.image_size
    from transformers import SiglipImageProcessorPil  # a second at every start of `rdt bench step`'s own processes

    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def reference_step(model: Any, inputs: StepInputs) -> Tensor:
    """One step of the reference's deployment module with this noise."""
    with drawing(inputs.noise):
        return model.step(inputs.proprio, inputs.images, inputs.text_embeds)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of what is expected."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def save_weights(config: ModelConfig, folder: Path) -> Path:
    """Random bf16 weights in DeepSpeed's form, and a vision encoder beside them."""
    save_vision(config.vision, folder / VISION_FOLDER, seed=0)
    weights = {name: tensor.to(BF16) for name, tensor in random_network(config, seed=0).state_dict().items()}
    torch.save({"module": weights}, folder / WEIGHTS)
    return folder


def deploy(create: Any, args: dict[str, Any], folder: Path, device: str, dtype: torch.dtype, **options: Any) -> Any:
    """Our deployment module or the reference's, with the weights of `folder`; `create` is its `create_model`."""
    with quiet(), without_init():
        return create(
            args,
            device=device,
            dtype=dtype,
            control_frequency=RATE_HZ,
            pretrained=str(folder / WEIGHTS),
            pretrained_vision_encoder_name_or_path=str(folder / VISION_FOLDER),
            **options,
        )


def compare(size: str, device: str, count: int, folder: Path) -> dict[str, Any]:
    """All figures of one size; leaves the weights in `folder`."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    reference, config = Reference(), MODEL_SIZES[size]
    args = reference.base_yaml(config)
    save_weights(config, folder)
    exact = deploy(create_model, args, folder, device, torch.float32)
    theirs_exact = deploy(reference.deployment.create_model, args, folder, device, torch.float32)
    exact_differences = list(_differences(exact, theirs_exact, config, device, min(count, 2)))
    del theirs_exact
    models = {
        "ours": deploy(create_model, args, folder, device, BF16),
        "ours_rounded": deploy(create_model, args, folder, device, BF16, action_dtype="model"),
        "reference": deploy(reference.deployment.create_model, args, folder, device, BF16),
    }
    errors: dict[str, dict[str, list[float]]] = {what: {kind: [] for kind in models} for what in WHAT}
    radians: dict[str, list[Tensor]] = {"body": [], "grid": [], "reference": []}
    for seed in range(count):
        truth, true_arms = _answers("exact", exact, config, seed, device)
        found = {kind: _answers(kind, model, config, seed, device) for kind, model in models.items()}
        for kind, (answers, arms) in found.items():
            errors["network"][kind].append(relative_error(answers.output, truth.output))
            errors["sample"][kind].append(relative_error(answers.chunk, truth.chunk))
            errors["step"][kind].append(relative_error(arms, true_arms))
        radians["body"].append(found["ours"][1] - true_arms)
        radians["grid"].append(true_arms.to(BF16) - true_arms)
        radians["reference"].append(found["reference"][1] - true_arms)
    return {
        "model": size,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "inputs": count,
        "float32_max_difference": {
            what: max(found[what] for found in exact_differences) for what in exact_differences[0]
        },
        "relative_error": {what: _summary(found) for what, found in errors.items()},
        "arm_error_rad": {name: _spread(torch.cat(found)) for name, found in radians.items()}
        | {"grid_over_joint_ranges": _spread(_grid_over_joint_ranges())},
    }


def _answers(kind: str, model: Any, config: ModelConfig, seed: int, device: str) -> tuple[Answers, Tensor]:
    """What a model answers to the inputs of a seed; of its step the arms alone, which are in rad."""
    inputs, step = random_inputs(config, seed, batch=1), random_step_inputs(config, seed)
    inputs = inputs.to(device, model.dtype)
    if kind == "reference":
        answers, rows = reference_answers(model.policy, inputs), reference_step(model, step)
    else:
        action_dtype = model.dtype if kind == "ours_rounded" else torch.float32
        answers = our_answers(model.policy, inputs, action_dtype)
        rows = model.step(step.proprio, step.images, step.text_embeds, step.noise)
    return answers, rows[..., ARM_JOINTS]


def _grid_over_joint_ranges() -> Tensor:
    """What rounding to bf16 does to joint targets spread over the ranges of an AgileX robot's arms."""
    robot = load_robot("agilex")
    shares = np.linspace(0, 1, 10_001)[:, None]
    lower, upper = (robot.limits(which)[ARM_JOINTS] for which in ("lower", "upper"))
    targets = torch.from_numpy(lower + shares * (upper - lower))
    return targets.to(BF16) - targets


def _differences(ours: Any, theirs: Any, config: ModelConfig, device: str, count: int) -> Iterator[dict[str, float]]:
    """Largest absolute differences in float32, of `count` inputs."""
    for seed in range(count):
        inputs, step = random_inputs(config, seed).to(device, torch.float32), random_step_inputs(config, seed)
        mine, other = our_answers(ours.policy, inputs), reference_answers(theirs.policy, inputs)
        rows = ours.step(step.proprio, step.images, step.text_embeds, step.noise)
        apart = (rows - reference_step(theirs, step)).abs()
        yield {
            "network": _rounded((mine.output - other.output).abs().max()),
            "sample": _rounded((mine.chunk - other.chunk).abs().max()),
            "loss": _rounded(abs(mine.loss - other.loss)),
            "step_arms_rad": _rounded(apart[..., ARM_JOINTS].max()),
            "step_grippers_command": _rounded(apart[..., GRIPPERS].max()),
        }


def _conditions(network: RdtNetwork, inputs: Inputs) -> Conditions:
    return network.encode_conditions(inputs.lang, inputs.lang_mask, inputs.img, inputs.action_mask, inputs.rates_hz)


def _summary(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and the median of the ratios of ours to the reference's, input by input."""
    medians = {kind: _rounded(float(np.median(values))) for kind, values in found.items()}
    ratios = {
        f"{kind}_ratio": _rounded(float(np.median(np.divide(values, found["reference"]))))
        for kind, values in found.items()
        if kind != "reference"
    }
    return medians | ratios


def _spread(errors: Tensor) -> dict[str, float]:
    return {"rms": _rounded(errors.square().mean().sqrt()), "max": _rounded(errors.abs().max())}


def _rounded(value: float | Tensor) -> float:
    return float(f"{float(value):.4g}")


def _picture(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """Colours that change smoothly with some noise, as a camera's do."""
    coarse = random.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(prog="rdt bench parity", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="rdt-1b", choices=MODEL_SIZES, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--inputs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--loading", action="store_true", help="also measure loading onto the device")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = compare(args.size, args.device, args.inputs, Path(folder))
        except ImportError as error:
            raise InputError(f"reference code: {error}; {HOW_TO}") from None
        if args.loading:
            weights = open_weights(Path(folder) / WEIGHTS)[0]
            config = MODEL_SIZES[args.size]
            figures["loading"] = loading.measure(config, weights, Path(folder), args.device, "bfloat16")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
