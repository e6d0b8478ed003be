from collections import defaultdict
from itertools import takewhile

import numpy as np
import pytest

from rdt_ros.sim.schedule import STEP_NS, send_times
from rdt_ros.types import NS_PER_S

START_NS = 40_000_000
CAMERAS = {"high": 30.0, "left": 30.0, "right": 30.0}


@pytest.fixture
def two_seconds():
    events = send_times(100.0, CAMERAS, START_NS)
    return list(takewhile(lambda event: event[0] < START_NS + 2 * NS_PER_S, events))


def test_everything_comes_at_its_rate_and_in_order(two_seconds):
    times = [time for time, _ in two_seconds]
    assert times == sorted(times)
    by_source = defaultdict(list)
    for time, source in two_seconds:
        by_source[source].append(time)
    assert {source: len(values) for source, values in by_source.items()} == {"": 200, **dict.fromkeys(CAMERAS, 60)}
    assert by_source[""][:3] == [START_NS, START_NS + 10_000_000, START_NS + 20_000_000]
    for camera in CAMERAS:
        gaps = np.diff(by_source[camera])
        assert abs(gaps - NS_PER_S / 30).max() <= STEP_NS


def test_no_two_pictures_are_drawn_at_once(two_seconds):
    drawn = [time for time, source in two_seconds if source]
    assert np.diff(drawn).min() >= 10_000_000


def test_times_are_whole_physics_steps(two_seconds):
    assert all((time - START_NS) % STEP_NS == 0 for time, _ in two_seconds)


def test_a_robot_without_cameras_still_sends_joints():
    events = send_times(50.0, {}, 0)
    assert [next(events) for _ in range(3)] == [(0, ""), (20_000_000, ""), (40_000_000, "")]
