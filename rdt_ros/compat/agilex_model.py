"""The reference's deployment module for AgileX robots: `from rdt_ros.compat.agilex_model import create_model`.

Joints are in the robot's own units, as in the reference: left arm and gripper, right arm and gripper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import open_checkpoint
from rdt_ros.model.config import SO400M, config_from_reference
from rdt_ros.model.fast.stage import FastOptions, fast_options
from rdt_ros.model.fast.step import FastStep
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.preprocess import background, prepare_picture
from rdt_ros.model.sampler import action_type, sample
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.robot.description import Wire, load_robot
from rdt_ros.robot.section import Section
from rdt_ros.robot.vector import SLOTS

ROBOT = "agilex"
PICTURES = (
    *("external before", "right wrist before", "left wrist before"),
    *("external now", "right wrist now", "left wrist now"),
)


def create_model(args: Mapping[str, Any], **kwargs: Any) -> RoboticDiffusionTransformerModel:
    """The model of the class below; its `pretrained` is loaded whatever its form."""
    return RoboticDiffusionTransformerModel(args, **kwargs)


class RoboticDiffusionTransformerModel:
    """RDT with its vision encoder, for the joints of an AgileX Cobot Magic.

    `args` is the content of the reference's base.yaml. It decides the sizes where `pretrained` is None (untrained) and
    must agree with weights that have no config beside them. `pretrained` and the vision encoder are a file, a folder
    or a Hub id.

    `action_dtype` is not the reference's: "float32" keeps joint targets exact, "model" rounds them to `dtype` in the
    sampler and in the robot's units, as the reference does. Nor is `backend` (docs/speed.md): all but "eager" prepare
    for the weights that the model has when it is made.
    """

    def __init__(
        self,
        args: Mapping[str, Any],
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        image_size: int | None = None,
        control_frequency: float = 25,
        pretrained: str | None = None,
        pretrained_vision_encoder_name_or_path: str | None = None,
        *,
        action_dtype: str = "float32",
        backend: str | FastOptions = "eager",
    ) -> None:
        if image_size is not None:
            raise InputError(f"image_size: expected None, the encoder's own, found {image_size}")
        _check_pictures(args)
        self.args = args
        self.device = torch.device(device)
        self.dtype = dtype
        self.control_frequency = control_frequency
        self._action_dtype = action_type(action_dtype, dtype)
        self._robot = load_robot(ROBOT)
        self._slots = [SLOTS[channel] for channel in self._robot.channels]
        source = pretrained_vision_encoder_name_or_path or f"google/{SO400M}"
        self.vision_model = SiglipEncoder.load(source).to(self.device, dtype)
        self.policy = self._network(pretrained).eval().requires_grad_(False)
        self._fast = self._fast_step(fast_options(backend, self.device))
        self._followed: Tensor | None = None  # the text whose keys and values the fast step has

    def reset(self) -> None:
        """Nothing to do: the model is ready when it is made and keeps nothing between steps."""

    @torch.inference_mode()
    def step(
        self,
        proprio: Tensor,
        images: Sequence[Image.Image | None],
        text_embeds: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The next actions, (1, T, 14) float32 in command units.

        `proprio` (1, 14) is measured; `images` are six in RGB, external, right wrist, left wrist of the moment before
        and of now, None where one is missing; `text_embeds` (1, L, width); `noise` (1, T, 128) is drawn from torch's
        generator where it is None.
        """
        config = self.policy.config
        state, mask = self._state_and_mask(_checked(proprio, "proprio", (1, len(self._slots))))
        lang = self._text(text_embeds)
        pictures = self._pictures(images)
        shape = (1, config.horizon, config.action_dim)
        if noise is None:
            noise = torch.randn(shape, device=self.device, dtype=self.dtype)
        noise = _checked(noise, "noise", shape).to(self.device)
        chunk = self._plain_chunk if self._fast is None else self._fast_chunk
        actions = chunk(lang, pictures, state, mask, noise)[:, :, self._slots]
        zero, scale = _wires([joint.command_wire for joint in self._robot.joints], actions)
        return (actions * scale + zero).float()

    def _plain_chunk(self, lang: Tensor, pictures: Tensor, state: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        conditions = self.policy.encode_conditions(
            lang,
            torch.ones(lang.shape[:2], dtype=torch.bool, device=self.device),
            self.vision_model.tokens(pictures).flatten(0, 1)[None],
            mask,
            torch.tensor([self.control_frequency], device=self.device),
        )
        return sample(self.policy, conditions, state, noise, self._action_dtype)

    def _fast_chunk(self, lang: Tensor, pictures: Tensor, state: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        assert self._fast is not None
        if self._followed is None or not torch.equal(lang, self._followed):
            self._fast.follow(lang[0])
            self._followed = lang.clone()
        return self._fast.sample_prepared(pictures, state, mask, noise)

    def _fast_step(self, options: FastOptions | None) -> FastStep | None:
        if options is None:
            return None
        return FastStep(
            self.policy,
            self.vision_model,
            device=self.device,
            rate_hz=self.control_frequency,
            action_dtype=self._action_dtype,
            pictures="exact",
            options=options,
            report=lambda _text: None,
        )

    def _network(self, pretrained: str | None) -> RdtNetwork:
        if pretrained is not None:
            checkpoint = open_checkpoint(pretrained, self.args if Path(pretrained).is_file() else None)
            network = checkpoint.network(self.device, self.dtype)
        else:
            common = Section(self.args, "args").section("common")
            pictures = common.whole("img_history_size", least=1) * common.whole("num_cameras", least=1)
            config = config_from_reference(self.args, pictures * self.vision_model.patches, "args")
            network = RdtNetwork(config).to(self.device, self.dtype)
        config, vision = network.config, self.vision_model
        if (config.img_patches, config.img_token_dim) != (vision.patches, vision.width):
            raise InputError(
                f"vision encoder: expected {config.img_patches} tokens of width {config.img_token_dim} as the network "
                f"takes, found {vision.patches} of {vision.width}"
            )
        return network

    def _state_and_mask(self, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (1, 14) in the robot's units -> the state (1, 1, 128) and the mask of its slots (1, 1, 128)."""
        if not proprio.isfinite().all():
            joint = int(proprio.isfinite()[0].int().argmin())
            name, found = self._robot.joint_names[joint], proprio[0, joint].item()
            raise InputError(f"proprio: expected a finite position of {name}, found {found}")
        proprio = proprio.to(self.device, torch.float32)
        zero, scale = _wires([joint.measured_wire for joint in self._robot.joints], proprio)
        state, mask = torch.zeros(2, 1, 1, self.policy.config.action_dim, device=self.device)
        state[..., self._slots] = (proprio - zero) / scale
        mask[..., self._slots] = 1
        return state, mask

    def _pictures(self, images: Sequence[Image.Image | None]) -> Tensor:
        """(6, 3, size, size) float32, the encoder's input."""
        if len(images) != len(PICTURES):
            raise InputError(f"images: expected {len(PICTURES)} ({', '.join(PICTURES)}), found {len(images)}")
        size = self.vision_model.image_size
        prepared = []
        for name, image in zip(PICTURES, images, strict=True):
            if image is None:
                prepared.append(background(size))
                continue
            if not isinstance(image, Image.Image):
                raise InputError(f"images, {name}: expected a PIL image or None, found {type(image).__name__}")
            if 0 in image.size:
                raise InputError(f"images, {name}: expected a picture, found one of {image.width} x {image.height}")
            prepared.append(prepare_picture(np.asarray(image.convert("RGB")), size))
        return torch.from_numpy(np.stack(prepared))

    def _text(self, text_embeds: Tensor) -> Tensor:
        """(1, L, width), checked, on the device."""
        config = self.policy.config
        shape = tuple(text_embeds.shape)
        if len(shape) != 3 or (shape[0], shape[2]) != (1, config.lang_token_dim) or not shape[1]:
            raise InputError(f"text_embeds: expected shape (1, L, {config.lang_token_dim}), found {shape}")
        if shape[1] > config.max_lang_cond_len:
            raise InputError(f"text_embeds: expected at most {config.max_lang_cond_len} tokens, found {shape[1]}")
        if not text_embeds.isfinite().all():
            raise InputError("text_embeds: expected finite values, found NaN or infinity")
        return text_embeds.to(self.device)


def _checked(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name}: expected shape {shape}, found {tuple(tensor.shape)}")
    return tensor


def _wires(wires: Sequence[Wire], like: Tensor) -> tuple[Tensor, Tensor]:
    """What is added and multiplied to get the robot's units, (14,) each, of the type and device of `like`."""
    zero = torch.tensor([wire.closed for wire in wires], device=like.device)
    scale = torch.tensor([wire.open - wire.closed for wire in wires], device=like.device)
    return zero.to(like.dtype), scale.to(like.dtype)


def _check_pictures(args: Mapping[str, Any]) -> None:
    """Refuses two settings of the reference that nothing uses."""
    settings = Section(args, "args").section("dataset")
    for key, expected in (("auto_adjust_image_brightness", False), ("image_aspect_ratio", "pad")):
        if key in settings and (found := settings.take(key)) != expected:
            raise settings.fail(key, repr(expected), found)
