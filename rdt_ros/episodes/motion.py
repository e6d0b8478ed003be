"""The commanded motion of an episode, for a policy that repeats it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot


def commanded_motion(path: str | Path, robot: Robot) -> np.ndarray:
    """(N, J) float32: the actions, one a control period of the robot from the first step to the last.

    Lost steps are filled along straight lines, so the motion takes the time that it took. InputError for an episode
    of another robot, one without steps, and actions that are no numbers.
    """
    with EpisodeReader(path, robot) as episode:
        _check(episode, robot)
        passed_ns = episode.ticks - episode.ticks[0]
        due_ns = np.arange(0, passed_ns[-1] + 1, robot.period_ns)
        return np.stack([np.interp(due_ns, passed_ns, column) for column in episode.actions.T], axis=1).astype(
            np.float32
        )


def _check(episode: EpisodeReader, robot: Robot) -> None:
    theirs = episode.robot
    if theirs.name != robot.name:
        raise InputError(f"{episode.path}: expected an episode of robot {robot.name}, found {theirs.name}")
    if theirs.joint_names != robot.joint_names:
        expected, found = ", ".join(robot.joint_names), ", ".join(theirs.joint_names)
        raise InputError(f"{episode.path}: expected joints {expected}, found {found}")
    if not len(episode):
        raise InputError(f"{episode.path}: expected steps to repeat, found none")
    if not np.isfinite(episode.actions).all():
        step, joint = np.argwhere(~np.isfinite(episode.actions))[0]
        value = episode.actions[step, joint]
        raise InputError(
            f"{episode.path}: expected a finite action of {robot.joint_names[joint]}, found {value} in step {step}"
        )
