"""Writes an episode as a rosbag2: the robot's topics with their stamps, pictures as the JPEG bytes that they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rdt_ros.episodes import bag
from rdt_ros.episodes.content import Track, untracked
from rdt_ros.episodes.playback import Event, Playback
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.robot.description import Robot
from rdt_ros.types import NS_PER_S, JointSample, Picture

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
VERSION: Literal[8] = 8  # of the metadata: the older one of those that the library writes


def write(
    path: Path,
    episode: Path,
    *,
    storage: str = "mcap",
    track: Track = untracked,
) -> None:
    """Makes the bag's folder from an episode of ours.

    An episode without leader and command, such as one of another layout, gives `/action` as its commands. The message
    of a step that belongs to no later step is lost: the last `/action` has no Observation that would carry it.
    """
    with EpisodeReader(episode) as reader, Playback(episode, reader.robot) as playback:
        robot, topics = reader.robot, dict(playback.topics)
        events = playback.events()
        if not {"leader", "command"} & set(reader.content.vectors):
            topics |= {group.command.topic: bag.JOINT_STATE for group in robot.groups}
            events = heapq.merge(events, _actions(reader), key=lambda event: event.stamp_ns)
        messages = _Messages(robot)
        with Writer(path, version=VERSION, storage_plugin=STORAGES[storage]) as writer:
            writer.set_custom_data("robot", robot.name)
            writer.set_custom_data("instruction", reader.instruction)
            connections = {
                topic: writer.add_connection("/" + topic.lstrip("/"), kind, typestore=messages.types)
                for topic, kind in topics.items()
            }
            for event in track(events, len(reader) * len(topics)):
                data = messages.serialized(event, topics[event.topic])
                writer.write(connections[event.topic], event.stamp_ns, data)


def _actions(reader: EpisodeReader) -> Iterator[Event]:
    """Every action as the command of the tick that it is in force at."""
    robot = reader.robot
    for tick, action in zip(reader.ticks, reader.actions, strict=True):
        stamp_ns = int(tick) + robot.action_offset_steps * robot.period_ns
        for group in robot.groups:
            sample = JointSample(stamp_ns, action[group.columns])
            yield Event(stamp_ns, group.command.topic, f"command/{group.name}", sample)


class _Messages:
    """Values in the project's units as serialized messages of the robot."""

    def __init__(self, robot: Robot) -> None:
        self.types = get_typestore(Stores.ROS2_HUMBLE)
        self._robot = robot
        self._groups = {group.name: group for group in robot.groups}

    def serialized(self, event: Event, kind: str) -> bytes:
        return bytes(self.types.serialize_cdr(self._message(event), kind))

    def _message(self, event: Event) -> Any:
        value = event.value
        if isinstance(value, Picture):
            data = np.frombuffer(value.jpeg, np.uint8)
            return self._make(bag.COMPRESSED_IMAGE, self._header(event.stamp_ns, value.camera), "jpeg", data)
        if isinstance(value, JointSample):
            return self._joint_state(event, value)
        assert isinstance(value, np.ndarray)
        numbers = value.astype(float).tolist()
        if event.source.startswith("base/"):
            return self._odometry(event, numbers)
        return self._make(bag.POSE, self._header(event.stamp_ns), self._pose_of(numbers))

    def _joint_state(self, event: Event, sample: JointSample) -> Any:
        role, _, name = event.source.partition("/")
        group, robot = self._groups[name], self._robot
        topic, zero = group.topic(role), np.zeros(len(group.joints))
        scale = robot.to_wire(group, role, zero + 1) - robot.to_wire(group, role, zero)
        velocity = topic.velocity if sample.velocity is None else sample.velocity * scale
        return self._make(
            bag.JOINT_STATE,
            self._header(event.stamp_ns),
            list(topic.names or (joint.name for joint in group.joints)),
            robot.to_wire(group, role, sample.position.astype(float)),
            np.array(velocity, float),
            np.array(topic.effort if sample.effort is None else sample.effort, float),
        )

    def _odometry(self, event: Event, base: list[float]) -> Any:
        vx, vy, yaw_rate = base
        linear, angular = self._vector(vx, vy, 0.0), self._vector(0.0, 0.0, yaw_rate)
        twist = self._make("geometry_msgs/msg/Twist", linear, angular)
        pose = self._pose_of([0.0] * 6 + [1.0])
        unknown = np.zeros(36)
        return self._make(
            bag.ODOMETRY,
            self._header(event.stamp_ns),
            "",
            self._make("geometry_msgs/msg/PoseWithCovariance", pose, unknown),
            self._make("geometry_msgs/msg/TwistWithCovariance", twist, unknown),
        )

    def _pose_of(self, pose: list[float]) -> Any:
        point = self._make("geometry_msgs/msg/Point", *pose[:3])
        return self._make("geometry_msgs/msg/Pose", point, self._make("geometry_msgs/msg/Quaternion", *pose[3:]))

    def _vector(self, x: float, y: float, z: float) -> Any:
        return self._make("geometry_msgs/msg/Vector3", x, y, z)

    def _header(self, stamp_ns: int, frame: str = "") -> Any:
        return self._make(
            "std_msgs/msg/Header", self._make("builtin_interfaces/msg/Time", *divmod(stamp_ns, NS_PER_S)), frame
        )

    def _make(self, kind: str, *values: Any) -> Any:
        return self.types.types[kind](*values)
