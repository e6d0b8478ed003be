"""Every form of an RDT checkpoint, opened as one thing: weights, sizes, and what was stored beside them.

docs/checkpoints.md lists the forms. Sizes are those of the weights; a config beside them must agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.config import NORMS, ModelConfig, config_from_json, config_from_reference, config_to_json
from rdt_ros.model.hub import CONFIG, SAFETENSORS, TORCH_WEIGHTS, local_copy
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import STORE_NAME, InstructionStore
from rdt_ros.model.weights import SOURCES, check_entries, load_network, open_weights, sizes_of
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.share import checkpoint_path

DEEPSPEED_WEIGHTS = "mp_rank_00_model_states.pt"
DEEPSPEED_TAG = "latest"  # names the folder that holds them
REFERENCE_CONFIG = "base.yaml"
ROBOT = "robot.yaml"
STATISTICS = "statistics.json"
VISION = "vision.safetensors"  # of an encoder that was trained with the network
PUBLISHED_MOMENTS, PUBLISHED_CAMERAS = 2, 3  # of the picture tokens, where only their product is known
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint that fits its sizes; no weight has been read yet."""

    path: Path  # of the weights
    form: str
    config: ModelConfig
    norm_recorded: bool  # False: nothing says it, and `config.norm` is that of the published models
    weights: Mapping[str, Tensor]
    robot: Robot | None
    robot_text: str | None  # the file that `robot` was read from
    statistics: Mapping[str, Any] | None
    instructions: Path | None
    vision: Path | None

    def network(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> RdtNetwork:
        """The network with these weights on a device, in a type."""
        return load_network(self.config, self.weights, device, dtype)

    def with_norm(self, norm: str) -> Checkpoint:
        """The same weights, computed with another form of norm."""
        if norm not in NORMS:
            raise InputError(f"norm: expected one of {', '.join(NORMS)}, found {norm!r}")
        return dataclasses.replace(self, config=dataclasses.replace(self.config, norm=norm), norm_recorded=True)

    def robot_for(self, given: Robot | None) -> Robot:
        """The robot to run on: the given one, where it is the one of the weights; else the checkpoint's own."""
        own = self.robot
        if given is None:
            if own is None:
                raise InputError(f"checkpoint {self.path}: records no robot: say which robot it is for")
            return own
        for what in ("name", "channels", "control_rate_hz", "action_offset_steps"):
            if own is not None and getattr(given, what) != getattr(own, what):
                expected, found = (getattr(robot, what) for robot in (own, given))
                raise InputError(
                    f"checkpoint {self.path}: trained on a robot with {what} {_shown(expected)}, "
                    f"given one with {_shown(found)}"
                )
        return given


def open_checkpoint(path_or_id: str | Path, reference: str | Path | Mapping[str, Any] | None = None) -> Checkpoint:
    """The checkpoint of a file, a folder, a Hub id, or of a name in config/checkpoints.

    `reference` is the reference's base.yaml, or its content, for weights without a config of their own; without it
    one that lies beside the weights is taken.
    """
    path, home, form = _locate(path_or_id)
    weights, deepspeed = open_weights(path)
    sizes = sizes_of(weights)
    if not sizes:
        names = ", ".join(map(repr, list(weights)[:3]))
        raise InputError(f"checkpoint {path}: expected the weights of an RDT, found entries {names}")
    config, norm_recorded = _config(path, home, sizes, reference)
    check_entries(path, config, weights)

    robot_file, statistics = home / ROBOT, home / STATISTICS
    instructions, vision = home / STORE_NAME, home / VISION
    return Checkpoint(
        path=path,
        form=form or ("DeepSpeed file" if deepspeed else "state dict"),
        config=config,
        norm_recorded=norm_recorded,
        weights=weights,
        robot=load_robot(robot_file) if robot_file.is_file() else None,
        robot_text=robot_file.read_text() if robot_file.is_file() else None,
        statistics=_read_json(statistics) if statistics.is_file() else None,
        instructions=instructions if instructions.is_file() else None,
        vision=vision if vision.is_file() else None,
    )


def save_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    robot_text: str | None = None,
    statistics: Mapping[str, Any] | None = None,
    instructions: InstructionStore | None = None,
    vision: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes our own form; the folder appears whole or not at all.

    `robot_text` is the content of a robot file, `vision` the weights of an encoder that was trained with the network.
    """
    with _new_folder(Path(folder)) as target:
        _save(weights, target / SAFETENSORS)
        if vision is not None:
            _save(vision, target / VISION)
        _write_json(target / CONFIG, config_to_json(config))
        if robot_text is not None:
            (target / ROBOT).write_text(robot_text)
        if statistics is not None:
            _write_json(target / STATISTICS, statistics)
        if instructions is not None:
            instructions.save(target / STORE_NAME)


def save_for_reference(folder: str | Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Writes what the reference loads by folder: config.json, with our keys, which it skips, and pytorch_model.bin."""
    with _new_folder(Path(folder)) as target:
        torch.save({name: tensor.clone() for name, tensor in weights.items()}, target / TORCH_WEIGHTS)
        _write_json(target / CONFIG, config_to_json(config))


def _locate(path_or_id: str | Path) -> tuple[Path, Path, str | None]:
    """The weight file, the folder of what belongs to it, and the form where the file does not tell it."""
    path = checkpoint_path(path_or_id)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        tagged = path.name == DEEPSPEED_WEIGHTS and (path.parent.parent / DEEPSPEED_TAG).is_file()
        return path, path.parent.parent if tagged else path.parent, None
    if HUB_ID.fullmatch(str(path_or_id)) and not path.parent.is_dir():
        belongings = (CONFIG, ROBOT, STATISTICS, STORE_NAME, SAFETENSORS, VISION)
        return _in_folder(local_copy(str(path_or_id), belongings, "checkpoint: expected a file, a folder"))
    raise InputError(f"checkpoint {path}: no such file or folder, and no Hub id")


def _in_folder(folder: Path) -> tuple[Path, Path, str | None]:
    for name in (SAFETENSORS, TORCH_WEIGHTS):
        if (folder / name).is_file():
            return folder / name, folder, f"folder with {name}"
    if (folder / DEEPSPEED_WEIGHTS).is_file():
        return _locate(folder / DEEPSPEED_WEIGHTS)
    if (folder / DEEPSPEED_TAG).is_file():
        tag = (folder / DEEPSPEED_TAG).read_text().strip()
        return folder / tag / DEEPSPEED_WEIGHTS, folder, "DeepSpeed folder"
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    raise InputError(
        f"checkpoint {folder}: expected {SAFETENSORS}, {TORCH_WEIGHTS} or DeepSpeed's {DEEPSPEED_TAG}, found {there}"
    )


def _config(
    path: Path, home: Path, sizes: Mapping[str, int], reference: str | Path | Mapping[str, Any] | None
) -> tuple[ModelConfig, bool]:
    """The sizes of the weights with all that shapes do not tell, and whether the form of the norm is among it."""
    data: Mapping[str, Any]
    if reference is None and (home / CONFIG).is_file():
        name, data = str(home / CONFIG), _read_json(home / CONFIG)
        stated = config_from_json(data, name)
    else:
        if reference is None and (home / REFERENCE_CONFIG).is_file():
            reference = home / REFERENCE_CONFIG
        if reference is None:
            return _from_sizes(path, sizes), False
        name = REFERENCE_CONFIG if isinstance(reference, Mapping) else str(reference)
        data = reference if isinstance(reference, Mapping) else _read_yaml(Path(reference))
        stated = config_from_reference(data, sizes.get("img_cond_len", 0), name)
    for field, expected in sizes.items():
        found = getattr(stated, field)
        if found != expected:
            raise InputError(f"{name}: {field}: expected {expected} as in {path.name}, found {found}")
    return stated, "norm" in data


def _from_sizes(path: Path, sizes: Mapping[str, int]) -> ModelConfig:
    """For weights alone: two moments of three cameras, and the scheduler of the published models."""
    fields = dict(sizes)
    for field, entry in SOURCES.items():
        if field not in sizes:
            raise InputError(f"checkpoint {path}: missing entry {entry}, which tells {field}")
    patches, rest = divmod(fields.pop("img_cond_len"), PUBLISHED_MOMENTS * PUBLISHED_CAMERAS)
    if rest:
        raise InputError(
            f"checkpoint {path}: expected picture tokens of {PUBLISHED_MOMENTS} x {PUBLISHED_CAMERAS} pictures, "
            f"found {sizes['img_cond_len']}: put the {REFERENCE_CONFIG} of its training beside it"
        )
    try:
        return ModelConfig(**fields, img_patches=patches)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from None


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it to write to, which takes its name when all is written."""
    if folder.exists():
        raise InputError(f"checkpoint {folder}: expected a new folder, found one that exists")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML: {' '.join(str(error).split())}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping, found {type(data).__name__}")
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
