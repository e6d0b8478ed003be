"""Turns an episode or a bag back into the robot's topics: events in the order of their stamps."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from rdt_ros.episodes import bag
from rdt_ros.episodes.bag import BagReader, RobotTopic, robot_topics
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.sensing.synchroniser import SyncConfig, Synchroniser
from rdt_ros.types import NS_PER_S, JointSample, Observation, Picture

EPISODE_SUFFIXES = (".hdf5", ".partial")
FOREVER_NS = 3600 * NS_PER_S  # longer than any wait of the synchroniser's own


@dataclass(frozen=True, eq=False)
class Event:
    """One message of the robot."""

    stamp_ns: int
    topic: str  # as the robot file names it, with /compressed for JPEG
    source: str  # "kind/name" as in an Observation; empty for a bag's message
    value: Picture | JointSample | np.ndarray | bytes  # an array is a base (3,) or a pose (7,); bytes are serialized

    def later(self, by_ns: int) -> Event:
        """The same message with its stamp moved."""
        stamp_ns, value = self.stamp_ns + by_ns, self.value
        if isinstance(value, bytes):
            value = bag.with_stamp(value, stamp_ns)
        elif not isinstance(value, np.ndarray):
            value = dataclasses.replace(value, stamp_ns=stamp_ns)
        return dataclasses.replace(self, stamp_ns=stamp_ns, value=value)


class Playback:
    """One recording of one robot: an .hdf5 episode or a rosbag2. Use it as a context manager.

    `topics` maps every topic that has events to its message type. InputError for a source that cannot be read or is of
    another robot.
    """

    def __init__(self, source: str | Path, robot: Robot) -> None:
        path = Path(source)
        self._period_ns = robot.period_ns
        self.topics: Mapping[str, str]
        self._reader: EpisodeReader | BagReader
        self._events: Callable[[], Iterator[Event]]
        if path.suffix in EPISODE_SUFFIXES:
            episode = self._reader = EpisodeReader(path, robot)
            self._check_robot(episode, robot)
            routes = _routes(episode, robot)
            self.topics = {route.topic: route.kind for route in routes.values()}
            self._events = lambda: _episode_events(episode, routes)
        else:
            messages = self._reader = BagReader(path, robot)
            self.topics = messages.topics
            self._events = lambda: (Event(m.stamp_ns, m.topic, "", m.data) for m in messages.messages())

    def __enter__(self) -> Playback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the source."""
        self._reader.close()

    def events(self, *, loop: bool = False) -> Iterator[Event]:
        """All events by stamp; with `loop` again and again, a whole number of control periods later each time."""
        shift_ns = 0
        while True:
            first_ns = last_ns = None
            for event in self._events():
                first_ns = event.stamp_ns if first_ns is None else first_ns
                last_ns = event.stamp_ns
                yield event.later(shift_ns) if shift_ns else event
            if not loop or first_ns is None or last_ns is None:
                return
            shift_ns += ((last_ns - first_ns) // self._period_ns + 1) * self._period_ns

    def _check_robot(self, episode: EpisodeReader, robot: Robot) -> None:
        if (episode.robot.name, episode.robot.joint_names) != (robot.name, robot.joint_names):
            episode.close()
            raise InputError(f"{episode.path}: expected an episode of robot {robot.name}, found {episode.robot.name}")
        if not len(episode):
            episode.close()
            raise InputError(f"{episode.path}: expected steps to replay, found none")


class DueTicks:
    """Which ticks become Observations, by the rule of the synchroniser itself."""

    def __init__(self, robot: Robot, max_skew_ms: float) -> None:
        self._sync = Synchroniser(robot, SyncConfig(max_skew_ms=max_skew_ms, lockstep=True))
        self._now_ns = 0
        self._names: dict[str, list[str]] = {}
        taken = set(self._sync.sources)
        for route in robot_topics(robot):
            if route.source in taken:
                self._names.setdefault(route.topic, []).append(route.source)
        arms = {group.name: JointSample(0, np.zeros(len(group.joints))) for group in robot.groups}
        self._payloads = {name: _stand_in(name, arms) for name in taken}

    def put(self, event: Event) -> list[int]:
        """Stamps of the ticks whose Observation this event completed.

        Events come in the order of their stamps, so what a tick lacks now never comes: time-outs are over at once.
        """
        ready = []
        for name in self._names.get(event.topic, ()):
            ready += self._sync.put(name, event.stamp_ns, self._payloads[name], self._now_ns)
            self._now_ns += FOREVER_NS
            ready += self._sync.poll(self._now_ns)
        return [item.stamp_ns for item in ready if isinstance(item, Observation)]


def _stand_in(name: str, arms: Mapping[str, JointSample]) -> Picture | JointSample | np.ndarray:
    kind, _, rest = name.partition("/")
    if kind == "camera":
        return Picture(rest, 0, b"")
    return np.zeros(7) if kind == "pose" else np.zeros(3) if kind == "base" else arms[rest]


def _routes(episode: EpisodeReader, robot: Robot) -> dict[str, RobotTopic]:
    """Where each recorded source goes; pictures are JPEG, so no raw camera topic is used."""
    recorded = episode.content.stamps
    return {r.source: r for r in robot_topics(robot) if r.source in recorded and r.kind != bag.IMAGE}


def _episode_events(episode: EpisodeReader, routes: Mapping[str, RobotTopic]) -> Iterator[Event]:
    groups = {group.name: group for group in episode.robot.groups}
    waiting: list[tuple[int, int, Event]] = []
    number = itertools.count()  # keeps the order of equal stamps
    sent: dict[tuple[str, str], int] = {}  # a sample may belong to two steps, or be leader and command at once
    for observation in episode.observations():
        # nothing of this or a later step is stamped before the tick before it
        yield from _released(waiting, observation.stamp_ns - episode.robot.period_ns, sent)
        for source, stamp_ns in observation.source_stamps_ns.items():
            value = _value(observation, source, groups)
            if source in routes and value is not None:
                event = Event(stamp_ns, routes[source].topic, source, value)
                heapq.heappush(waiting, (stamp_ns, next(number), event))
    yield from _released(waiting, None, sent)


def _released(
    waiting: list[tuple[int, int, Event]], before_ns: int | None, sent: dict[tuple[str, str], int]
) -> Iterator[Event]:
    while waiting and (before_ns is None or waiting[0][0] < before_ns):
        event = heapq.heappop(waiting)[2]
        key = (event.topic, event.source.partition("/")[2])
        if key not in sent or event.stamp_ns > sent[key]:
            sent[key] = event.stamp_ns
            yield event


def _value(
    observation: Observation, source: str, groups: Mapping[str, JointGroup]
) -> Picture | JointSample | np.ndarray | None:
    """What the source gave to this Observation."""
    kind, _, name = source.partition("/")
    if kind == "camera":
        return observation.picture(name)
    if kind == "base":
        return observation.base
    if kind == "pose":
        return observation.poses.get(name)
    fields = ("measured", "velocity", "effort") if kind == "measured" else (kind,)
    columns, vectors = groups[name].columns, [getattr(observation, field) for field in fields]
    if vectors[0] is None:
        return None
    parts = [None if vector is None else vector[columns] for vector in vectors]
    return JointSample(observation.source_stamps_ns[source], *parts)  # type: ignore[arg-type]
