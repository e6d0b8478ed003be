"""A picture of what the arm is told over several chunk edges: position, velocity and acceleration, mode by mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdt_ros.bench.joining import MODES, REFERENCE, Case, Plan, Run, run
from rdt_ros.robot.description import Robot

WINDOW_S = (2.0, 6.4)  # after the first command
SHOWN_WAITS = 2  # of the blocking loop
SEED = 0
QUANTITIES = ("rad", "rad/s", "rad/s²")


def draw(robot: Robot, plan: Plan, latency_ms: int, path: Path) -> None:
    """Writes a PNG: a column a mode, of one arm joint; the plan is grey, edges are dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = {mode: run(robot, plan, Case(mode, latency_ms), SEED) for mode in (REFERENCE, *MODES)}
    joint = _shown_joint(robot, plan, runs[REFERENCE])
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(QUANTITIES), len(runs), sharex=True, sharey="row")
    planned = Run(plan.positions, np.zeros(len(plan.positions)), 1, ())
    for column, (mode, one) in zip(axes.T, runs.items(), strict=True):
        assert one is not None  # 32 rows are time enough for every mode
        column[0].set_title(mode if mode != REFERENCE else "reference: blocking loop, 25 commands/s")
        for order, axis in enumerate(column):
            for which, colour, width, label in ((planned, "0.6", 2.5, "plan"), (one, "tab:blue", 1.0, "commands")):
                values = _derivative(which, plan, order)[:, joint]
                seconds = _seconds(which, plan, order, len(values))
                axis.step(seconds, values, color=colour, linewidth=width, label=label, where="post")
            for edge in one.edges:
                axis.axvline(edge * plan.tick_s, color="tab:red", linestyle=":", linewidth=0.8)
            axis.grid(alpha=0.3)
        column[-1].set_xlabel("s")
        column[-1].set_xlim(*WINDOW_S)
    for axis, unit in zip(axes[:, 0], QUANTITIES, strict=True):
        axis.set_ylabel(unit)
    _fit(axes)
    axes[0, -1].legend(loc="best", fontsize=8)
    figure.suptitle(f"{robot.joint_names[joint]}, latency {latency_ms} ms; dotted: a new chunk takes over")
    figure.savefig(path, dpi=100)


def _shown_joint(robot: Robot, plan: Plan, blocking: Run | None) -> int:
    """The arm joint that shows most where the blocking loop waits: the plan moves it, and the next chunk disagrees."""
    assert blocking is not None
    edges = np.array(blocking.edges[1 : 1 + SHOWN_WAITS])
    jumps = np.abs(blocking.position[edges] - blocking.position[edges - 1])
    speeds = np.abs(plan.at(blocking.rows[edges]) - plan.at(blocking.rows[edges] - 1))
    return int(np.argmax(np.where(robot.is_gripper, -1, (jumps * speeds).min(axis=0, initial=1))))


def _seconds(run: Run, plan: Plan, order: int, count: int) -> np.ndarray:
    """When each value (count,) begins to hold: a difference in the middle of the commands that it is made of."""
    ticks = (np.arange(count) + 1) * run.spacing if order else np.arange(count)
    return ticks * plan.tick_s


def _derivative(run: Run, plan: Plan, order: int) -> np.ndarray:
    """Differences of the commands per time, at their own spacing; the commands of every tick for order 0."""
    if not order:
        return run.position
    return np.diff(run.position[:: run.spacing], n=order, axis=0) / (run.spacing * plan.tick_s) ** order


def _fit(axes: np.ndarray) -> None:
    """Vertical ranges of what is inside the window."""
    for row in axes:
        low, high = np.inf, -np.inf
        for axis in row:
            for line in axis.get_lines()[:2]:
                seconds, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
                inside = values[(seconds >= WINDOW_S[0]) & (seconds <= WINDOW_S[1])]
                low, high = min(low, inside.min()), max(high, inside.max())
        margin = 0.05 * (high - low)
        row[0].set_ylim(low - margin, high + margin)
