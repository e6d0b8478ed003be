"""Observations of a rosbag2: its messages through the synchroniser that makes the live ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from rdt_ros.episodes import bag
from rdt_ros.episodes.bag import BagMessage, BagReader, RobotTopic, robot_topics
from rdt_ros.episodes.content import Track, untracked
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot
from rdt_ros.sensing.picture import compressed_picture, raw_picture
from rdt_ros.sensing.synchroniser import SyncConfig, Synchroniser, SyncStatus
from rdt_ros.types import NS_PER_S, Observation

END_NS = 3600 * NS_PER_S  # longer than any wait of the synchroniser


class BagObservations:
    """The Observations of a bag, once, in the order of their ticks.

    Messages are handed over in the order of their stamps, and the clock is the stamp: the rules on skew, on giving
    a tick up and on the command in force are those of the live synchroniser, without the chance of a late network.
    InputError where the bag lacks a topic that the Observation of this robot needs.
    """

    def __init__(self, reader: BagReader, robot: Robot, config: SyncConfig) -> None:
        self._reader, self._robot = reader, robot
        self._sync = Synchroniser(robot, config)
        self._types = get_typestore(Stores.ROS2_HUMBLE)  # these messages are the same in every later one
        self._routes: dict[str, list[RobotTopic]] = {}
        self._last_ns = 0
        for route in self._taken():
            self._routes.setdefault(route.topic, []).append(route)
        found = {route.source for routes in self._routes.values() for route in routes}
        missing = [s for s in self._sync.sources if s not in found and not s.startswith("command/")]
        if missing:
            raise InputError(f"{reader.path}: expected the topics of {', '.join(missing)}, found none")

    @property
    def status(self) -> SyncStatus:
        """What was made and what was given up, and why."""
        return self._sync.status(self._last_ns)

    def __iter__(self) -> Iterator[Observation]:
        for message in self._reader.messages():
            self._last_ns = max(self._last_ns, message.stamp_ns)
            for route in self._routes.get(message.topic, ()):
                yield from self._put(route, message)
        yield from _observations(self._sync.poll(self._last_ns + END_NS))

    def _taken(self) -> Iterator[RobotTopic]:
        """A camera's raw topic counts only where the bag has no compressed one, as live."""
        heard: set[str] = set()
        for route in robot_topics(self._robot):
            if route.topic in self._reader.topics and route.source in self._sync.sources and route.source not in heard:
                heard.add(route.source)
                yield route

    def _put(self, route: RobotTopic, message: BagMessage) -> Iterator[Observation]:
        stamp_ns = message.stamp_ns
        try:
            msg = self._deserialize(message, route)
            payload = self._payload(route, msg, stamp_ns)
        except InputError as error:
            self._sync.refuse(route.source, str(error), stamp_ns)
            return
        yield from _observations(self._sync.put(route.source, stamp_ns, payload, stamp_ns))

    def _deserialize(self, message: BagMessage, route: RobotTopic) -> Any:
        try:
            return self._types.deserialize_cdr(message.data, route.kind)
        except Exception as error:  # of the library, for damaged bytes: their list is open
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{route.topic}: expected a {route.kind}, found damaged bytes: {reason}") from None

    def _payload(self, route: RobotTopic, msg: Any, stamp_ns: int) -> Any:
        """What the live node makes of the message."""
        kind, _, name = route.source.partition("/")
        if kind == "camera":
            camera = next(c for c in self._robot.cameras if c.name == name)
            if route.kind == bag.COMPRESSED_IMAGE:
                return compressed_picture(camera, stamp_ns, format=msg.format, data=msg.data.tobytes())
            shape = {"width": msg.width, "height": msg.height, "step": msg.step}
            return raw_picture(camera, stamp_ns, encoding=msg.encoding, data=msg.data.tobytes(), **shape)
        if route.kind == bag.JOINT_STATE:
            group = next(g for g in self._robot.groups if g.name == name)
            fields = {"names": msg.name, "position": msg.position, "velocity": msg.velocity, "effort": msg.effort}
            return self._robot.from_wire(group, kind, stamp_ns=stamp_ns, **fields)
        if route.kind == bag.ODOMETRY:
            twist = msg.twist.twist
            return _finite(route.source, twist.linear.x, twist.linear.y, twist.angular.z)
        p, q = msg.pose.position, msg.pose.orientation
        return _finite(route.source, p.x, p.y, p.z, q.x, q.y, q.z, q.w)


def write_episode(
    reader: BagReader,
    header: Header,
    path: Path,
    *,
    action_source: str = "auto",
    max_skew_ms: float = SyncConfig.max_skew_ms,
    track: Track = untracked,
) -> SyncStatus:
    """An episode of a bag, as `camera_sync` and `recorder` would have made it. InputError where no step comes of it."""
    robot = header.robot
    heard = {route.source for route in robot_topics(robot) if route.topic in reader.topics}
    leaders = [f"leader/{group.name}" for group in robot.groups]
    leader = action_source == "leader" or (action_source == "auto" and heard.issuperset(leaders))
    sets = BagObservations(reader, robot, SyncConfig(max_skew_ms=max_skew_ms, leader=leader))
    recording = Recording(robot.period_ns, robot.action_offset_steps, "leader" if leader else "command")
    writer = EpisodeWriter(path, header)
    try:
        for observation in track(sets, reader.duration_ns // robot.period_ns):
            for step in recording.add(observation):
                writer.add(step)
        made = writer.finish(steps_lost=recording.lost, steps_without_action=recording.waiting)
    except BaseException:
        writer.discard()
        raise
    status = sets.status
    if made is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in status.reasons.items()) or "no action in force"
        raise InputError(f"{reader.path}: expected at least one step, found {status.emitted} sets: {reasons}")
    return status


def _observations(events: Iterable[Any]) -> Iterator[Observation]:
    return (event for event in events if isinstance(event, Observation))


def _finite(name: str, *values: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"{name}: expected finite values, found {', '.join(f'{value:g}' for value in values)}")
    return np.array(values)
