"""Joints: what is found where, and what is no fault."""

from __future__ import annotations

import numpy as np
import pytest


def _of(verdict, kind: str):
    return [item for item in verdict.findings if item.kind == kind]


def test_a_jump_says_where_and_how_far(clean, judged):
    take = clean.copy()
    take.measured[70:, 2] -= 0.6
    found = _of(judged(take), "jump")
    assert [(item.subject, item.step, item.severity) for item in found] == [("measured: left_joint2", 70, "error")]
    assert float(found[0].found.split()[0]) == pytest.approx(-0.6, abs=0.1)
    assert found[0].time_s == pytest.approx(70 / 25)


def test_the_distance_across_a_gap_is_no_jump(clean, judged):
    take = clean.copy()
    take.measured[:, 2] += np.linspace(0, 0.2 * 25 / 25, len(take.ticks))
    take.keep(np.delete(np.arange(len(take.ticks)), np.arange(60, 72)))
    verdict = judged(take)
    assert _of(verdict, "gaps") and not _of(verdict, "jump")


def test_squeezing_an_object_is_no_offset(clean, judged):
    take = clean.copy()
    for gripper in np.flatnonzero(take.robot.is_gripper):
        take.measured[:, gripper], take.action[:, gripper] = 0.4, -0.03
    assert not _of(judged(take), "leader_offset")


def test_an_offset_while_something_is_in_the_way_is_no_offset(clean, judged):
    take = clean.copy()
    standing = np.arange(len(take.ticks)) > 0.7 * len(take.ticks)
    take.measured[:] = take.action  # a stiff follower that stands a lot
    take.measured[:, 1] = take.action[:, 1] = 1.0 + 0.001 * np.sin(np.arange(len(take.ticks)))
    take.action[standing, 1] += 0.2
    assert not _of(judged(take), "leader_offset")
    take.action[~standing, 1] += 0.2
    assert [item.subject for item in _of(judged(take), "leader_offset")] == ["left_joint1"]


def test_a_closed_gripper_is_not_in_metres(clean, judged):
    take = clean.copy()
    for values in (take.measured, take.action):
        values[:, take.robot.is_gripper] = np.random.default_rng(3).normal(0.01, 0.001, (len(take.ticks), 2))
    assert not _of(judged(take), "gripper_units")


def test_a_leader_beyond_the_limits_is_a_warning_a_follower_an_error(clean, judged):
    take = clean.copy()
    upper = take.robot.joints[3].upper
    take.action[:, 3] += upper + 0.1 - take.action[:, 3].max()
    found = _of(judged(take), "limits")
    assert [(item.subject, item.severity) for item in found] == [("action: left_joint3", "warning")]
    take.measured[:, 3] = take.action[:, 3]
    found = _of(judged(take), "limits")
    assert ("measured: left_joint3", "error") in [(item.subject, item.severity) for item in found]


def test_standing_ends_are_named_with_their_time(clean, judged):
    take = clean.copy()
    steps = len(take.ticks)
    take.measured[:] = take.measured[0]
    take.measured[:, 1] += 0.3 * np.clip((np.arange(steps) - 60) / 20, 0, 1)  # moves from step 60 to step 80
    verdict = judged(take)
    (head,), (tail,) = _of(verdict, "still_head"), _of(verdict, "still_tail")
    assert (head.severity, head.step, head.found) == ("warning", 0, "all joints stand for 2.5 s")
    assert tail.severity == "warning" and tail.time_s == pytest.approx(79 / 25, abs=0.1)


def test_an_episode_without_a_step_is_judged(clean, judged):
    take = clean.copy()
    take.keep(np.arange(1))
    assert {item.kind for item in judged(take).findings} == {"too_short"}
