"""Samples in, one Observation a control tick out, every set given up named with its reason.

A tick is a multiple of the control period. It takes the first sample at or after it of every required source, or is
given up: because that sample lies beyond the bound on the skew (`late`), because it did not come within the time-out
(`missing`), because no source had any (`pause`), or because the clock went back (`clock`). Time-outs aside, whether
a tick is given up and what its Observation holds depends on the samples alone, not on the order in which topics arrive.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.options import option
from rdt_ros.robot.description import Robot
from rdt_ros.sensing.health import RECENT_NS, Level, SourceHealth, SourceStatus
from rdt_ros.sensing.picture import RawPicture
from rdt_ros.sensing.source import Sample, Source
from rdt_ros.types import NS_PER_S, Observation, Picture

BASE_SOURCE = "base/odometry"
CAMERA_CAPACITY = 32  # a second of pictures
CAPACITY = 512  # a second of joints at 500 Hz
WINDOW = 100  # sets that the worst wait is taken from
# A clock that goes back by more was set back; less is a message that was overtaken. In lock-step nothing is overtaken.
CLOCK_BACK_NS = NS_PER_S // 2
# An executor is active whose newest commands are at most so many ticks older than the one that is waited for.
ACTIVE_TICKS = 2
# So that a command lost while topics were being found does not stop a simulator for ever.
LOCKSTEP_COMMAND_WAIT_NS = NS_PER_S


@dataclass(frozen=True)
class SyncConfig:
    """Rules of time of the synchroniser."""

    max_skew_ms: float = option(50.0, unit="ms", low=0, doc="Latest stamp after the tick that still belongs to its set")
    timeout_ms: float = option(300.0, unit="ms", low=1, doc="Longest wait for the rest of a set, on the steady clock")
    reorder: int = option(0, low=0, high=8, doc="Newer messages that may overtake an older one; each costs its period")
    leader: bool = option(False, doc="Record mode: leader topics belong to a set, command topics are not read")
    lockstep: bool = option(False, doc="The simulator waits for each set: no set times out, subscriptions are reliable")


@dataclass(frozen=True)
class GivenUp:
    """`ticks` sets in a row, from `stamp_ns` on, that will not come; `late_ms` is the worst of `sources`."""

    stamp_ns: int
    ticks: int
    reason: str  # late, missing, pause or clock
    sources: tuple[str, ...]
    late_ms: float

    def __str__(self) -> str:
        """One sentence for a person."""
        names = ", ".join(self.sources)
        what = {
            "late": f"{names} late by {self.late_ms:.0f} ms",
            "missing": f"{names} missing, {self.late_ms:.0f} ms behind",
            "pause": f"no source had a sample for {self.late_ms:.0f} ms",
            "clock": f"{names} went back {self.late_ms:.0f} ms: the clock was set back, starting anew",
        }[self.reason]
        tick = f"tick {self.stamp_ns / NS_PER_S:.3f} s"
        which = f"the set of {tick}" if self.ticks == 1 else f"{self.ticks} sets from {tick} on"
        return f"{which} given up: {what}"


Event = Observation | GivenUp


@dataclass(frozen=True)
class SyncStatus:
    """The synchroniser at one moment; counts are since the start."""

    level: Level
    message: str
    emitted: int
    rate_hz: float | None  # of the sets, by their ticks; None before the second set
    given_up: int
    reasons: Mapping[str, int]  # sets given up by reason and source, for example "late camera/cam_high"
    without_command: int  # sets that waited in vain for the command of the tick before
    worst_wait_ms: float  # first sample to Observation, worst of the last 100 sets
    sources: tuple[SourceStatus, ...]


class Synchroniser:
    """Joins the sources of one robot; `now_ns` is always the steady clock.

    Payloads: Picture or RawPicture of a camera, JointSample of measured, leader and command, (3,) of the base, (7,) of
    a pose. Sources are called kind/name: camera/cam_high, measured/left_arm, base/odometry, pose/left.
    """

    def __init__(self, robot: Robot, config: SyncConfig = SyncConfig()) -> None:  # noqa: B008 (frozen)
        self._robot, self._config = robot, config
        self._period_ns = robot.period_ns
        self._skew_ns = round(config.max_skew_ms * 1e6)
        self._clock_back_ns = 0 if config.lockstep else CLOCK_BACK_NS
        self._required = {name: self._source(name) for name in _required_names(robot, config.leader)}
        commands = [] if config.leader else [f"command/{group.name}" for group in robot.groups]
        self._commands = {name: Source(name, CAPACITY) for name in commands}
        self._sources = self._required | self._commands
        self._health = {name: SourceHealth(name, **self._expected(name)) for name in self._sources}
        self._next_ns: int | None = None  # the tick that is being waited for; None before every source has appeared
        self._emitted = self._given_up = self._without_command = 0
        self._reasons: Counter[str] = Counter()
        self._commanded = True  # False once a set of lock-step waited in vain: nobody sends commands, as in a replay
        self._last_given_up: tuple[int, GivenUp] | None = None  # when, and what
        self._ticks: deque[int] = deque(maxlen=WINDOW)
        self._waits_ns: deque[int] = deque(maxlen=WINDOW)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources that it takes."""
        return tuple(self._sources)

    @property
    def held(self) -> int:
        """Samples in all buffers."""
        return sum(len(source) for source in self._sources.values())

    def put(self, name: str, stamp_ns: int, payload: Any, now_ns: int) -> list[Event]:
        """Takes a sample and returns what it decided, in tick order."""
        source = self._sources[name]
        self._commanded |= name in self._commands
        events: list[Event] = []
        if source.newest_ns is not None and stamp_ns < source.newest_ns - self._clock_back_ns:
            events += self._clock_went_back(source, stamp_ns, now_ns)
        self._health[name].heard(stamp_ns, now_ns, _content(payload))
        if self._next_ns is None or stamp_ns >= self._horizon_ns(name):
            source.add(Sample(stamp_ns, now_ns, payload))
        return events + self.poll(now_ns)

    def refuse(self, name: str, reason: str, now_ns: int) -> None:
        """Takes note of a message of that source that cannot be used."""
        self._health[name].refuse(reason, now_ns)

    def poll(self, now_ns: int) -> list[Event]:
        """What was decided since, by time alone; call it every few milliseconds."""
        if self._next_ns is None and all(source.appeared for source in self._required.values()):
            self._next_ns = self._grid(max(source.oldest_ns for source in self._required.values()))
            self._forget()
        events: list[Event] = []
        while self._next_ns is not None and (event := self._decide(self._next_ns, now_ns)) is not None:
            events.append(event)
            if isinstance(event, Observation):
                self._next_ns += self._period_ns
            else:
                self._count(event, now_ns)
                self._next_ns += event.ticks * self._period_ns
            self._forget()
        return events

    def status(self, now_ns: int) -> SyncStatus:
        """Rates, counts and one sentence on what is wrong, if anything is."""
        sources = [health.status(now_ns, self._awaited_ns(name, now_ns)) for name, health in self._health.items()]
        level, message = self._verdict(now_ns)
        return SyncStatus(
            level,
            message,
            self._emitted,
            self._rate_hz(),
            self._given_up,
            MappingProxyType(dict(self._reasons)),
            self._without_command,
            max(self._waits_ns, default=0) / 1e6,
            tuple(sources),
        )

    def _source(self, name: str) -> Source:
        return Source(name, CAMERA_CAPACITY if name.startswith("camera/") else CAPACITY, self._config.reorder)

    def _expected(self, name: str) -> dict[str, Any]:
        """What health is to expect of a source. In lock-step a camera keeps the control rate."""
        camera = next((c for c in self._robot.cameras if f"camera/{c.name}" == name), None)
        if camera is None:
            return {"watched": not name.startswith("command/")}
        rate_hz = self._robot.control_rate_hz if self._config.lockstep else camera.rate_hz
        return {"rate_hz": rate_hz, "frozen_after_s": camera.frozen_after_s}

    def _grid(self, stamp_ns: int) -> int:
        """The first tick at or after a stamp."""
        return -(-stamp_ns // self._period_ns) * self._period_ns

    def _horizon_ns(self, name: str) -> int:
        """No tick to come needs an older sample of that source."""
        assert self._next_ns is not None
        return self._next_ns - (self._period_ns if name in self._commands else 0)

    def _forget(self) -> None:
        for name, source in self._sources.items():
            source.drop_before(self._horizon_ns(name))

    def _decide(self, tick_ns: int, now_ns: int) -> Event | None:
        """The Observation of the tick, or why there is none, or None while neither is certain."""
        firsts = {name: source.first(tick_ns) for name, source in self._required.items()}
        settled = {name: s for name, s in firsts.items() if s is not None and self._required[name].settled(tick_ns)}
        late = {name: s.stamp_ns for name, s in settled.items() if s.stamp_ns > tick_ns + self._skew_ns}
        if late:
            return self._late(tick_ns, late, [s.stamp_ns for s in firsts.values() if s is not None])
        begun_ns = min((s.arrival_ns for s in firsts.values() if s is not None), default=now_ns)
        missing = tuple(name for name in firsts if name not in settled)
        if missing:
            return self._missing(tick_ns, missing) if self._overdue(begun_ns, now_ns) else None
        commands = self._command(tick_ns, max(s.arrival_ns for s in settled.values()), now_ns)
        if commands is None:
            return None
        self._emitted += 1
        self._ticks.append(tick_ns)
        self._waits_ns.append(now_ns - begun_ns)
        return self._observation(tick_ns, settled, commands)

    def _overdue(self, begun_ns: int, now_ns: int) -> bool:
        """Whether to wait no longer: the time is up, or no more could be kept."""
        timed_out = not self._config.lockstep and now_ns - begun_ns >= self._config.timeout_ms * 1e6
        return timed_out or self._full

    @property
    def _full(self) -> bool:
        return any(source.full for source in self._required.values())

    def _late(self, tick_ns: int, late: Mapping[str, int], stamps: Iterable[int]) -> GivenUp:
        """All ticks at once that the latest of the late sources rules out: a gap may be long."""
        latest_ns = max(late.values())
        ticks = -(-(latest_ns - self._skew_ns - tick_ns) // self._period_ns)
        paused = all(stamp_ns > tick_ns + self._skew_ns for stamp_ns in stamps) and len(self._required) > 1
        names = () if paused else tuple(name for name, stamp_ns in late.items() if stamp_ns == latest_ns)
        return GivenUp(tick_ns, ticks, "pause" if paused else "late", names, (latest_ns - tick_ns) / 1e6)

    def _missing(self, tick_ns: int, names: tuple[str, ...]) -> GivenUp:
        newest = [self._required[name].newest_ns for name in names]
        behind_ns = max((tick_ns - stamp_ns for stamp_ns in newest if stamp_ns is not None), default=0)
        return GivenUp(tick_ns, 1, "missing", names, behind_ns / 1e6)

    def _command(self, tick_ns: int, complete_ns: int, now_ns: int) -> Mapping[str, Sample] | None:
        """The commands that were in force until this tick; empty where there are none, None while they may still come.

        Topics have no order among each other, so a set that is complete otherwise may be ahead of its command. It waits
        where a command must exist: in lock-step when the tick before went out, because the simulator does not advance
        without; else while an executor is active, at most one period. It never waits for a command that follows it.
        """
        previous_ns = tick_ns - self._period_ns
        firsts = {name: source.first(previous_ns) for name, source in self._commands.items()}
        found = {name: s for name, s in firsts.items() if s is not None}
        if len(found) == len(firsts):
            return found if all(s.stamp_ns < tick_ns for s in found.values()) else {}
        if self._config.lockstep:
            expected = self._commanded and bool(self._ticks) and self._ticks[-1] == previous_ns
        else:
            active_ns = previous_ns - ACTIVE_TICKS * self._period_ns
            newest = [source.newest_ns for source in self._commands.values()]
            expected = all(stamp_ns is not None and stamp_ns >= active_ns for stamp_ns in newest)
        if not expected:
            return {}
        wait_ns = LOCKSTEP_COMMAND_WAIT_NS if self._config.lockstep else self._period_ns
        if now_ns - complete_ns < wait_ns and not self._full:
            return None
        self._without_command += 1
        self._commanded = False
        return {}

    def _observation(self, tick_ns: int, samples: Mapping[str, Sample], commands: Mapping[str, Sample]) -> Observation:
        leader = self._joined("leader", "position", samples) if self._config.leader else None
        measured = self._joined("measured", "position", samples)
        assert measured is not None
        base = samples[BASE_SOURCE].payload if self._robot.base else None
        pictures = (samples[f"camera/{camera.name}"].payload for camera in self._robot.cameras)
        return Observation(
            stamp_ns=tick_ns,
            robot=self._robot.name,
            pictures=tuple(p.encode() if isinstance(p, RawPicture) else p for p in pictures),
            joint_names=self._robot.joint_names,
            measured=measured,
            velocity=self._joined("measured", "velocity", samples),
            effort=self._joined("measured", "effort", samples),
            leader=leader,
            command=self._joined("command", "position", commands) if commands else None,
            base=None if base is None else np.asarray(base, np.float32),
            poses=MappingProxyType(
                {pose.name: np.asarray(samples[f"pose/{pose.name}"].payload, np.float32) for pose in self._robot.poses}
            ),
            source_stamps_ns=MappingProxyType({name: s.stamp_ns for name, s in (*samples.items(), *commands.items())}),
        )

    def _joined(self, kind: str, field: str, samples: Mapping[str, Sample]) -> np.ndarray | None:
        """(J,) float32 over all groups, None where one of them gives none."""
        parts = [getattr(samples[f"{kind}/{group.name}"].payload, field) for group in self._robot.groups]
        return None if any(part is None for part in parts) else np.concatenate(parts).astype(np.float32)

    def _clock_went_back(self, source: Source, stamp_ns: int, now_ns: int) -> list[Event]:
        """Forgets what the clock before stamped, but keeps what other sources have sent since it was set back."""
        self._health[source.name].clock_went_back()
        assert source.newest_ns is not None
        back_ms = (source.newest_ns - stamp_ns) / 1e6
        if source.name in self._commands:  # one executor after another; the robot's own clock is not concerned
            source.clear()
            return []
        newest_ns = max(s.newest_ns for s in self._required.values() if s.newest_ns is not None)
        begun = 0 if self._next_ns is None else max(0, (newest_ns - self._next_ns) // self._period_ns + 1)
        event = GivenUp(newest_ns if self._next_ns is None else self._next_ns, begun, "clock", (source.name,), back_ms)
        for name, other in self._sources.items():
            if other.newest_ns is not None and other.newest_ns > stamp_ns + self._clock_back_ns:
                other.clear()
                self._health[name].clock_went_back()
        if self._next_ns is not None and self._next_ns > stamp_ns:
            self._next_ns = None
            self._ticks.clear()
        self._count(event, now_ns)
        return [event]

    def _count(self, event: GivenUp, now_ns: int) -> None:
        self._given_up += event.ticks
        for name in event.sources or ("",):
            self._reasons[f"{event.reason} {name}".rstrip()] += event.ticks
        self._last_given_up = (now_ns, event)

    def _awaited_ns(self, name: str, now_ns: int) -> int | None:
        """Lock-step: for how long the set has been waiting for that source; None: its own silence counts."""
        if not self._config.lockstep:
            return None
        firsts = {other: source.first(self._next_ns or 0) for other, source in self._required.items()}
        if firsts.get(name) is not None:
            return 0
        return now_ns - min((s.arrival_ns for s in firsts.values() if s is not None), default=now_ns)

    def _verdict(self, now_ns: int) -> tuple[Level, str]:
        waiting = [name for name, source in self._required.items() if not source.appeared]
        if self._next_ns is None and waiting:
            return Level.WARN, f"waiting for {', '.join(waiting)}"
        if self._last_given_up and now_ns - self._last_given_up[0] < RECENT_NS:
            return Level.WARN, str(self._last_given_up[1])
        rate_hz = self._rate_hz()
        return Level.OK, "running" if rate_hz is None else f"{rate_hz:.1f} sets/s"

    def _rate_hz(self) -> float | None:
        if len(self._ticks) < 2:
            return None
        return (len(self._ticks) - 1) * NS_PER_S / (self._ticks[-1] - self._ticks[0])


def _content(payload: Any) -> bytes | None:
    """What a frozen camera repeats."""
    return payload.jpeg if isinstance(payload, Picture) else payload.data if isinstance(payload, RawPicture) else None


def _required_names(robot: Robot, leader: bool) -> list[str]:
    """Sources without which there is no set; InputError where the robot has no leader topic to record."""
    if leader and (silent := [group.name for group in robot.groups if group.leader is None]):
        raise InputError(f"leader: robot {robot.name}: expected leader topics of all groups, found none of {silent[0]}")
    names = [f"camera/{camera.name}" for camera in robot.cameras]
    names += [f"{role}/{group.name}" for role in ("measured", "leader")[: 1 + leader] for group in robot.groups]
    names += [BASE_SOURCE] if robot.base else []
    return names + [f"pose/{pose.name}" for pose in robot.poses]
