"""The action of a step: its tick, what is left out, what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.episodes.recording import Recording
from rdt_ros.errors import InputError
from rdt_ros.types import Observation

PERIOD_NS = 40_000_000


def observation(tick: int, leader: bool = False, command: bool = False) -> Observation:
    """Whose leader and command say which tick they are of."""
    return Observation(
        tick * PERIOD_NS,
        "r",
        (),
        ("j",),
        np.zeros(1, np.float32),
        leader=np.array([tick], np.float32) if leader else None,
        command=np.array([tick - 1], np.float32) if command else None,
    )


def run(recording: Recording, observations) -> dict[int, float]:
    """Tick of each step -> tick that its action is of."""
    steps = [step for o in observations for step in recording.add(o)]
    return {step.observation.stamp_ns // PERIOD_NS: float(step.action[0]) for step in steps}


def test_leader_one_tick_later():
    recording = Recording(PERIOD_NS, 1)
    assert run(recording, [observation(t, leader=True) for t in range(5, 9)]) == {5: 6, 6: 7, 7: 8}
    assert (recording.source, recording.waiting, recording.lost, recording.stored) == ("leader", 1, 0, 3)
    assert recording.seconds == pytest.approx(0.08)


def test_command_of_the_observation_two_ticks_later():
    recording = Recording(PERIOD_NS, 1)
    assert run(recording, [observation(t, command=True) for t in range(5, 9)]) == {5: 6, 6: 7}
    assert (recording.source, recording.waiting) == ("command", 2)


def test_nothing_is_stored_before_the_first_command():
    recording = Recording(PERIOD_NS, 1)
    late = [observation(t, command=t >= 10) for t in range(5, 14)]
    assert run(recording, late) == {8: 9, 9: 10, 10: 11, 11: 12}
    assert recording.lost == 0


def test_leader_goes_before_command_and_a_set_source_before_both():
    both = [observation(t, leader=True, command=True) for t in range(4)]
    auto, command = Recording(PERIOD_NS, 1), Recording(PERIOD_NS, 1, "command")
    run(auto, both), run(command, both)
    assert (auto.source, command.source) == ("leader", "command")


def test_an_observation_that_is_not_newer_is_refused():
    recording = Recording(PERIOD_NS, 1)
    ticks = [5, 6, 6, 4, 7]
    assert run(recording, [observation(t, leader=True) for t in ticks]) == {5: 6, 6: 7}
    assert recording.refused == 2


def test_an_unknown_source_is_refused():
    with pytest.raises(InputError, match="expected one of auto, leader, command, found 'leadr'"):
        Recording(PERIOD_NS, 1, "leadr")


@given(
    ticks=st.sets(st.integers(0, 40), min_size=1),
    silent=st.sets(st.integers(0, 40)),
    offset=st.integers(0, 3),
    source=st.sampled_from(["leader", "command"]),
)
def test_every_step_whose_action_came_is_stored_with_it(ticks, silent, offset, source):
    recording = Recording(PERIOD_NS, offset, source)
    sent = [observation(t, leader=t not in silent, command=t not in silent) for t in sorted(ticks)]
    carrier = offset + (source == "command")  # how many ticks later the action is heard
    expected = {t: t + offset for t in ticks if t + carrier in ticks and t + carrier not in silent}
    assert run(recording, sent) == expected
    assert recording.stored == len(expected)
    assert recording.lost == (max(expected) - min(expected) + 1 - len(expected) if expected else 0)
    assert recording.waiting <= carrier + 1
