"""Finds the reference code of RDT, an oracle for tests and benches that no other part of the project uses.

pip install --no-deps --target ref dora-rdt-1b==0.3.13 timm==1.0.3 diffusers==0.42.1
PYTHONPATH=ref python -m rdt_ros.bench.parity
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor

from rdt_ros.model.config import ModelConfig, config_to_json

TIMM = "1.0.3"  # later ones compute another norm
HOW_TO = f"pip install --no-deps --target ref dora-rdt-1b==0.3.13 timm=={TIMM}, and ref on PYTHONPATH"


class Reference:
    """The reference's runner and deployment module; ImportError where they cannot be imported."""

    def __init__(self) -> None:
        import diffusers  # noqa: F401 - it and transformers look for torchvision before a stand-in is there

        transformers: Any = importlib.import_module("transformers")
        # Its transformers resized with Pillow; later ones do it otherwise where torchvision is there.
        transformers.SiglipImageProcessor = transformers.SiglipImageProcessorPil
        if importlib.util.find_spec("torchvision") is None:
            sys.meta_path.append(_Torchvision())
        timm = importlib.import_module("timm")
        if timm.__version__ != TIMM:
            raise ImportError(f"expected timm {TIMM}, found {timm.__version__}")
        package = importlib.import_module("dora_rdt_1b")  # puts the reference's own folder on the path
        self.folder = Path(package.__path__[0]) / "RoboticsDiffusionTransformer"
        with quiet():
            self.runner: Any = importlib.import_module("models.rdt_runner").RDTRunner
            self.deployment: Any = importlib.import_module("scripts.agilex_model")

    def base_yaml(self, config: ModelConfig) -> dict[str, Any]:
        """The content of its base.yaml with other sizes."""
        data = yaml.safe_load((self.folder / "configs" / "base.yaml").read_text())
        flat = config_to_json(config)
        data["common"] |= {
            "img_history_size": config.img_history,
            "num_cameras": config.img_cameras,
            "state_dim": config.action_dim,
            "action_chunk_size": config.horizon,
        }
        data["dataset"]["tokenizer_max_length"] = config.max_lang_cond_len
        data["model"] |= {key: flat[key] for key in data["model"] if key in flat}
        return data

    def network(self, config: ModelConfig, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
        """Its network with these weights, in one type, on the CPU; the variance form of the norm."""
        flat = config_to_json(config)
        names = (
            *("action_dim", "pred_horizon", "lang_token_dim", "img_token_dim", "state_token_dim"),
            *("max_lang_cond_len", "img_cond_len", "lang_pos_embed_config", "img_pos_embed_config"),
        )
        with quiet(), without_init():
            runner = self.runner(config=flat, dtype=dtype, **{name: flat[name] for name in names})
        runner.to(dtype).load_state_dict(weights)
        return runner.eval().requires_grad_(False)

    def from_folder(self, folder: Path) -> Any:
        """What its loader makes of a folder; the loader lacks two arguments that today's huggingface_hub leaves out."""
        load = functools.partial(self.runner._from_pretrained, proxies=None, resume_download=None)
        with quiet(), mock.patch.object(self.runner, "_from_pretrained", load):
            return self.runner.from_pretrained(folder)


@contextlib.contextmanager
def drawing(noise: Tensor, timestep: Tensor | None = None) -> Iterator[None]:
    """Makes torch.randn give this noise, and torch.randint these timesteps: the reference has no argument for them."""

    def like(tensor: Tensor | None, options: dict[str, Any]) -> Tensor:
        assert tensor is not None
        return tensor.to(options.get("device") or tensor.device, options.get("dtype") or tensor.dtype)

    with (
        mock.patch.object(torch, "randn", lambda *_, **options: like(noise, options)),
        mock.patch.object(torch, "randint", lambda *_, **options: like(timestep, options)),
    ):
        yield


@contextlib.contextmanager
def without_init() -> Iterator[None]:
    """Leaves new weights as they are: they are about to be loaded."""
    names = ("xavier_uniform_", "kaiming_uniform_", "uniform_", "normal_", "constant_")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(torch.nn.init, name, lambda tensor, *_, **__: tensor))
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallows what the reference prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision, which timm and the reference import and do not need here."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = _placeholder  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Has nothing to run."""


class _Placeholder(type):
    """A class that has every attribute, for the enumerations that are read at import."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


def _placeholder(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Placeholder(name, (), {})
