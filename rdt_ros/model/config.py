"""Sizes of an RDT network: one frozen dataclass, the known sizes by name, and the reference's flat config.json."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal

from rdt_ros.errors import InputError
from rdt_ros.robot.section import Section

Norm = Literal["variance", "mean_square"]

NORMS: tuple[Norm, ...] = ("variance", "mean_square")
BETA_SCHEDULE = "squaredcos_cap_v2"
PREDICTION_TYPE = "sample"
SO400M = "siglip-so400m-patch14-384"


@dataclass(frozen=True)
class ModelConfig:
    """What decides the shapes and the arithmetic of one network. Defaults are those of the published models.

    `norm` is "variance" for networks trained with timm 1.0.12 or older, as the published ones, and "mean_square"
    for later ones: the weights fit both, the actions differ.
    """

    hidden_size: int
    depth: int  # blocks; even ones attend to language, odd ones to pictures
    num_heads: int
    horizon: int = 64  # rows of a chunk
    action_dim: int = 128  # also the width of the state: both go through one adaptor
    lang_token_dim: int = 4096
    img_token_dim: int = 1152
    max_lang_cond_len: int = 1024  # tokens of an instruction
    img_history: int = 2  # moments
    img_cameras: int = 3
    img_patches: int = 729  # tokens of one picture
    lang_adaptor_depth: int = 2  # Linear layers; 1 is the reference's "linear"
    img_adaptor_depth: int = 2
    state_adaptor_depth: int = 3
    norm: Norm = "variance"
    num_train_timesteps: int = 1000
    num_inference_timesteps: int = 5
    beta_schedule: str = BETA_SCHEDULE
    prediction_type: str = PREDICTION_TYPE  # the network gives the clean actions, not the noise
    vision: str = SO400M  # whose tokens it was trained on (`rdt_ros.model.vision`)

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit each other."""
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise InputError(
                f"model hidden_size: expected a multiple of 4 and of num_heads {self.num_heads}, "
                f"found {self.hidden_size}"
            )
        if not 1 <= self.num_inference_timesteps < self.num_train_timesteps:
            raise InputError(
                f"model num_inference_timesteps: expected 1 to {self.num_train_timesteps - 1}, "
                f"found {self.num_inference_timesteps}"
            )

    @property
    def img_cond_len(self) -> int:
        """Picture tokens of one step."""
        return self.img_history * self.img_cameras * self.img_patches


MODEL_SIZES: dict[str, ModelConfig] = {
    "rdt-1b": ModelConfig(hidden_size=2048, depth=28, num_heads=32),
    "rdt-170m": ModelConfig(hidden_size=1024, depth=14, num_heads=32),
    # Learns one task or a few from hundreds of demonstrations, and runs on a CPU; its vision encoder is trained along.
    "small": ModelConfig(
        hidden_size=256,
        depth=8,
        num_heads=8,
        lang_token_dim=384,
        img_token_dim=112,
        max_lang_cond_len=32,
        img_patches=64,
        vision="efficientnet-lite0-128",
    ),
    "tiny": ModelConfig(
        hidden_size=64,
        depth=4,
        num_heads=4,
        lang_token_dim=64,
        img_token_dim=32,
        max_lang_cond_len=128,
        img_patches=16,
        vision="tiny",
    ),
}


def model_size(name: str) -> ModelConfig:
    """The sizes of that name; InputError with the nearest name where there is none."""
    if name not in MODEL_SIZES:
        near = difflib.get_close_matches(name, MODEL_SIZES, n=1)
        hint = f", is {near[0]!r} meant?" if near else ""
        raise InputError(f"model size: expected one of {', '.join(MODEL_SIZES)}, found {name!r}{hint}")
    return MODEL_SIZES[name]


