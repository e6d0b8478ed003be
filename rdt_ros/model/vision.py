"""Tokens of pictures: the interface of vision encoders, SigLIP's tower, and which encoder a name means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model import efficientnet
from rdt_ros.model.config import SO400M
from rdt_ros.model.efficientnet import EfficientNetEncoder

if TYPE_CHECKING:
    from transformers import SiglipVisionModel

HUB_ENCODERS = {SO400M: f"google/{SO400M}"}
VISION_SIZES: dict[str, dict[str, Any]] = {
    SO400M: {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 96,
        "patch_size": 24,
    },
}


class VisionEncoder(Protocol):
    """Turns prepared pictures into tokens."""

    image_size: int  # pixels of a side
    patches: int  # tokens of a picture
    width: int  # of a token

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1, on any device -> (N, patches, width) on the encoder's."""
        ...


def load_encoder(name: str, source: str | Path | None) -> SiglipEncoder | EfficientNetEncoder:
    """The encoder that a network's config names, in float32 on the CPU.

    `source` is a folder or a Hub id of SigLIP's, None where it is published; a file or "imagenet" for an EfficientNet,
    which is trained with its network, so that no other weights can stand in for those.
    """
    if efficientnet.NAME.fullmatch(name):
        if source is None:
            raise InputError(
                f"vision encoder {name}: expected the weights trained with the network (vision.safetensors in its "
                "checkpoint), found none; to begin training: vision imagenet or random"
            )
        return EfficientNetEncoder.load(name, source)
    source = source or HUB_ENCODERS.get(name)
    if source is None:
        raise InputError(f"vision encoder {name}: not on the Hub: give a folder with its weights")
    return SiglipEncoder.load(str(source))


def random_encoder(name: str) -> SiglipEncoder | EfficientNetEncoder:
    """The encoder of that name with random weights, drawn from torch's generator as for any new module."""
    if efficientnet.NAME.fullmatch(name):
        return EfficientNetEncoder.named(name)
    return SiglipEncoder.random(name)


class SiglipEncoder:
    """SigLIP's vision tower without its pooling head; the tokens are those behind the last LayerNorm."""

    def __init__(self, tower: SiglipVisionModel) -> None:
        config: Any = tower.config
        self.tower = tower.eval().requires_grad_(False)
        self.image_size = config.image_size
        # Pixels beyond the last whole patch are dropped: 384 = 27 * 14 + 6.
        self.patches = (config.image_size // config.patch_size) ** 2
        self.width = config.hidden_size

    @classmethod
    def random(cls, size: str) -> SiglipEncoder:
        """Random weights of a size in VISION_SIZES, drawn from torch's generator as for any new module."""
        from transformers import SiglipVisionConfig, SiglipVisionModel  # seconds, which only SigLIP needs

        return cls(SiglipVisionModel(SiglipVisionConfig(**VISION_SIZES[size], vision_use_head=False)))

    @classmethod
    def load(cls, path_or_id: str) -> SiglipEncoder:
        """Weights of a local folder or a Hub id, of the whole SigLIP or of its vision tower."""
        from transformers import SiglipVisionConfig, SiglipVisionModel

        class Tower(SiglipVisionModel):
            """Loads from a whole SigLIP without a report of the parts that are left behind."""

            _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^(vision_model\.)?head\.", r"^logit_"]

        try:
            config = SiglipVisionConfig.from_pretrained(path_or_id)
            config.vision_use_head = False
            loaded: Any = Tower.from_pretrained(path_or_id, config=config, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"vision encoder: expected a folder with config.json and weights, or a Hub id that is cached or "
                f"can be reached, found {path_or_id!r} ({reason})"
            ) from None
        tower, report = loaded
        missing = sorted(report["missing_keys"])
        if missing:
            raise InputError(f"vision encoder {path_or_id}: {len(missing)} weights missing, first {missing[0]}")
        return cls(tower)

    def to(self, device: torch.device, dtype: torch.dtype) -> SiglipEncoder:
        """Moves the weights; gives itself."""
        self.tower.to(device=device, dtype=dtype)
        return self

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1 -> (N, patches, width), where and as the weights are."""
        return self.tower(pixel_values=images.to(self.tower.device, self.tower.dtype)).last_hidden_state
