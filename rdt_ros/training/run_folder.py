"""The folder of a run: checkpoints that appear whole or not at all, and what is needed to go on from one.

RUN/recipe.yaml                       the resolved settings
RUN/metrics.jsonl                     every figure
RUN/checkpoints/step_000100/          what the policy node takes
RUN/checkpoints/step_000100/training.pt    what only training needs
RUN/pictures/, RUN/tracker/, RUN/vision/
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rdt_ros.errors import InputError
from rdt_ros.model.torch_file import load_torch_file
from rdt_ros.training.recipe import SavingConfig

CHECKPOINTS = "checkpoints"
TRAINING = "training.pt"
STEP = re.compile(r"step_(\d+)")
PARTIAL = "partial"


class RunFolder:
    """Where a run writes; only its main process does."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.tracker = self.path / "tracker"
        self.vision = self.path / "vision"
        self.pictures = self.path / "pictures"

    def make(self) -> None:
        """Makes it, and removes what an interrupted run left unfinished."""
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            (self.path / CHECKPOINTS).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"output {self.path}: {error.strerror}") from None
        for folder in (self.path / CHECKPOINTS).glob(f".*.{PARTIAL}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def write_vision(self, write: Callable[[Path], object]) -> None:
        """The vision encoder's folder, made by `write` where there is none, whole or not at all."""
        if self.vision.is_dir():
            return
        partial = self.vision.with_name(f".vision.{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        partial.rename(self.vision)

    def steps(self) -> list[int]:
        """Of the whole checkpoints, rising."""
        folder = self.path / CHECKPOINTS
        found = [STEP.fullmatch(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(match[1]) for match in found if match)

    def checkpoint(self, step: int) -> Path:
        """The folder of a step's checkpoint, which may not be there."""
        return self.path / CHECKPOINTS / f"step_{step:06d}"

    def save(self, step: int, write: Callable[[Path], None], training: Mapping[str, Any]) -> Path:
        """A checkpoint: `write` makes the folder that the policy takes, `training` is what goes on from it.

        InputError where it could not be written; the older ones are as they were then.
        """
        target = self.checkpoint(step)
        partial = target.with_name(f".{target.name}.{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write(partial)
            torch.save(dict(training), partial / TRAINING)
            for file in partial.iterdir():
                _flush(file)
            partial.rename(target)
            _flush(target.parent)
        except Exception as error:  # torch and safetensors raise errors of their own for a full disk
            shutil.rmtree(partial, ignore_errors=True)
            good = [str(self.checkpoint(other)) for other in self.steps()] or ["none"]
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"checkpoint {target}: could not be written: {reason}; the last good one is {good[-1]}"
            ) from error
        return target

    def prune(self, config: SavingConfig) -> None:
        """Removes all checkpoints but the newest and those of kept multiples."""
        for step in self.steps()[: -config.keep]:
            if not config.keep_every or step % config.keep_every:
                # Renamed first, so that half of a folder never has a checkpoint's name.
                doomed = self.checkpoint(step).with_name(f".step_{step:06d}.{PARTIAL}")
                self.checkpoint(step).rename(doomed)
                shutil.rmtree(doomed)

    def training(self, step: int) -> dict[str, Any]:
        """What was saved beside a checkpoint to go on from it."""
        return load_torch_file(self.checkpoint(step) / TRAINING, "training state")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
