"""What is replayed makes the Observations that were recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rdt_ros.episodes import bag
from rdt_ros.episodes.playback import DueTicks, Playback
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.sensing.synchroniser import SyncConfig, Synchroniser
from rdt_ros.types import JointSample, Observation

SKEW_NS = 30_000_000


def through_the_wire(robot, event):
    """The sample that a subscriber makes of the replayed message."""
    if not isinstance(event.value, JointSample):
        return event.value
    role, _, name = event.source.partition("/")
    group = next(g for g in robot.groups if g.name == name)
    scale = robot.to_wire(group, role, np.ones(len(group.joints))) - robot.to_wire(
        group, role, np.zeros(len(group.joints))
    )
    velocity = event.value.velocity
    return robot.from_wire(
        group,
        role,
        stamp_ns=event.stamp_ns,
        names=(),
        position=robot.to_wire(group, role, event.value.position.astype(float)),
        velocity=() if velocity is None else velocity.astype(float) * scale,
    )


def synchronised(robot, events, **config) -> list[Observation]:
    """What the synchroniser makes of these messages."""
    sync = Synchroniser(robot, SyncConfig(**config))
    found = []
    for i, event in enumerate(events):
        if event.source in sync.sources:
            found += sync.put(event.source, event.stamp_ns, through_the_wire(robot, event), i * 1_000_000)
    found += sync.poll(10**12)
    return [item for item in found if isinstance(item, Observation)]


@pytest.fixture
def episode(maker, tmp_path):
    """Writes Observations and returns the path and those that were stored."""

    def make(observations):
        path = tmp_path / "e.hdf5"
        path.unlink(missing_ok=True)
        maker.write(path, observations)
        return path, observations

    return make


@pytest.mark.parametrize("leader", [False, True])
@pytest.mark.parametrize("skew_ns", [0, SKEW_NS])
def test_replayed_messages_make_the_recorded_observations(maker, episode, same, skew_ns, leader):
    path, recorded = episode(maker.observations(30, skew_ns=skew_ns, leader=leader, command=not leader))
    with Playback(path, maker.robot) as playback:
        events = list(playback.events())
    again = synchronised(maker.robot, events, leader=leader)
    # with a skew nobody knows whether there was an earlier sample for the first tick
    recorded = recorded[1:] if skew_ns else recorded
    assert len(again) >= 27
    assert all(same(a, b) for a, b in zip(recorded, again, strict=False))


def test_events_come_by_stamp_and_every_message_once(maker, episode):
    observations = maker.observations(10, skew_ns=SKEW_NS)
    # two ticks that were served by one picture
    shared = observations[4].pictures[0]
    pictures = (shared, *observations[3].pictures[1:])
    stamps = {**observations[3].source_stamps_ns, "camera/cam_high": shared.stamp_ns}
    observations[3] = dataclasses.replace(observations[3], pictures=pictures, source_stamps_ns=stamps)
    path, _ = episode(observations)
    with Playback(path, maker.robot) as playback:
        events = list(playback.events())
        assert playback.topics["camera_f/color/image_raw/compressed"] == bag.COMPRESSED_IMAGE
        assert set(playback.topics) == {event.topic for event in events}
    assert [e.stamp_ns for e in events] == sorted(e.stamp_ns for e in events)
    assert len({(e.source, e.stamp_ns) for e in events}) == len(events) == 8 * 7 - 1
    pictures = [e.value for e in events if e.source == "camera/cam_high"]
    assert pictures == [o.pictures[0] for i, o in enumerate(observations[:8]) if i != 3]


def test_leader_and_command_of_one_topic_are_one_message(maker, episode):
    observations = maker.observations(8, leader=True)  # the simulated robot's leader topics are its command topics
    for i, o in enumerate(observations[1:], 1):  # a command is the leader's message of the tick before
        observations[i] = dataclasses.replace(o, command=observations[i - 1].leader)
    path, _ = episode(observations)
    with Playback(path, maker.robot) as playback:
        sent = [(e.topic, e.stamp_ns) for e in playback.events() if e.topic == "master/joint_left"]
    assert len(sent) == len(set(sent)) == 8  # one before the first tick, one for each of seven steps


@pytest.mark.parametrize("skew_ns", [0, SKEW_NS])
def test_due_ticks_are_those_that_the_synchroniser_emits(maker, episode, skew_ns):
    observations = maker.observations(30, skew_ns=skew_ns)
    del observations[11:14]
    path, _ = episode(observations)
    with EpisodeReader(path) as reader:
        recorded = list(reader.ticks)
    due = DueTicks(maker.robot, 50.0)
    with Playback(path, maker.robot) as playback:
        events = list(playback.events())
    ticks = [tick for event in events for tick in due.put(event)]
    assert ticks == [o.stamp_ns for o in synchronised(maker.robot, events, lockstep=True)]
    assert set(recorded[1 if skew_ns else 0 :]) <= set(ticks)


def test_a_loop_goes_on_in_time(maker, episode):
    path, _ = episode(maker.observations(6, skew_ns=SKEW_NS))
    with Playback(path, maker.robot) as playback:
        once = list(playback.events())
        looped = playback.events(loop=True)
        again = [next(looped) for _ in range(3 * len(once))]
    assert [e.stamp_ns for e in again] == sorted(e.stamp_ns for e in again)
    shift_ns = again[len(once)].stamp_ns - once[0].stamp_ns
    assert shift_ns % maker.period_ns == 0 and shift_ns >= 4 * maker.period_ns
    for first, second in zip(once, again[len(once) : 2 * len(once)], strict=True):
        assert (second.stamp_ns, second.topic) == (first.stamp_ns + shift_ns, first.topic)
        assert second.value.stamp_ns == second.stamp_ns


def test_an_episode_of_another_robot_is_refused(maker, episode):
    path, _ = episode(maker.observations(4))
    with pytest.raises(InputError, match="e.hdf5: expected an episode of robot agilex, found sim_aloha"):
        Playback(path, load_robot("agilex"))