def config_from_json(data: object, path: str) -> ModelConfig:
    """Sizes from the content of a config.json in the reference's flat form; `path` is what errors call it.

    Our own keys `norm` and `vision` may be absent, as in published files. Missing, unknown and contradicting keys
    are refused, `ema` is ignored.
    """
    top = Section(data, path)
    rdt, scheduler = top.section("rdt"), top.section("noise_scheduler")
    img_history, img_cameras, img_patches = _image_grid(top)
    fields: dict[str, Any] = {
        "horizon": top.whole("pred_horizon", least=1),
        "img_history": img_history,
        "img_cameras": img_cameras,
        "img_patches": img_patches,
        "beta_schedule": scheduler.text("beta_schedule", (BETA_SCHEDULE,)),
        "prediction_type": scheduler.text("prediction_type", (PREDICTION_TYPE,)),
    }
    for key in ("action_dim", "lang_token_dim", "img_token_dim", "max_lang_cond_len"):
        fields[key] = top.whole(key, least=1)
    for key in ("hidden_size", "depth", "num_heads"):
        fields[key] = rdt.whole(key, least=1)
    for key in ("num_train_timesteps", "num_inference_timesteps"):
        fields[key] = scheduler.whole(key, least=1)
    for key in ("lang_adaptor", "img_adaptor", "state_adaptor"):
        fields[f"{key}_depth"] = _adaptor_depth(top, key)
    if "norm" in top:
        fields["norm"] = top.text("norm", NORMS)
    if "vision" in top:
        fields["vision"] = top.text("vision")
    try:
        config = ModelConfig(**fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

    # What follows from the sizes above is stored a second time, or has one possible value; it must agree.
    derived = config_to_json(config)
    for section, values, keys in (
        (top, derived, ("state_token_dim", "img_cond_len", "lang_pos_embed_config")),
        (rdt, derived["rdt"], ("cond_pos_embed_type",)),
        (scheduler, derived["noise_scheduler"], ("type", "clip_sample")),
    ):
        for key in keys:
            found = section.take(key)
            if found != values[key]:
                raise section.fail(key, repr(values[key]), found)
    if "ema" in top:
        top.take("ema")
    for section in (top, rdt, scheduler):
        section.finish()
    return config


def config_from_reference(data: object, img_cond_len: int, path: str) -> ModelConfig:
    """Sizes from the content of the reference's base.yaml, with the picture tokens that the file leaves out.

    Paths and settings of its data set are not looked at.
    """
    top = Section(data, path)
    common, tokens = top.section("common"), top.section("dataset").whole("tokenizer_max_length", least=1)
    moments, cameras = common.whole("img_history_size", least=1), common.whole("num_cameras", least=1)
    if img_cond_len % (moments * cameras):
        raise common.fail("num_cameras", f"a divisor of {img_cond_len} picture tokens", cameras)
    model = top.take("model")
    if not isinstance(model, dict):
        raise top.fail("model", "a mapping", model)
    flat = {
        "action_dim": common.whole("state_dim", least=1),
        "pred_horizon": common.whole("action_chunk_size", least=1),
        "max_lang_cond_len": tokens,
        "img_cond_len": img_cond_len,
        "lang_pos_embed_config": [["lang", -tokens]],
        "img_pos_embed_config": [["image", [moments, cameras, -(img_cond_len // (moments * cameras))]]],
    }
    return config_from_json(model | flat, f"{path}: model")


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The reference's flat form, which its own code loads, with our keys `norm` and `vision` added."""
    return {
        "action_dim": config.action_dim,
        "pred_horizon": config.horizon,
        "lang_token_dim": config.lang_token_dim,
        "img_token_dim": config.img_token_dim,
        "state_token_dim": config.action_dim,
        "max_lang_cond_len": config.max_lang_cond_len,
        "img_cond_len": config.img_cond_len,
        # A negative length is one whose places share one position code.
        "lang_pos_embed_config": [["lang", -config.max_lang_cond_len]],
        "img_pos_embed_config": [["image", [config.img_history, config.img_cameras, -config.img_patches]]],
        "lang_adaptor": _adaptor_name(config.lang_adaptor_depth),
        "img_adaptor": _adaptor_name(config.img_adaptor_depth),
        "state_adaptor": _adaptor_name(config.state_adaptor_depth),
        "rdt": {
            "hidden_size": config.hidden_size,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "cond_pos_embed_type": "multimodal",
        },
        "noise_scheduler": {
            "type": "ddpm",
            "num_train_timesteps": config.num_train_timesteps,
            "num_inference_timesteps": config.num_inference_timesteps,
            "beta_schedule": config.beta_schedule,
            "prediction_type": config.prediction_type,
            "clip_sample": False,
        },
        "norm": config.norm,
        "vision": config.vision,
    }


def _image_grid(top: Section) -> tuple[int, int, int]:
    """(moments, cameras, patches of a picture) from `[["image", [2, 3, -729]]]`."""
    value = top.take("img_pos_embed_config")
    match value:
        case [["image", [int(history), int(cameras), int(patches)]]] if history > 0 and cameras > 0 and patches < 0:
            return history, cameras, -patches
    raise top.fail("img_pos_embed_config", '[["image", [moments, cameras, -patches]]]', value)


def _adaptor_depth(top: Section, key: str) -> int:
    name = top.text(key)
    match = re.fullmatch(r"mlp([2-9])x_gelu", name)
    if not match and name != "linear":
        raise top.fail(key, "linear or mlp2x_gelu to mlp9x_gelu", name)
    return int(match[1]) if match else 1


def _adaptor_name(depth: int) -> str:
    return "linear" if depth == 1 else f"mlp{depth}x_gelu"
