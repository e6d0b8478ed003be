"""Open-loop error of a policy on episodes: a table by joint, and a picture of its chunks over what was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdt_ros.episodes.picture import widen
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.policy.interface import Policy
from rdt_ros.policy.open_loop import ComparedChunk, compared_chunks
from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S

PANEL_IN = (8.0, 1.1)
PANEL_COLUMNS = 2
DPI = 100


@dataclass(frozen=True, eq=False)
class EpisodeResult:
    """What the policy would have done in one episode."""

    path: Path
    actions: np.ndarray  # (N, J) rad or opening, as recorded
    chunks: tuple[ComparedChunk, ...]

    @property
    def errors(self) -> np.ndarray:
        """(rows of all chunks, J)."""
        return np.concatenate([chunk.predicted - chunk.recorded for chunk in self.chunks]).astype(float)


@dataclass(frozen=True, eq=False)
class OpenLoopReport:
    """Results of one policy on episodes of one robot."""

    robot: Robot
    episodes: tuple[EpisodeResult, ...]

    @property
    def figures(self) -> Mapping[str, tuple[float, float, float]]:
        """By joint, over all rows: root mean square, median and 95th percentile of the error's size."""
        size = np.abs(np.concatenate([episode.errors for episode in self.episodes]))
        columns = (np.sqrt((size**2).mean(0)), np.median(size, 0), np.percentile(size, 95, 0))
        return {
            name: (float(rms), float(median), float(high))
            for name, rms, median, high in zip(self.robot.joint_names, *columns, strict=True)
        }

    def table(self) -> str:
        """For reading: a line a joint, then one an episode."""
        width = max(map(len, self.robot.joint_names))
        rows = sum(len(episode.errors) for episode in self.episodes)
        lines = [f"{'':{width}}       rms    median      95 %   over {rows} rows"]
        for (name, values), gripper in zip(self.figures.items(), self.robot.is_gripper, strict=True):
            unit = "opening" if gripper else "rad"
            lines.append(f"{name:{width}} " + " ".join(f"{value:9.4f}" for value in values) + f"   {unit}")
        for episode in self.episodes:
            parts = (episode.errors[:, ~self.robot.is_gripper], episode.errors[:, self.robot.is_gripper])
            arms, grippers = (np.sqrt((part**2).mean()) if part.size else np.nan for part in parts)
            lines.append(f"{episode.path}: rms {arms:.4f} rad, grippers {grippers:.4f}, {len(episode.chunks)} chunks")
        return "\n".join(lines)


def open_loop_report(
    policy: Policy, robot: Robot, paths: Sequence[Path], *, instruction: str | None, chunks: int
) -> OpenLoopReport:
    """Runs the policy on episodes; `instruction` None is each episode's own."""
    results = []
    for path in paths:
        with EpisodeReader(path, robot) as episode:
            if (episode.robot.name, episode.robot.channels) != (robot.name, robot.channels):
                raise InputError(f"{path}: expected an episode of {robot.name}, found one of {episode.robot.name}")
            text = instruction if instruction is not None else episode.instruction
            if not text:
                raise InputError(f"{path}: names no instruction: give one")
            compared = compared_chunks(policy, episode, text, chunks)
            results.append(EpisodeResult(path, np.asarray(episode.actions), tuple(compared)))
    if not results:
        raise InputError("eval: expected episodes, found none")
    return OpenLoopReport(robot, tuple(results))


def draw_report(report: OpenLoopReport, path: Path) -> None:
    """Writes a PNG of the episode with the largest error: a panel a joint, every chunk over the recorded action."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    robot = report.robot
    worst = max(report.episodes, key=lambda episode: float((episode.errors**2).mean()))
    rows = -(-len(robot.joints) // PANEL_COLUMNS)
    width, height = PANEL_IN
    figure = Figure(figsize=(width * PANEL_COLUMNS, height * rows + 0.5), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, PANEL_COLUMNS, sharex=True, squeeze=False)
    period_s = robot.period_ns / NS_PER_S
    seconds = np.arange(len(worst.actions)) * period_s
    for joint, axis in enumerate(axes.T.flat):
        if joint >= len(robot.joints):
            axis.set_axis_off()
            continue
        axis.plot(seconds, worst.actions[:, joint], color="tab:orange", label="recorded")
        for i, chunk in enumerate(worst.chunks):
            at = (chunk.step + np.arange(len(chunk.predicted))) * period_s
            label = None if i else "predicted"
            axis.plot(at, chunk.predicted[:, joint], color="tab:blue", linewidth=0.8, alpha=0.7, label=label)
        widen(axis)
        axis.set_ylabel(f"{robot.joint_names[joint]}\n{'opening' if robot.is_gripper[joint] else 'rad'}", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("s", fontsize=8)
    figure.suptitle(f"{worst.path.name}, of {len(report.episodes)} the one with the largest error", fontsize=9)
    figure.savefig(path, format="png")
