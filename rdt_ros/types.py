"""The values that flow between the rooms: frozen, typed, stamped in nanoseconds of ROS time.

Inside the project a joint is in radians, a gripper is an opening from 0 (closed) to 1 (open), a base
velocity is in m/s and rad/s. A robot's own units exist only where messages enter and leave
(`rdt_ros.robot`). Letters in shapes: J joints, C channels, T rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Picture:
    """One camera frame as the JPEG bytes that arrived or were encoded once; decodes to true colours."""

    camera: str
    stamp_ns: int
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class JointSample:
    """Joints of one topic or of a whole robot at one moment, in the project's units."""

    stamp_ns: int
    position: np.ndarray  # (J,) rad or opening
    velocity: np.ndarray | None = None  # (J,) rad/s or opening/s; None where the robot gives none
    effort: np.ndarray | None = None  # (J,) in the robot's own unit; None where the robot gives none


@dataclass(frozen=True, eq=False)
class Observation:
    """All that the robot saw and felt at one control tick.

    `stamp_ns` is the tick. Every source is its first sample at or after the tick, except `command`:
    the command issued for the previous tick, which is the one that has been in force until now (its
    stamp is in `source_stamps_ns`). Vectors are float32 in the order of `joint_names`.
    """

    stamp_ns: int
    robot: str
    pictures: tuple[Picture, ...]
    joint_names: tuple[str, ...]
    measured: np.ndarray  # (J,)
    velocity: np.ndarray | None = None  # (J,)
    effort: np.ndarray | None = None  # (J,)
    leader: np.ndarray | None = None  # (J,) what the teleoperator asks for; only while recording
    command: np.ndarray | None = None  # (J,) what was last sent to the arms
    base: np.ndarray | None = None  # (3,) vx m/s, vy m/s, yaw rate rad/s, measured
    # name -> (7,): x y z in m, quaternion x y z w
    poses: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    source_stamps_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # "kind/name" -> stamp

    def picture(self, camera: str) -> Picture | None:
        """The picture of that camera, None where there is none."""
        return next((p for p in self.pictures if p.camera == camera), None)


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Future actions computed from one Observation.

    Row k is due at `stamp_ns + (k + offset_steps) * period_s`. A chunk without rows says that the
    Observation was seen and that the plan stands (lock-step waits for one answer an Observation).
    """

    stamp_ns: int  # of the Observation
    robot: str
    period_s: float
    offset_steps: int
    channels: tuple[str, ...]  # names of the unified 128-vector, one a column
    rows: np.ndarray  # (T, C) float32, the project's units
    epoch: int = 0  # of the executor when the Observation was taken; another epoch's chunk is refused
    chunk_id: int = 0
    committed_rows: int = 0  # leading rows that were given to the policy and not chosen by it
    instruction: str = ""
    inference_s: float = 0.0


@dataclass(frozen=True, eq=False)
class JointCommand:
    """What the executor sends at one tick: joint targets in the project's units, robot order."""

    stamp_ns: int
    position: np.ndarray  # (J,) float64
    base: np.ndarray | None = None  # (3,) vx m/s, vy m/s, yaw rate rad/s; None where no base is driven
