"""The verdict is told when it changes, and now and then."""

from __future__ import annotations

import dataclasses

from rdt_ros.sim.bulletin import Bulletin
from rdt_ros.sim.task import Outcome

TICK_NS = 10_000_000
START = Outcome(False, False, 0.0, "never touched", False)


def told(*outcomes: Outcome) -> list[int]:
    """Which of a task's outcomes, one a tick, are told; nothing happens in the other task."""
    bulletin = Bulletin()
    return [
        i
        for i, outcome in enumerate(outcomes)
        if bulletin.has_news(7_000_000 + i * TICK_NS, 3, {"hand_over": START, "lift": outcome})
    ]


def test_what_does_not_change_is_told_twice_a_second():
    assert told(*[START] * 120) == [0, 50, 100]


def test_time_that_passes_while_it_is_held_is_no_news():
    assert told(*[dataclasses.replace(START, held_s=i * 0.01) for i in range(60)]) == [0, 50]


def test_a_change_is_told_at_once_and_the_next_half_a_second_later():
    touched = dataclasses.replace(START, stage="touched")
    success = dataclasses.replace(touched, success=True, ever_success=True, stage="success", held_s=0.5)
    lost = dataclasses.replace(success, success=False, held_s=0.0)
    dropped = dataclasses.replace(lost, dropped=True)
    assert told(*[START] * 7, *[touched] * 60, *[success] * 55, lost, *[dropped] * 2) == [0, 7, 57, 67, 117, 122, 123]


def test_another_scene_is_news():
    bulletin = Bulletin()
    calls = ((1, 3), (2, 3), (3, 4), (4, 4))
    assert [bulletin.has_news(ns, seed, {"lift": START}) for ns, seed in calls] == [True, False, True, False]
