"""One picture that shows a whole episode: what the cameras saw, and every joint commanded against measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.jpeg import decode
from rdt_ros.types import NS_PER_S

MOMENTS = (0.0, 1 / 3, 2 / 3, 1.0)  # parts of the episode at which the cameras are shown
JOINT_COLUMNS = 2
SMALLEST_SPAN = 0.1  # rad or opening, of a joint's axis


def draw_episode(episode: EpisodeReader, path: Path) -> None:
    """Writes a PNG: a row of pictures per camera, below it a small plot per joint."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = episode.robot.joint_names
    moments = [episode.observation(round(part * (len(episode) - 1))) for part in MOMENTS]
    cameras = [picture.camera for picture in moments[0].pictures]
    joint_rows = -(-len(names) // JOINT_COLUMNS)
    figure = Figure(figsize=(14, 2.7 * len(cameras) + 1.15 * joint_rows), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.7 * len(cameras), 1.15 * joint_rows])
    top, bottom = parts

    axes = top.subplots(len(cameras), len(moments), squeeze=False)
    seconds = (episode.ticks - episode.ticks[0]) / NS_PER_S
    for row, camera in enumerate(cameras):
        for column, observation in enumerate(moments):
            picture = observation.picture(camera)
            assert picture is not None
            axes[row, column].imshow(decode(picture.jpeg))
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
            if row == 0:
                axes[row, column].set_title(f"{(observation.stamp_ns - episode.ticks[0]) / NS_PER_S:.1f} s")
        axes[row, 0].set_ylabel(camera)

    measured = episode.content.vectors["measured"]
    plots = bottom.subplots(joint_rows, JOINT_COLUMNS, sharex=True, squeeze=False)
    # /action[t] is the command in force at a later tick: shift it there, so that the two curves are of one time
    shift_s = episode.robot.action_offset_steps / episode.robot.control_rate_hz
    for joint, axis in zip(range(len(names)), plots.T.flat, strict=False):
        unit = "opening" if episode.robot.is_gripper[joint] else "rad"
        axis.plot(seconds + shift_s, episode.actions[:, joint], color="tab:orange", label="commanded")
        axis.plot(seconds, measured[:, joint], color="tab:blue", linewidth=1, label="measured")
        axis.set_ylabel(f"{names[joint]}\n{unit}", fontsize=7)
        axis.tick_params(labelsize=7)
        low, high = axis.get_ylim()
        if high - low < SMALLEST_SPAN:  # a joint that stands shall look like one
            axis.set_ylim((low + high - SMALLEST_SPAN) / 2, (low + high + SMALLEST_SPAN) / 2)
        axis.grid(alpha=0.3)
    for axis in plots[-1]:
        axis.set_xlabel("s")
    bottom.legend(*plots[0, 0].get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=8)
    top.suptitle(f"{episode.path.name}: {episode.instruction or 'no instruction'}")
    figure.savefig(path, dpi=80)
