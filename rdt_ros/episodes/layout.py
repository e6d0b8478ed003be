"""The HDF5 layout of an episode in one place: paths, types, attributes.

The frame is that of Mobile ALOHA and of RDT's data (`/observations/qpos`, `/observations/images/<camera>`, `/action`,
`/base_action`, `/instruction`); `/stamps`, `/observations/leader`, `/observations/command`, `/observations/base` and
`/observations/poses` are added. What a robot did not give has no data set. Letters: N steps, J joints.

    /observations/qpos             (N, J) float32   measured joints
    /observations/qvel, effort     (N, J) float32
    /observations/leader, command  (N, J) float32
    /observations/base             (N, 3) float32   measured vx, vy in m/s, yaw rate in rad/s
    /observations/poses/<name>     (N, 7) float32   x y z in m, quaternion x y z w
    /observations/images/<camera>  (N,) S<capacity> JPEG bytes, zero-padded by HDF5; reading gives the exact bytes
    /action                        (N, J) float32   the command in force `action_offset_steps` ticks later
    /base_action                   (N, 2) float32   measured vx, yaw rate
    /instruction                   text
    /stamps/tick                   (N,) int64       ns, the tick of the step; written last, so it says which steps count
    /stamps/<kind>/<name>          (N,) int64       ns, one per source of the Observation; -1 where it had none

Joint values are in the project's units (`units: project`: rad, opening 0..1) and not in the robot's: float32 values in
the robot's units do not give back the float32 values of the live Observation (13 to 53 % of gripper values change their
last bit with the scales of the shipped robots), and a replayed Observation shall be the live one bit by bit. The robot
file's text is in the attributes, so a file says itself how to convert. A row of NaN means "not there at this step".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

import rdt_ros
from rdt_ros.robot.description import Robot
from rdt_ros.types import Observation

FORMAT = "rdt_ros episode"
FORMAT_VERSION = 1
LIBRARY_VERSIONS = ("v110", "v110")  # readable since HDF5 1.10 (ROS 2 Humble); older formats cannot be crash-safe

VECTORS = {  # field of the Observation -> data set
    "measured": "/observations/qpos",
    "velocity": "/observations/qvel",
    "effort": "/observations/effort",
    "leader": "/observations/leader",
    "command": "/observations/command",
    "base": "/observations/base",
}
ACTION = "/action"
BASE_ACTION = "/base_action"
BASE_ACTION_COLUMNS = [0, 2]  # vx and yaw rate of the Observation's base
INSTRUCTION = "/instruction"
TICK = "/stamps/tick"
NO_STAMP = -1

BASE_WIDTH = 3
POSE_WIDTH = 7
VECTOR_CHUNK = 64  # rows
STAMP_CHUNK = 512  # rows


def image_path(camera: str) -> str:
    """Data set of a camera's pictures."""
    return f"/observations/images/{camera}"


def pose_path(name: str) -> str:
    """Data set of a pose."""
    return f"/observations/poses/{name}"


def stamp_path(source: str) -> str:
    """Data set of a source's stamps; `source` is "kind/name" as in an Observation."""
    return f"/stamps/{source}"


@dataclass(frozen=True)
class Header:
    """What is known of an episode before its first step."""

    robot: Robot
    robot_text: str  # the robot file
    instruction: str = ""


@dataclass(frozen=True)
class Layout:
    """Which data sets an episode has. All are made before the first step: a crash-safe file gets no new ones."""

    cameras: Mapping[str, int]  # name -> bytes that its largest picture may have
    joints: int
    vectors: tuple[str, ...]  # keys of VECTORS
    poses: tuple[str, ...]
    sources: tuple[str, ...]  # "kind/name"

    @staticmethod
    def of(observations: tuple[Observation, ...], capacities: Mapping[str, int]) -> Layout:
        """The layout that holds all that any of these Observations has."""
        first = observations[0]
        return Layout(
            cameras=dict(capacities),
            joints=len(first.joint_names),
            vectors=tuple(name for name in VECTORS if any(getattr(o, name) is not None for o in observations)),
            poses=tuple(dict.fromkeys(name for o in observations for name in o.poses)),
            sources=tuple(dict.fromkeys(name for o in observations for name in o.source_stamps_ns)),
        )

    def widths(self) -> dict[str, int]:
        """Columns of every float32 data set."""
        widths = {VECTORS[name]: BASE_WIDTH if name == "base" else self.joints for name in self.vectors}
        widths |= {pose_path(name): POSE_WIDTH for name in self.poses}
        if "base" in self.vectors:
            widths[BASE_ACTION] = len(BASE_ACTION_COLUMNS)
        return widths | {ACTION: self.joints}

    def create(self, file: h5py.File) -> None:
        """Makes the empty data sets."""
        for path, width in self.widths().items():
            file.create_dataset(
                path, (0, width), np.float32, maxshape=(None, width), chunks=(VECTOR_CHUNK, width), fillvalue=np.nan
            )
        for path in [TICK, *map(stamp_path, self.sources)]:
            file.create_dataset(path, (0,), np.int64, maxshape=(None,), chunks=(STAMP_CHUNK,), fillvalue=NO_STAMP)
        for camera, capacity in self.cameras.items():
            file.create_dataset(
                image_path(camera), (0,), f"S{capacity}", maxshape=(None,), chunks=(1,), compression="gzip"
            )

    def row(self, observation: Observation, action: np.ndarray) -> dict[str, Any]:
        """One step's values by data set, pictures and tick apart; NaN and NO_STAMP where the Observation has none."""
        values: dict[str, Any] = {VECTORS[name]: getattr(observation, name) for name in self.vectors}
        values |= {pose_path(name): observation.poses.get(name) for name in self.poses}
        if observation.base is not None and "base" in self.vectors:
            values[BASE_ACTION] = observation.base[BASE_ACTION_COLUMNS]
        row = {path: np.full(width, np.nan, np.float32) for path, width in self.widths().items()}
        row |= {path: value for path, value in values.items() if value is not None}
        row[ACTION] = action
        return row | {stamp_path(name): observation.source_stamps_ns.get(name, NO_STAMP) for name in self.sources}


def attributes(header: Header, layout: Layout, *, action_source: str, jpeg_quality: int | None) -> dict[str, Any]:
    """The attributes of a new file, complete but for COUNTS."""
    robot = header.robot
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "project": "rdt_ros",
        "project_version": rdt_ros.__version__,
        "robot": robot.name,
        "robot_file": header.robot_text,
        "joint_names": list(robot.joint_names),
        "units": "project",
        "control_rate_hz": robot.control_rate_hz,
        "action_offset_steps": robot.action_offset_steps,
        "action_source": action_source,
        "colour_order": "rgb",  # a standard JPEG decoder gives true colours
        "jpeg_quality": jpeg_quality or 0,  # of the first picture; 0: unknown
        "cameras": list(layout.cameras),
        "poses": list(layout.poses) or h5py.Empty("S1"),
        "sources": list(layout.sources) or h5py.Empty("S1"),
    }


COUNTS: dict[str, Any] = {  # attributes that are set while writing and at the end
    "complete": np.bool_(False),  # False: the writer was interrupted
    "repaired": np.bool_(False),  # True: finished by `repair` after an interruption
    "steps": np.int64(0),  # made durable
    "flushes": np.int64(0),
    "steps_lost": np.int64(0),  # control ticks without a step between the first and the last
    "steps_without_action": np.int64(0),  # at the end, left out
    "pictures_reencoded": np.int64(0),  # larger than the capacity, stored with lower quality
}
