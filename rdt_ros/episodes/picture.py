"""One picture that shows a whole episode: what the cameras saw, every joint commanded against measured, skew, rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rdt_ros.episodes.info import stamped
from rdt_ros.episodes.layout import NO_STAMP
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.jpeg import decode
from rdt_ros.types import NS_PER_S

WIDTH_IN = 16.0
DPI = 100
MOMENTS = 8  # pictures in a camera's strip
FRAME_WIDTH = 240  # pixels of one of them before it is drawn
GUTTER = 6  # white pixels after it
PANEL_HEIGHT_IN = 1.05
PANEL_COLUMNS = 2
SMALLEST_SPAN = 0.1  # rad or opening, of a joint's axis
LONG_STEP = 1.5  # periods from one step to the next that count as a gap
BASE_PARTS = ("vx in m/s", "vy in m/s", "yaw rate in rad/s")


@dataclass(frozen=True)
class _Panel:
    """A small plot over time: its label and what draws it."""

    label: str
    draw: Callable[[Any], None]


def draw_episode(episode: EpisodeReader, path: Path) -> None:
    """Writes a PNG: a strip of pictures per camera, below it a panel per joint, base, skew and rate.

    What the episode does not hold has no panel. Spans without steps are shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strips = _strips(episode)
    panels = _joint_panels(episode) + _base_panels(episode) + _time_panels(episode)
    panel_rows = -(-len(panels) // PANEL_COLUMNS)
    heights = [sum(_height_in(pixels) for pixels in strips.values()), PANEL_HEIGHT_IN * panel_rows]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    if strips:
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)
        _draw_strips(episode, strips, parts[0])
        _draw_panels(episode, panels, parts[1])
    else:
        _draw_panels(episode, panels, figure)
    figure.suptitle(f"{episode.path.name}: {episode.instruction or 'no instruction'}")
    figure.savefig(path, format="png")


def widen(axis: Any) -> None:
    """A joint's axis spans some degrees at least: one that stands, or is met to a hair, shall look like it."""
    low, high = axis.get_ylim()
    if high - low < SMALLEST_SPAN:
        axis.set_ylim((low + high - SMALLEST_SPAN) / 2, (low + high + SMALLEST_SPAN) / 2)


def _moments(episode: EpisodeReader) -> list[int]:
    return np.linspace(0, len(episode) - 1, min(MOMENTS, len(episode))).round().astype(int).tolist()


