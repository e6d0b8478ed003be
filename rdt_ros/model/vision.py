"""Tokens of pictures: the interface of vision encoders, SigLIP as one, and which encoder a name means."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model import efficientnet, siglip
from rdt_ros.model.config import SO400M
from rdt_ros.model.efficientnet import EfficientNetEncoder
from rdt_ros.model.siglip import SiglipTower

HUB_ENCODERS = {SO400M: f"google/{SO400M}"}


class VisionEncoder(Protocol):
    """Turns prepared pictures into tokens."""

    image_size: int  # pixels of a side
    patches: int  # tokens of a picture
    width: int  # of a token

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1, on any device -> (N, patches, width) on the encoder's."""
        ...


def load_encoder(name: str, source: str | Path | None) -> SiglipEncoder | EfficientNetEncoder:
    """The encoder that a network's config names, on the CPU: SigLIP in its file's type, an EfficientNet in float32.

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
    """SigLIP's vision tower, frozen; the tokens are those behind its last LayerNorm."""

    def __init__(self, tower: SiglipTower) -> None:
        self.tower = tower.eval().requires_grad_(False)
        self.image_size = tower.config.image_size
        self.patches = tower.config.patches
        self.width = tower.config.hidden_size

    @classmethod
    def random(cls, size: str) -> SiglipEncoder:
        """Random weights of a size in `siglip.SIZES`, drawn from torch's generator as for any new module."""
        return cls(SiglipTower(siglip.SIZES[size]))

    @classmethod
    def load(cls, path_or_id: str) -> SiglipEncoder:
        """Weights of a local folder or a Hub id, of the whole SigLIP or of its vision tower, mapped from the disk."""
        return cls(SiglipTower.load(path_or_id))

    def to(self, device: torch.device, dtype: torch.dtype) -> SiglipEncoder:
        """Moves the weights and converts them where they are then; gives itself."""
        self.tower.to(device).to(dtype)
        return self

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1 -> (N, patches, width), where and as the weights are."""
        return self.tower(images.to(self.tower.device, self.tower.dtype))
