"""What becomes of small steps: the same small run with weights in float32, split in two halves, and in bfloat16 alone.

The run is an untrained tiny network on synthetic episodes, at a rate so small that bfloat16 alone loses most steps, as
fine-tuning's does. Every run sees the same samples, noise and first weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import Parameter

from rdt_ros.bench.dataset import record
from rdt_ros.training import finetune
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.optimizer import SplitWeights
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import read_settings

KINDS = ("float32", "split", "bfloat16")
WINDOW = 20  # steps of a mean of losses


class _Rounded(SplitWeights):
    """Forgets the lower halves: what weights in bfloat16 without masters do."""

    def adopt(self, parameter: Parameter, full: Tensor) -> None:
        """The nearest bfloat16 is all that stays."""
        super().adopt(parameter, full)
        self._lower[parameter].zero_()


def curves(work: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Losses of every step by kind, from the same weights on the same samples."""
    base: dict[str, Any] = {
        "vision": "random",
        "language": "hashed",
        "datasets": [{"path": str(work / "set")}],
        "sample": {"augment": False},
        "batch_size": args.batch,
        "loader": {"workers": args.workers},
        "logging": {"tracker": "none", "every": 1},
        "evaluation": {"samples": 1, "curves": 0},
    }
    found = {}
    for kind in KINDS:
        recipe = base | {
            "output": str(work / kind),
            "checkpoint": "random:tiny",
            "steps": args.steps,
            "weights": "float32" if kind == "float32" else "split",
            "optimizer": {"learning_rate": args.rate, "warmup_steps": 0},
        }
        (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        optimizer = _Rounded if kind == "bfloat16" else SplitWeights
        with mock.patch.object(finetune, "SplitWeights", optimizer):
            FineTuning(read_settings(Recipe, work / "recipe.yaml", args.settings), cpu=args.cpu).run()
        AcceleratorState._reset_state(reset_partial_state=True)
        rows = map(json.loads, (work / kind / "metrics.jsonl").read_text().splitlines())
        found[kind] = [row["loss"] for row in rows if "loss" in row]
    return found


def _draw(losses: dict[str, list[float]], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for kind, values in losses.items():
        smooth = np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")
        axis.plot(np.arange(len(smooth)) + WINDOW, smooth, "--" if kind == "split" else "-", label=kind)
    axis.set(xlabel="step", ylabel=f"loss, mean of {WINDOW} steps", yscale="log")
    axis.legend()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object; the last line of output."""
    parser = argparse.ArgumentParser(prog="rdt bench masters", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=3e-5, help="learning rate; default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--picture", metavar="FILE", help="PNG of the curves")
    args = parser.parse_intermixed_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "set").mkdir()
        record(Path(folder) / "set")
        losses = curves(Path(folder), args)
    if args.picture:
        _draw(losses, args.picture)
    last = {kind: float(np.mean(values[-WINDOW:])) for kind, values in losses.items()}
    print(json.dumps({"steps": args.steps, "rate": args.rate, "first_loss": losses["float32"][0], "last_loss": last}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
