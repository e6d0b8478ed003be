"""What must hold for any arrival order: the Observations, an account of every tick, bounded memory, no deadlock."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.sensing.synchroniser import CAMERA_CAPACITY, CAPACITY, Event, GivenUp, SyncConfig, Synchroniser
from rdt_ros.types import JointSample, Observation, Picture

MS = 1_000_000
PERIOD = 40  # ms
SKEW = 50  # ms
ALOHA = load_robot("sim_aloha")
ROBOT: Robot = replace(ALOHA, cameras=ALOHA.cameras[:2])
CAMERAS = ("camera/cam_high", "camera/cam_left_wrist")
ARMS = ("measured/left_arm", "measured/right_arm")
SOURCES = (*CAMERAS, *ARMS)
COMMANDS = ("command/left_arm", "command/right_arm")

Stream = list[int]  # stamps in ms


def put(sync: Synchroniser, name: str, stamp: int, now: float = 0) -> list[Event]:
    """A sample that shows in every value whose it is."""
    kind, short = name.split("/")
    joints = JointSample(stamp * MS, np.full(7, float(stamp)))
    payload = Picture(short, stamp * MS, f"{name} {stamp}".encode()) if kind == "camera" else joints
    return sync.put(name, stamp * MS, payload, round(now * MS))


def seen(events: list[Event]) -> list[tuple]:
    """The Observations as plain values."""
    return [
        (
            e.stamp_ns // MS,
            tuple(p.jpeg for p in e.pictures),
            tuple(e.measured),
            None if e.command is None else tuple(e.command),
            tuple(sorted(e.source_stamps_ns.items())),
        )
        for e in events
        if isinstance(e, Observation)
    ]


def accounted(events: list[Event]) -> list[int]:
    """Every tick (ms) that was emitted or given up, in the order of the events."""
    ticks: list[int] = []
    for event in events:
        first = event.stamp_ns // MS
        count = event.ticks if isinstance(event, GivenUp) else 1
        ticks += range(first, first + count * PERIOD, PERIOD)
    return ticks


@st.composite
def streams(draw: st.DrawFn) -> dict[str, Stream]:
    """Each source with its own period, phase, jitter and losses; no more than its buffer holds."""
    result = {}
    for name in SOURCES:
        period = draw(st.sampled_from((10, 33, 40) if name in ARMS else (33, 40, 66)))
        start = 1000 + draw(st.integers(0, 90))
        count = draw(st.integers(3, CAMERA_CAPACITY - 2))
        lost = draw(st.sets(st.integers(0, count - 1), max_size=count // 3))
        jitter = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
        result[name] = [start + i * period + jitter[i] for i in range(count) if i not in lost]
    return result


def expected(streams: dict[str, Stream], reorder: int = 0) -> tuple[dict[int, dict[str, int]], set[int]]:
    """By the rule alone: tick -> stamps of its set, and the ticks given up."""
    sets: dict[int, dict[str, int]] = {}
    given_up: set[int] = set()
    if any(len(stream) <= reorder for stream in streams.values()):
        return sets, given_up
    tick = -(-max(min(stream) for stream in streams.values()) // PERIOD) * PERIOD
    while True:
        after = {name: sorted(s for s in set(stream) if s >= tick) for name, stream in streams.items()}
        firsts = {name: stamps[0] for name, stamps in after.items() if len(stamps) > reorder}
        if any(stamp > tick + SKEW for stamp in firsts.values()):
            given_up.add(tick)
        elif len(firsts) == len(streams):
            sets[tick] = firsts
        else:
            return sets, given_up
        tick += PERIOD


def check(events: list[Event], streams: dict[str, Stream], reorder: int = 0) -> None:
    sets, given_up = expected(streams, reorder)
    found = {
        e.stamp_ns // MS: {name: stamp // MS for name, stamp in e.source_stamps_ns.items()}
        for e in events
        if isinstance(e, Observation)
    }
    assert found == sets
    assert accounted(events) == sorted([*sets, *given_up])


def interleaved(streams: dict[str, Stream], seed: int) -> list[tuple[str, int]]:
    """All messages in a random order that keeps the order within each source."""
    rng, rest = random.Random(seed), {name: deque(stream) for name, stream in streams.items()}
    order = []
    while any(rest.values()):
        name = rng.choice([name for name, stream in rest.items() if stream])
        order += [(name, rest[name].popleft()) for _ in range(min(len(rest[name]), rng.choice((1, 1, 2, 8))))]
    return order


@given(streams(), st.integers(0, 2**32))
def test_any_interleaving_gives_the_sets_of_the_rule_and_accounts_for_every_tick(streams, seed) -> None:
    sync = Synchroniser(ROBOT)
    events = [event for name, stamp in interleaved(streams, seed) for event in put(sync, name, stamp)]
    check(events, streams)


@given(streams(), st.integers(0, 2**32), st.data())
def test_duplicates_change_nothing(streams, seed, data) -> None:
    order = interleaved(streams, seed)
    repeated = [message for message in order for _ in range(data.draw(st.sampled_from((1, 1, 1, 2, 3))))]
    plain, doubled = Synchroniser(ROBOT), Synchroniser(ROBOT)
    assert seen([e for name, stamp in repeated for e in put(doubled, name, stamp)]) == seen(
        [e for name, stamp in order for e in put(plain, name, stamp)]
    )
    duplicates = sum(status.duplicates for status in doubled.status(0).sources)
    assert duplicates == len(repeated) - len(order)


@given(streams(), st.integers(0, 2**32), st.integers(1, 3), st.data())
def test_messages_overtaken_by_no_more_than_reorder_change_nothing(streams, seed, reorder, data) -> None:
    shuffled = {}
    for name, stream in streams.items():
        delays = data.draw(st.lists(st.integers(0, reorder), min_size=len(stream), max_size=len(stream)))
        shuffled[name] = [stream[i] for i in sorted(range(len(stream)), key=lambda i: (i + delays[i], i))]  # noqa: B023
    sync = Synchroniser(ROBOT, SyncConfig(reorder=reorder))
    events = [event for name, stamp in interleaved(shuffled, seed) for event in put(sync, name, stamp)]
    check(events, streams, reorder)


@given(streams(), st.integers(0, 2**32))
def test_whatever_arrives_a_set_keeps_its_bounds_and_ticks_rise(streams, seed) -> None:
    order = interleaved(streams, seed)
    random.Random(seed).shuffle(order)
    sync = Synchroniser(ROBOT)
    events = [event for name, stamp in order for event in put(sync, name, stamp)]
    tick_ns = -1
    for event in events:
        clock = isinstance(event, GivenUp) and event.reason == "clock"
        assert clock or event.stamp_ns > tick_ns
        tick_ns = -1 if clock else event.stamp_ns
        if isinstance(event, Observation):
            assert all(0 <= stamp - event.stamp_ns <= SKEW * MS for stamp in event.source_stamps_ns.values())


@given(streams(), st.integers(0, 2**32))
def test_with_time_outs_every_tick_is_accounted_for_in_time(streams, seed) -> None:
    """Messages are delayed by up to 0.5 s or lost; a set is decided 0.3 s after its first sample, and none twice."""
    rng = random.Random(seed)
    arrivals = sorted(
        (max(stamp + rng.choice((0, 5, 20, 500)), 0), stamp, name)
        for name, stream in streams.items()
        for stamp in stream
        if rng.random() < 0.9
    )
    sync = Synchroniser(ROBOT)
    events: list[Event] = []
    for arrival, stamp, name in arrivals:
        events += put(sync, name, stamp, arrival)
    if {name for _, _, name in arrivals} != set(SOURCES):
        assert events == []
        return
    end = arrivals[-1][0] + 300
    ticks = accounted(events + sync.poll(end * MS))
    assert ticks == list(range(ticks[0], ticks[-1] + PERIOD, PERIOD)) if ticks else True
    assert not ticks or ticks[-1] + PERIOD > max(stamp for _, stamp, _ in arrivals)
    assert sync.status(end * MS).given_up + sync.status(end * MS).emitted == len(ticks)


@settings(max_examples=20)
@given(st.sets(st.sampled_from(SOURCES)), st.booleans(), st.integers(0, 2**32))
def test_memory_is_bounded_whatever_is_missing(missing, lockstep, seed) -> None:
    rng = random.Random(seed)
    sync = Synchroniser(ROBOT, SyncConfig(lockstep=lockstep))
    for stamp in range(0, 40 * (CAPACITY + 100), PERIOD):
        for name in (*SOURCES, *COMMANDS):
            if name not in missing and rng.random() < 0.98:
                put(sync, name, stamp, stamp if rng.random() < 0.5 else 0)
    assert sync.held <= len(CAMERAS) * CAMERA_CAPACITY + 4 * CAPACITY


class LockStep:
    """The protocol of docs/architecture.md over a network that keeps order within a topic and none between topics."""

    def __init__(self, seed: int, config: SyncConfig) -> None:
        self.rng = random.Random(seed)
        self.sync = Synchroniser(ROBOT, config)
        self.flying: dict[str, deque[int]] = {name: deque() for name in (*SOURCES, *COMMANDS)}
        self.events: list[Event] = []
        self.tick, self.answered, self.now = 0, -1, 0.0

    def restart(self) -> None:
        """A new simulator at time 0; pictures and joints of the one before may still be on their way."""
        for name in COMMANDS:
            self.flying[name].clear()
        self.tick, self.answered = 0, -1
        self.publish()

    def publish(self) -> None:
        for name in SOURCES:
            self.flying[name].append(self.tick)

    def deliver(self) -> None:
        name = self.rng.choice([name for name, stamps in self.flying.items() if stamps])
        self.now += self.rng.choice((0, 1, 50, 400 if name in SOURCES else 0))
        new = put(self.sync, name, self.flying[name].popleft(), self.now)
        self.events += new
        if any(isinstance(e, Observation) and e.stamp_ns == self.tick * MS for e in new) and self.answered != self.tick:
            self.answered = self.tick
            for command in COMMANDS:  # to the simulator at once, to camera_sync some time
                self.flying[command].append(self.tick)

    def run(self, ticks: int) -> None:
        """Until the simulator has had its answer for `ticks` ticks; a deadlock is no message left to deliver."""
        while self.answered < (ticks - 1) * PERIOD:
            if self.answered == self.tick:
                self.tick += PERIOD
                self.publish()
            assert any(self.flying.values()), f"deadlock at tick {self.tick}"
            self.deliver()


@given(st.integers(0, 2**32))
def test_lockstep_gives_the_same_observations_under_any_network(seed) -> None:
    run = LockStep(seed, SyncConfig(lockstep=True))
    run.publish()
    run.run(ticks=8)
    observations = [e for e in run.events if isinstance(e, Observation)]
    assert [o.stamp_ns // MS for o in observations] == [i * PERIOD for i in range(8)]
    assert observations[0].command is None
    assert [o.command.tolist() for o in observations[1:]] == [[i * PERIOD] * 14 for i in range(7)]
    assert all(set(o.source_stamps_ns[name] for name in SOURCES) == {o.stamp_ns} for o in observations)
    assert run.sync.status(0).without_command == 0


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_lockstep_goes_on_after_a_new_simulator(seed, ticks) -> None:
    run = LockStep(seed, SyncConfig(lockstep=True))
    run.publish()
    run.run(ticks)
    run.restart()
    run.run(ticks=4)
    assert [e.stamp_ns // MS for e in run.events if isinstance(e, Observation)][-4:] == [0, 40, 80, 120]
