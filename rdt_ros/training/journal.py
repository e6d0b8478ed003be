"""What can be watched of a run: a file of figures, TensorBoard or Weights & Biases, a progress bar."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rdt_ros.errors import InputError
from rdt_ros.training.recipe import LoggingConfig
from rdt_ros.training.run_folder import RunFolder

GIB = 2**30
WANDB_START_S = 30.0  # until it is given up
WANDB_FINISH_S = 60.0  # for what is not yet sent; `wandb sync` sends the rest


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
        self._accelerator, self._folder, self._config = accelerator, folder, config
        self._batch = batch
        self._failed: set[str] = set()
        hidden = not accelerator.is_main_process
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=hidden, dynamic_ncols=True, smoothing=0.05)

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

    def start(self) -> None:
        """Starts the tracker, of the main process only; InputError where it cannot."""
        config, options = self._config, dict[str, Any]()
        if not self._accelerator.log_with:
            return
        if config.tracker == "wandb":
            limits = {"init_timeout": WANDB_START_S, "finish_timeout": WANDB_FINISH_S}
            options["wandb"] = {"dir": str(self._folder.tracker), "name": self._folder.path.name, "settings": limits}
            if config.offline:
                options["wandb"]["mode"] = "offline"
        try:
            self._folder.tracker.mkdir(exist_ok=True)
            self._accelerator.init_trackers(config.project, init_kwargs=options)
        except Exception as error:  # of whatever the tracker is made of: no network, no account, no disk
            self._accelerator.trackers = []  # nothing to end
            hint = "logging.offline=true needs no network" if config.tracker == "wandb" else "logging.tracker=none"
            raise InputError(f"logging.tracker {config.tracker}: could not start: {_line(error)}; {hint}") from None

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Adds figures of a step."""
        if self._accelerator.is_main_process:
            with self._forgiving(str(self._folder.metrics)), self._folder.metrics.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            with self._forgiving(self._config.tracker):
                self._accelerator.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path, draw: Callable[[Path], None]) -> None:
        """Draws a picture into a file and adds it."""
        with self._forgiving(str(path)):
            draw(path)
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
        with self._forgiving(self._config.tracker):
            self._accelerator.end_training()

    @contextlib.contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """What is only to be looked at stops no run: the first failure is a line."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                self.say(f"{what}: could not be written, training goes on without: {_line(error)}")


class LossMeans:
    """Losses of the steps since the last figures, by data set."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sums = {name: [0.0, 0.0] for name in names}

    def add(self, datasets: Sequence[str], losses: Sequence[float]) -> None:
        """One loss a sample."""
        for name, loss in zip(datasets, losses, strict=True):
            self._sums[name][0] += loss
            self._sums[name][1] += 1

    def figures(self, added_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means, of all sets and of each; starts anew."""
        sums = added_up(torch.tensor(list(self._sums.values()), dtype=torch.float64))
        total = sums.sum(0)
        found = {"loss": float(total[0] / total[1])}
        for name, (loss, count) in zip(self._sums, sums.tolist(), strict=True):
            if count:
                found[f"loss/{name}"] = loss / count
            self._sums[name] = [0.0, 0.0]
        return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
