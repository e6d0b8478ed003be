"""LoRA: small matrices beside frozen weights, by peft, and the weights with them merged in."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from rdt_ros.errors import InputError
from rdt_ros.model.network import RdtNetwork
from rdt_ros.training.recipe import LoraConfig

ADAPTER = "lora_"  # in the names of the matrices
BASE = ".base_layer"  # that peft puts into the names of the weights beside them


def add_adapters(network: RdtNetwork, config: LoraConfig) -> None:
    """Puts the matrices in; all other weights are frozen but those of `train_also`."""
    try:
        import peft
    except ImportError as error:
        raise InputError(f"lora: expected peft, found none ({error}): pip install peft") from None
    names = [name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in config.targets:
        if target not in names:
            raise InputError(f"lora.targets: expected some of {', '.join(sorted(set(names)))}, found {target!r}")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=round(config.alpha) or 2 * config.rank,
        lora_dropout=config.dropout,
        # The last Linear is computed by its weight alone, in float32: no matrices there.
        target_modules=rf"model\.blocks\..*\.({'|'.join(config.targets)})",
    )
    peft.inject_adapter_in_model(settings, network)
    for name in matching(parameters(network), config.train_also, "lora.train_also"):
        parameters(network)[name].requires_grad_(True)
    for parameter in network.parameters():
        if parameter.requires_grad:  # what is trained is float32, whatever stands still
            parameter.data = parameter.data.float()


def parameters(network: RdtNetwork) -> dict[str, Parameter]:
    """All of them by their names in a checkpoint; the matrices are under peft's."""
    return {name.replace(BASE, ""): parameter for name, parameter in network.named_parameters()}


def matching(weights: Iterable[str], patterns: Sequence[str], where: str) -> list[str]:
    """Names of weights that one of the patterns fits; InputError for a pattern that fits none."""
    names = [name for name in weights if ADAPTER not in name]
    found: list[str] = []
    for pattern in patterns:
        some = fnmatch.filter(names, pattern) or fnmatch.filter(names, f"*.{pattern}")
        if not some:
            parts = sorted({".".join(name.split(".")[: 1 + name.startswith("model.")]) for name in names})
            raise InputError(f"{where}: expected a pattern of weights in {', '.join(parts)}, found {pattern!r}")
        found += some
    return found


def merged(network: RdtNetwork, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint out of `values` of all parameters, matrices included: W + scale x B A, float32."""
    weights = {name: value for name, value in values.items() if ADAPTER not in name}
    for path, module in network.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "scaling"):
            down, up = (values[f"{path}.{matrix}.default.weight"] for matrix in ("lora_A", "lora_B"))
            change = module.scaling["default"] * (up.float() @ down.float())
            weights[f"{path}.weight"] = weights[f"{path}.weight"].float() + change
    return weights
