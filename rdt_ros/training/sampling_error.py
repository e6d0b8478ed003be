"""How far sampled chunks are from recorded ones: the reference's figures (its train/sample.py), and the curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdt_ros.episodes.picture import widen
from rdt_ros.robot.description import Robot
from rdt_ros.training.loader import Batch

SMALL = 1e-3  # added to a joint's root mean square before dividing by it
PANEL_IN = (2.6, 1.15)
DPI = 90


@dataclass(frozen=True, eq=False)
class Curves:
    """One sample's chunk: (T, J) rad or opening."""

    where: str
    robot: Robot
    predicted: np.ndarray
    recorded: np.ndarray


@dataclass(frozen=True, eq=False)
class Errors:
    """Of one batch. `mse` and `l2err` are (B,) means over rows and slots of a sample; `overall` those of the batch."""

    mse: Tensor
    l2err: Tensor
    overall: tuple[float, float]

    @classmethod
    def of(cls, predicted: Tensor, batch: Batch) -> Errors:
        """Squared error, and its root divided by the root mean square of the episode's states."""
        squares = (predicted.float() - batch.actions).square()
        relative = squares.sqrt() / (batch.state_norms[:, None] + SMALL)
        mask = batch.mask.expand_as(squares)
        mse, l2err = (((error * mask).sum((1, 2)) / mask.sum((1, 2))) for error in (squares, relative))
        overall = tuple(float((error * mask).sum() / mask.sum()) for error in (squares, relative))
        return cls(mse, l2err, (overall[0], overall[1]))


class SamplingErrors:
    """Adds batches up. Sums travel between processes as one vector, which `gathered` adds up over them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums = {name: np.zeros(3) for name in (*names, "")}  # mse, l2err, count; "" is the batches'

    def add(self, errors: Errors, batch: Batch) -> None:
        """One batch."""
        for name, mse, l2err in zip(batch.datasets, errors.mse.tolist(), errors.l2err.tolist(), strict=True):
            self._sums[name] += mse, l2err, 1
        self._sums[""] += *errors.overall, 1

    def figures(self, part: str, added_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Names as the reference's, under the part of the data that they are of."""
        sums = added_up(torch.tensor(np.stack(list(self._sums.values())), dtype=torch.float64)).tolist()
        found: dict[str, float] = {}
        for name, (mse, l2err, count) in zip(self._sums, sums, strict=True):
            if count:
                start = f"{part}/{name}" if name else f"{part}/overall_avg"
                found |= {f"{start}_sample_mse": mse / count, f"{start}_sample_l2err": l2err / count}
        return found


def curves(
    predicted: Tensor, batch: Batch, robots: dict[str, Robot], slots: Callable[[Robot], list[int]]
) -> list[Curves]:
    """Of every sample of a batch."""
    found = []
    for i, (name, where) in enumerate(zip(batch.datasets, batch.where, strict=True)):
        robot = robots[name]
        columns = slots(robot)
        chunk, done = (rows[i, :, columns].float().cpu().numpy() for rows in (predicted, batch.actions))
        found.append(Curves(where, robot, chunk, done))
    return found


def draw_curves(samples: Sequence[Curves], path: Path, title: str) -> None:
    """Writes a PNG: a column a sample, a row a joint, predicted over recorded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(sample.robot.joints) for sample in samples)
    width, height = PANEL_IN
    figure = Figure(figsize=(width * len(samples) + 1, height * rows + 0.6), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, len(samples), sharex=True, squeeze=False)
    for column, sample in zip(axes.T, samples, strict=True):
        column[0].set_title(Path(sample.where).name, fontsize=6)
        for joint, axis in enumerate(column):
            if joint >= len(sample.robot.joints):
                axis.set_axis_off()
                continue
            axis.plot(sample.recorded[:, joint], color="tab:orange", label="recorded")
            axis.plot(sample.predicted[:, joint], color="tab:blue", linewidth=1, label="predicted")
            if sample.robot.is_gripper[joint]:
                axis.set_ylim(-0.05, 1.05)
            widen(axis)
            axis.set_ylabel(sample.robot.joint_names[joint], fontsize=6)
            axis.tick_params(labelsize=5)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=5)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, format="png")
