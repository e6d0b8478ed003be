"""SigLIP's vision tower (arXiv 2303.15343) in plain PyTorch; parameter names are those of the published weights.

A picture is cut into patches, each becomes a token, and in every layer each token attends to all of its picture. The
answer is the tokens behind the last LayerNorm; the pooling head is left out. Letters in shapes: N pictures, P patches,
D hidden size.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt_ros.errors import InputError
from rdt_ros.model.config import SO400M
from rdt_ros.model.hub import CONFIG, SAFETENSORS, SAFETENSORS_INDEX, SAFETENSORS_PARTS, TORCH_WEIGHTS, local_copy
from rdt_ros.model.weights import check_same, open_weights
from rdt_ros.robot.section import Section

ACTIVATION = "gelu_pytorch_tanh"  # of every published SigLIP
PREFIX = "vision_model."  # of published names; some versions of transformers leave it out
PARTS = ("embeddings.", "encoder.", "post_layernorm.")  # the rest of a SigLIP is the text tower and the pooling head
WHERE = "vision encoder"


@dataclass(frozen=True)
class SiglipConfig:
    """What decides the shapes and the arithmetic of a tower. A published file leaves out what is the default."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224  # pixels of a side
    patch_size: int = 16
    layer_norm_eps: float = 1e-6

    @property
    def patches(self) -> int:
        """Of a picture. Pixels beyond the last whole patch are dropped: 384 = 27 * 14 + 6."""
        return (self.image_size // self.patch_size) ** 2


SIZES = {
    SO400M: SiglipConfig(1152, 4304, 27, 16, 384, 14),
    "tiny": SiglipConfig(32, 64, 2, 2, 96, 24),
}


class SiglipTower(nn.Module):
    """Pictures to tokens."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Draws them as SigLIP's were: each product keeps the size of what it is given."""
        if self.embeddings.patch_embedding.weight.is_meta:
            return  # torch would import its compiler, which takes seconds, to draw nothing
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.kaiming_normal_(self.embeddings.patch_embedding.weight, nonlinearity="linear")
        nn.init.normal_(self.embeddings.position_embedding.weight, std=self.config.hidden_size**-0.5)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.post_layernorm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.post_layernorm.weight.dtype

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) in -1..1 -> (N, P, D)."""
        return self.post_layernorm(self.encoder(self.embeddings(images)))

    @classmethod
    def load(cls, path_or_id: str) -> SiglipTower:
        """The tower of a local folder or a Hub id, of a whole SigLIP or of its vision tower alone.

        It stays on the CPU in the file's own type, a private mapping of the file, until it is moved.
        """
        folder = Path(path_or_id)
        if not folder.is_dir():
            files = (CONFIG, SAFETENSORS, SAFETENSORS_INDEX, SAFETENSORS_PARTS)
            folder = local_copy(path_or_id, files, f"{WHERE}: expected a folder with {CONFIG} and weights")
        config = _read_config(folder)
        weights: dict[str, Tensor] = {}
        for path in _weight_files(folder):
            for name, tensor in open_weights(path, WHERE)[0].items():
                if (own := name.removeprefix(PREFIX)).startswith(PARTS):
                    weights[own] = tensor
        with torch.device("meta"):
            tower = cls(config)
        check_same(f"{WHERE} {folder}", "SigLIP's vision tower", tower.state_dict(), weights)
        tower.load_state_dict(weights, assign=True)
        return tower

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load` and transformers' SiglipVisionModel read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {PREFIX + name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, folder / SAFETENSORS, metadata={"format": "pt"})
        kind = {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model", "vision_use_head": False}
        config = kind | dataclasses.asdict(self.config) | {"hidden_act": ACTIVATION}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


class Embeddings(nn.Module):
    """A token for each patch, with what was learned of its place."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)
        positions = torch.empty(config.patches, config.hidden_size)  # drawn by the tower
        self.position_embedding = nn.Embedding.from_pretrained(positions, freeze=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, P, D)."""
        return self.patch_embedding(images).flatten(2).transpose(1, 2) + self.position_embedding.weight


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, D) -> (N, P, D)."""
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """Attention, then two Linears, each of the normalised tokens and added to them."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, D) -> (N, P, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Attention(nn.Module):
    """Self-attention of all patches of a picture with all."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, D) -> (N, P, D)."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, tanh GELU, Linear."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _read_config(folder: Path) -> SiglipConfig:
    """The sizes in config.json, of a whole SigLIP or of its vision tower alone."""
    top = Section(_read_json(folder / CONFIG), str(folder / CONFIG))
    section = top.section("vision_config") if "vision_config" in top else top
    if "hidden_act" in section:
        section.text("hidden_act", (ACTIVATION,))
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(SiglipConfig):
        if field.name in section:
            whole = isinstance(field.default, int)
            fields[field.name] = section.whole(field.name, least=1) if whole else section.number(field.name, above=0)
    config = SiglipConfig(**fields)
    if config.hidden_size % config.num_attention_heads:
        heads = f"a divisor of hidden_size {config.hidden_size}"
        raise section.fail("num_attention_heads", heads, config.num_attention_heads)
    return config


def _weight_files(folder: Path) -> list[Path]:
    for name in (SAFETENSORS, SAFETENSORS_INDEX, TORCH_WEIGHTS):
        path = folder / name
        if path.is_file() and name == SAFETENSORS_INDEX:
            index = Section(_read_json(path), str(path))
            files = index.take("weight_map")
            if not isinstance(files, dict):
                raise index.fail("weight_map", "a mapping", files)
            return [folder / part for part in sorted(set(files.values()))]
        if path.is_file():
            return [path]
    raise _incomplete(folder)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise _incomplete(path.parent) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{WHERE} {path}: no JSON: {error}") from None


def _incomplete(folder: Path) -> InputError:
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    return InputError(
        f"{WHERE} {folder}: expected a folder with {CONFIG} and weights ({SAFETENSORS}, {SAFETENSORS_INDEX} or "
        f"{TORCH_WEIGHTS}), found {there}"
    )