def _strips(episode: EpisodeReader) -> dict[str, np.ndarray]:
    """Camera -> (H, W, 3) RGB: its pictures of some moments side by side."""
    strips = {}
    for camera, jpeg in episode.content.pictures.items():
        shown = []
        for step in _moments(episode):
            pixels = decode(jpeg(step), f"{episode.path}: {camera}, step {step}")
            height = round(pixels.shape[0] * FRAME_WIDTH / pixels.shape[1])
            small = cv2.resize(pixels, (FRAME_WIDTH, height), interpolation=cv2.INTER_AREA)
            shown.append(cv2.copyMakeBorder(small, 0, 0, 0, GUTTER, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
        strips[camera] = np.hstack(shown)
    return strips


def _height_in(strip: np.ndarray) -> float:
    return WIDTH_IN * strip.shape[0] / (MOMENTS * (FRAME_WIDTH + GUTTER))


def _draw_strips(episode: EpisodeReader, strips: dict[str, np.ndarray], figure: Any) -> None:
    ratios = [strip.shape[0] for strip in strips.values()]
    axes = figure.subplots(len(strips), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for (camera, strip), axis in zip(strips.items(), axes, strict=True):
        axis.imshow(strip)
        axis.set_frame_on(False)
        axis.set_ylabel(camera, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    seconds = _seconds(episode)
    moments = _moments(episode)
    axes[0].xaxis.tick_top()
    axes[0].set_xticks(
        [(i + 0.5) * (FRAME_WIDTH + GUTTER) for i in range(len(moments))],
        [f"{seconds[step]:.1f} s" for step in moments],
    )
    axes[0].tick_params(length=0, labelsize=9)


def _draw_panels(episode: EpisodeReader, panels: list[_Panel | None], figure: Any) -> None:
    axes = figure.subplots(-(-len(panels) // PANEL_COLUMNS), PANEL_COLUMNS, sharex=True, squeeze=False)
    seconds = _seconds(episode)
    gaps = np.flatnonzero(np.diff(episode.ticks) > LONG_STEP * episode.robot.period_ns)
    for axis, panel in itertools.zip_longest(axes.flat, panels):
        if panel is None:
            axis.set_axis_off()
            continue
        panel.draw(axis)
        axis.set_ylabel(panel.label, fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        for step in gaps:
            axis.axvspan(seconds[step], seconds[step + 1], color="tab:red", alpha=0.25, linewidth=0)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(loc="upper right", ncols=4, fontsize=6, framealpha=0.6)
    for column in axes.T:
        lowest = [axis for axis in column if axis.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel("s", fontsize=8)


def _seconds(episode: EpisodeReader) -> np.ndarray:
    """(N,) s since the first step."""
    return (episode.ticks - episode.ticks[0]) / NS_PER_S


def _joint_panels(episode: EpisodeReader) -> list[_Panel | None]:
    robot, seconds, measured = episode.robot, _seconds(episode), episode.content.vectors["measured"]
    # /action[t] is the command in force at a later tick: shift it there, so that the two curves are of one time
    in_force = seconds + robot.action_offset_steps / robot.control_rate_hz

    def panel(joint: int) -> _Panel:
        def draw(axis: Any) -> None:
            labels = ("commanded", "measured") if joint == 0 else (None, None)  # one legend is enough
            axis.plot(in_force, episode.actions[:, joint], color="tab:orange", label=labels[0])
            axis.plot(seconds, measured[:, joint], color="tab:blue", linewidth=1, label=labels[1])
            widen(axis)

        return _Panel(f"{robot.joint_names[joint]}\n{'opening' if robot.is_gripper[joint] else 'rad'}", draw)

    rows = -(-len(robot.joints) // PANEL_COLUMNS)  # column by column, so that two arms stand side by side
    order = [row + column * rows for row in range(rows) for column in range(PANEL_COLUMNS)]
    return [panel(joint) if joint < len(robot.joints) else None for joint in order]


def _base_panels(episode: EpisodeReader) -> list[_Panel | None]:
    base = episode.content.vectors.get("base")
    if base is None:
        return []

    def draw(axis: Any) -> None:
        for column, name in enumerate(BASE_PARTS):
            axis.plot(_seconds(episode), base[:, column], linewidth=1, label=name)

    return [_Panel("base", draw)]


def _time_panels(episode: EpisodeReader) -> list[_Panel | None]:
    """Skew and rate, where the file has stamps of its own."""
    if not stamped(episode):
        return []
    seconds, stamps, ticks = _seconds(episode), episode.content.stamps, episode.ticks
    cameras = [camera for camera in episode.content.pictures if f"camera/{camera}" in stamps]
    joints = [values for source, values in stamps.items() if source.startswith("measured/")]

    def skew(axis: Any) -> None:
        for camera in cameras:
            axis.plot(seconds, _skew_ms(stamps[f"camera/{camera}"], ticks), linewidth=1, label=camera)
        if joints:
            worst = np.max([_skew_ms(values, ticks) for values in joints], axis=0)
            axis.plot(seconds, worst, linewidth=1, linestyle="--", label="joints (worst)")

    def rate(axis: Any) -> None:
        axis.plot(seconds[1:], NS_PER_S / np.diff(ticks), color="black", linewidth=1, label="steps")
        for camera in cameras:
            values = stamps[f"camera/{camera}"]
            passed = np.diff(np.where(values == NO_STAMP, np.nan, values))
            axis.plot(
                seconds[1:], NS_PER_S / np.where(passed > 0, passed, np.nan), linewidth=0.6, alpha=0.7, label=camera
            )
        axis.set_ylim(0, 1.8 * episode.robot.control_rate_hz)

    panels: list[_Panel | None] = [_Panel("skew\nms after tick", skew)] if cameras or joints else []
    if len(ticks) > 1:
        panels.append(_Panel("rate\nHz", rate))
    return panels


def _skew_ms(stamps: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """(N,) ms from the tick to the source's stamp, NaN where the step had none."""
    return np.where(stamps == NO_STAMP, np.nan, (stamps - ticks) / 1e6)
