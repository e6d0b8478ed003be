"""Weight files: opened without running code, mapped from the disk, their sizes read from their shapes, loaded strictly.

Nothing here reads a weight before it goes to its device: a tensor of an open file is a mapping of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.config import ModelConfig
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.torch_file import load_torch_file

DEEPSPEED_KEY = "module"  # under which DeepSpeed keeps the weights, beside its own state
NAMES_SHOWN = 10  # of entries at fault; a line stays readable
# field of a ModelConfig -> the entry whose shape tells it
SOURCES = {
    "hidden_size": "model.x_pos_embed",
    "horizon": "model.x_pos_embed",
    "max_lang_cond_len": "model.lang_cond_pos_embed",
    "img_cond_len": "model.img_cond_pos_embed",
    "action_dim": "model.final_layer.ffn_final.fc2.bias",
    "num_heads": "model.blocks.0.attn.q_norm.weight",
    "depth": "model.blocks.0.attn.qkv.weight",
    "lang_token_dim": "lang_adaptor.0.weight",
    "img_token_dim": "img_adaptor.0.weight",
    "state_adaptor_depth": "state_adaptor.0.weight",
}


def open_weights(path: Path, what: str = "checkpoint") -> tuple[dict[str, Tensor], bool]:
    """The entries of a torch or safetensors file, and whether DeepSpeed wrote it; `what` is for a refusal.

    InputError where the file is cut short, of another kind, or a pickle that asks for more than tensors.
    """
    if path.suffix == ".safetensors":
        return _open_safetensors(path, what), False
    stored: Any = load_torch_file(path, what)
    deepspeed = isinstance(stored, dict) and isinstance(stored.get(DEEPSPEED_KEY), dict)
    weights = stored[DEEPSPEED_KEY] if deepspeed else stored
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{what} {path}: expected a dict of tensors, found {type(weights).__name__}")
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{what} {path}: expected a tensor as {name!r}, found {type(value).__name__}")
    return weights, deepspeed


def sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """What the shapes say about the fields of a ModelConfig, and `img_cond_len`; absent where an entry is absent."""

    def shape(name: str, axes: int) -> tuple[int, ...] | None:
        return tuple(weights[name].shape) if name in weights and weights[name].ndim == axes else None

    sizes: dict[str, int] = {}
    if tokens := shape("model.x_pos_embed", 3):
        sizes |= {"hidden_size": tokens[2], "horizon": tokens[1] - 3}  # without timestep, rate and state
    if lang := shape("model.lang_cond_pos_embed", 3):
        sizes["max_lang_cond_len"] = lang[1]
    if img := shape("model.img_cond_pos_embed", 3):
        sizes["img_cond_len"] = img[1]
    if answer := shape("model.final_layer.ffn_final.fc2.bias", 1):
        sizes["action_dim"] = answer[0]
    head = shape("model.blocks.0.attn.q_norm.weight", 1)
    if tokens and head and 0 < head[0] <= tokens[2]:
        sizes["num_heads"] = tokens[2] // head[0]
    if blocks := _indices(r"model\.blocks\.(\d+)\.attn\.qkv\.weight", weights):
        sizes["depth"] = max(blocks) + 1
    for name in ("lang", "img", "state"):
        layers = _indices(rf"{name}_adaptor\.(\d+)\.weight", weights)
        if first := shape(f"{name}_adaptor.0.weight" if layers else f"{name}_adaptor.weight", 2):
            sizes[f"{name}_adaptor_depth"] = max(layers, default=0) // 2 + 1  # activations stand between the Linears
            if name != "state":  # whose width is twice the action's
                sizes[f"{name}_token_dim"] = first[1]
    return sizes


def check_entries(path: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Raises InputError with the counts and the first names where the entries are not those of the network."""
    with torch.device("meta"):
        expected = RdtNetwork(config).state_dict()
    check_same(f"checkpoint {path}", "an RDT", expected, weights)


def check_same(where: str, what: str, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises InputError with the counts and the first names where the entries are not those expected of `what`."""
    faults = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
        "without fractions": [name for name in weights if not weights[name].is_floating_point()],
    }
    found = [f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names]
    if found:
        raise InputError(f"{where}: expected {len(expected)} entries of {what}, found {', '.join(found)}")


def load_network(
    config: ModelConfig, weights: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype
) -> RdtNetwork:
    """A network with these weights, each moved alone and then converted where it is going.

    On the CPU, in the file's own type, the weights stay a private mapping of the file. Its alignment is the file's, so
    float32 kernels may differ from those for other memory in the last digit.
    """
    with torch.device("meta"):
        network = RdtNetwork(config)
    network.load_state_dict({name: tensor.to(device).to(dtype) for name, tensor in weights.items()}, assign=True)
    return network


def _open_safetensors(path: Path, what: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from None
    except SafetensorError:
        raise InputError(f"{what} {path}: expected a safetensors file, found something else or a part of it") from None


def _indices(pattern: str, names: Mapping[str, Any]) -> list[int]:
    return [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]


def _first(names: list[str]) -> str:
    return ", ".join(map(str, names[:NAMES_SHOWN])) + (", ..." if len(names) > NAMES_SHOWN else "")
