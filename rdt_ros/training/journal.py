"""What can be watched of a run: a file of figures, TensorBoard or Weights & Biases, a progress bar."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from rdt_ros.errors import InputError
from rdt_ros.training.recipe import LoggingConfig
from rdt_ros.training.run_folder import RunFolder

GIB = 2**30


def trackers(config: LoggingConfig) -> list[str]:
    """What the accelerator is to log with; InputError where it is not installed."""
    if config.tracker == "none":
        return []
    if importlib.util.find_spec(config.tracker) is None:
        raise InputError(
            f"logging.tracker: expected {config.tracker} to be installed, found none: pip install {config.tracker}, "
            "or logging.tracker=none"
        )
    return [config.tracker]


class Journal:
    """Of the main process; the others' writes nothing."""

    def __init__(
        self, folder: RunFolder, accelerator: Accelerator, config: LoggingConfig, *, steps: int, done: int, batch: int
    ) -> None:
        self._accelerator, self._folder = accelerator, folder
        self._batch = batch
        main = accelerator.is_main_process
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not main, dynamic_ncols=True, smoothing=0.05)
        if main:
            self._start_tracker(config)

    def step(self, loss: float) -> None:
        """One step is done."""
        self._bar.update()
        rate = self._bar.format_dict["rate"] or 0.0
        shown = {"loss": f"{loss:.5f}", "samples/s": f"{rate * self._batch:.1f}"}
        if torch.cuda.is_available():
            shown["GiB"] = f"{torch.cuda.max_memory_allocated() / GIB:.1f}"
        self._bar.set_postfix(shown, refresh=False)

    @property
    def samples_per_s(self) -> float:
        """Of all processes, lately."""
        return (self._bar.format_dict["rate"] or 0.0) * self._batch

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Adds figures of a step."""
        if self._accelerator.is_main_process:
            with self._folder.metrics.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            self._accelerator.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Adds a picture that was written to a file."""
        rgb = np.asarray(Image.open(path).convert("RGB"))
        for tracker in self._accelerator.trackers:
            log_images: Any = getattr(tracker, "log_images", None)
            if log_images is not None:
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                log_images({name: rgb[None]}, step=step, **layout)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self._accelerator.is_main_process:
            self._bar.write(text)

    def close(self) -> None:
        """Ends bar and trackers."""
        self._bar.close()
        self._accelerator.end_training()

    def _start_tracker(self, config: LoggingConfig) -> None:
        if not self._accelerator.log_with:
            return
        options: dict[str, Any] = {}
        if config.tracker == "wandb":
            self._folder.tracker.mkdir(exist_ok=True)
            options = {"wandb": {"dir": str(self._folder.tracker), "name": self._folder.path.name}}
            if config.offline:
                os.environ["WANDB_MODE"] = "offline"
        try:
            self._accelerator.init_trackers(config.project, init_kwargs=options)
        except Exception as error:  # of whatever the tracker is made of: no network, no account, no disk
            reason = " ".join(str(error).split())[:200]
            hint = "logging.offline=true needs no network" if config.tracker == "wandb" else "logging.tracker=none"
            raise InputError(f"logging.tracker {config.tracker}: could not start: {reason}; {hint}") from None
