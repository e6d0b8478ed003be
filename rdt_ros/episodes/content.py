"""What every kind of episode file gives, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rdt_ros.robot.description import Robot


@dataclass(frozen=True, eq=False)
class Content:
    """The small arrays of an episode, in the project's units, and a way to each picture. N steps, J joints."""

    robot: Robot
    robot_text: str  # the robot file; empty where the episode does not carry it
    instruction: str
    ticks: np.ndarray  # (N,) int64 ns
    action: np.ndarray  # (N, J) float32
    vectors: Mapping[str, np.ndarray]  # field of the Observation -> (N, columns) float32, NaN where it had none
    pictures: Mapping[str, Callable[[int], bytes]]  # camera -> JPEG of a step, true colours in a standard decoder
    poses: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> (N, 7) float32
    stamps: Mapping[str, np.ndarray] = field(default_factory=dict)  # "kind/name" -> (N,) int64 ns, -1 where none
    action_source: str = "leader"
    complete: bool = True  # False: its recording was interrupted
