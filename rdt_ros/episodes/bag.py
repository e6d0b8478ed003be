"""Reads a robot's topics from a rosbag2 (mcap or sqlite3) with the library `rosbags`; messages stay serialized."""

from __future__ import annotations

import contextlib
import heapq
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rosbags.rosbag2 import Reader

from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot
from rdt_ros.sensing.synchroniser import BASE_SOURCE
from rdt_ros.types import NS_PER_S

COMPRESSED = "/compressed"
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
ODOMETRY, POSE = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped"
REORDER_NS = NS_PER_S  # a message is recorded at most so long after its stamp's turn

# Every type above starts with a header, and that with its stamp, after the 4 bytes that say how it is serialized.
_STAMP = {1: struct.Struct("<iI"), 0: struct.Struct(">iI")}
_STAMP_OFFSET = 4


@dataclass(frozen=True)
class RobotTopic:
    """Where a source of the Observation comes from."""

    source: str  # "kind/name"
    topic: str
    kind: str  # message type


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One message as it was recorded."""

    stamp_ns: int  # of its header; the time of its recording where the driver gave none
    topic: str  # as the robot file names it, with /compressed where the camera's driver compressed
    data: bytes  # CDR


class BagReader:
    """The topics of one robot in a bag: a folder, or a single .mcap or .db3. Use it as a context manager.

    A namespace before the robot's topics is found by itself; with several robots in the bag it must be given.
    InputError for what is no bag, is cut short, or lacks the topics of a camera or a measured arm.
    """

    def __init__(self, path: str | Path, robot: Robot, *, namespace: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{self.path}: no such bag")
        with _reading(self.path):
            self._reader = Reader(self.path)
            self._reader.open()
            in_bag = {c.topic: c.msgtype for c in self._reader.connections if c.msgcount}
        try:
            prefix = self._prefix(in_bag, robot) if namespace is None else "/".join(["", *namespace.strip("/").split()])
            names = {route.topic: f"{prefix}/{route.topic.lstrip('/')}" for route in robot_topics(robot)}
            self.topics = {name: in_bag[full] for name, full in names.items() if full in in_bag}
            self._check(robot)
        except InputError:
            self.close()
            raise
        self._names = {names[name]: name for name in self.topics}

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def instruction(self) -> str:
        """What its metadata say of the task; empty where they say nothing."""
        custom = self._reader.storage.metadata.custom or {}
        return str(custom.get("instruction", ""))

    @property
    def duration_ns(self) -> int:
        """From the first message of all topics to the last, by the time of their recording."""
        return self._reader.duration

    def close(self) -> None:
        """Closes the bag."""
        with contextlib.suppress(AssertionError):  # of the library, for a bag that could not be opened whole
            self._reader.close()

    def messages(self) -> Iterator[BagMessage]:
        """All messages of the robot's topics in the order of their stamps."""
        waiting: list[tuple[int, int, BagMessage]] = []
        newest_ns = 0
        for count, (topic, log_ns, data) in enumerate(self._raw()):
            stamp_ns = _stamp_ns(data) or log_ns
            heapq.heappush(waiting, (stamp_ns, count, BagMessage(stamp_ns, topic, data)))
            newest_ns = max(newest_ns, stamp_ns)
            while waiting[0][0] < newest_ns - REORDER_NS:
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _raw(self) -> Iterator[tuple[str, int, bytes]]:
        connections = [c for c in self._reader.connections if c.topic in self._names]
        with _reading(self.path):
            for connection, log_ns, data in self._reader.messages(connections=connections):
                yield self._names[connection.topic], log_ns, bytes(data)

    def _prefix(self, in_bag: Iterable[str], robot: Robot) -> str:
        """What stands before the first arm's measured topic: empty, or a namespace with its slash."""
        arm = "/" + robot.groups[0].measured.topic.lstrip("/")
        prefixes = sorted(topic.removesuffix(arm) for topic in in_bag if topic.endswith(arm))
        if len(prefixes) > 1 and "" not in prefixes:
            raise InputError(f"{self.path}: expected one robot, found namespaces {', '.join(prefixes)}")
        return prefixes[0] if prefixes else ""

    def _check(self, robot: Robot) -> None:
        """Refuses a bag with other types, or without what an Observation needs."""
        found: set[str] = set()
        for route in robot_topics(robot):
            kind = self.topics.get(route.topic)
            if kind == route.kind:
                found.add(route.source)
            elif kind is not None:
                raise InputError(f"{self.path}: {route.topic}: expected {route.kind}, found {kind}")
        missing = [f"{c.topic}[{COMPRESSED}]" for c in robot.cameras if f"camera/{c.name}" not in found]
        missing += [g.measured.topic for g in robot.groups if f"measured/{g.name}" not in found]
        if missing:
            raise InputError(f"{self.path}: expected the topics of robot {robot.name}, missing {', '.join(missing)}")


def robot_topics(robot: Robot) -> list[RobotTopic]:
    """All that a robot's file names; a camera stands twice, compressed first."""
    topics = [RobotTopic(f"camera/{c.name}", c.topic + COMPRESSED, COMPRESSED_IMAGE) for c in robot.cameras]
    topics += [RobotTopic(f"camera/{c.name}", c.topic, IMAGE) for c in robot.cameras]
    for group in robot.groups:
        for role in ("measured", "leader", "command"):
            joints = getattr(group, role)
            if joints is not None:
                topics.append(RobotTopic(f"{role}/{group.name}", joints.topic, JOINT_STATE))
    if robot.base is not None:
        topics.append(RobotTopic(BASE_SOURCE, robot.base.odometry, ODOMETRY))
    return topics + [RobotTopic(f"pose/{pose.name}", pose.topic, POSE) for pose in robot.poses]


def with_stamp(data: bytes, stamp_ns: int) -> bytes:
    """The same serialized message with another stamp in its header."""
    layout = _STAMP[data[1] & 1]
    return data[:_STAMP_OFFSET] + layout.pack(*divmod(stamp_ns, NS_PER_S)) + data[_STAMP_OFFSET + layout.size :]


def _stamp_ns(data: bytes) -> int:
    seconds, nanoseconds = _STAMP[data[1] & 1].unpack_from(data, _STAMP_OFFSET)
    return seconds * NS_PER_S + nanoseconds


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """One line for whatever a damaged bag makes the library or sqlite raise: their list is open."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{path}: no whole rosbag2: {' '.join(str(error).split())[:160]}") from None
