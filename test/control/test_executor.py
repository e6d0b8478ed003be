from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rdt_ros.control.executor import Executor, ExecutorConfig
from rdt_ros.control.states import State
from rdt_ros.errors import InputError
from rdt_ros.types import NS_PER_S

_spec = importlib.util.spec_from_file_location("control_rig", Path(__file__).with_name("conftest.py"))
assert _spec is not None and _spec.loader is not None
_rig = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rig)
Rig = _rig.Rig

P = 40_000_000  # the control period in ns
SHOULDER, GRIPPER, ELBOW = range(3)


def gentle(count: int = 30, step: float = 0.01) -> np.ndarray:
    """Rows from the zero pose on, well inside the limits."""
    k = np.arange(1, count + 1)[:, None]
    return np.hstack([step * k, 0.5 + 0 * k, -step * k])


# What is sent before there is anything to follow


def test_sends_nothing_before_enable_and_before_the_first_chunk(make_rig, toy):
    executor = Executor(toy, ExecutorConfig(robot="toy"), lambda: 0)
    assert executor.tick(P) is None
    rig = make_rig()
    assert rig.executor.state == State.HOLDING
    assert rig.tick(3) == [None] * 3


def test_chunks_are_refused_before_enable(make_rig):
    rig = make_rig()
    rig.executor.disable()
    assert rig.offer(gentle()) == "not following: the executor is inactive"
    assert rig.executor.status().refused == {"not following": 1}


def test_the_first_command_starts_arms_at_the_measured_pose_and_grippers_at_the_first_row(make_rig):
    rig = make_rig(pose=(0.4, 0.77, -0.2))
    rig.offer(np.tile([0.4, 0.1, -0.2], (10, 1)))
    first = rig.tick()[0]
    assert first == pytest.approx([0.4, 0.1, -0.2])


def test_a_gripper_with_a_last_command_stays_there_after_a_new_enable(make_rig):
    rig = make_rig()
    rig.offer(np.tile([0.0, 0.2, 0.0], (3, 1)))
    rig.run_until(State.HOLDING)
    rig.executor.disable()
    rig.tick(2)
    rig.pose = np.array([0.5, 0.9, 0.3])  # somebody moved the arms, and the gripper holds something wide
    rig.measure()
    assert rig.enable() is None
    rig.offer(np.tile([0.5, 0.2, 0.3], (3, 1)))
    assert rig.tick()[0] == pytest.approx([0.5, 0.2, 0.3])


def test_in_lockstep_a_disabled_executor_forgets_its_grippers_for_the_scene_may_be_another(make_rig):
    rig = make_rig(lockstep=True)
    rig.offer(np.tile([0.0, 0.2, 0.0], (3, 1)))
    assert rig.tick(2)[-1] == pytest.approx([0.0, 0.2, 0.0])
    rig.executor.disable()
    rig.tick(2)
    rig.measure()
    assert rig.enable() is None
    rig.offer(np.tile([0.0, 0.9, 0.0], (3, 1)))
    assert rig.tick()[0] == pytest.approx([0.0, 0.9, 0.0])


# Following


def test_a_plan_inside_the_limits_is_sent_row_by_row_from_its_first_row(make_rig):
    rig = make_rig()
    rows = gentle()
    assert rig.offer(rows) is None
    sent = rig.run_until(State.HOLDING)
    assert sent[: len(rows)] == pytest.approx(rows, abs=1e-6)
    assert rig.executor.take_limited() == {}


def test_plan_time_stands_while_the_policy_thinks(make_rig):
    rig = make_rig()
    chunk = rig.chunk(gentle())
    rig.tick(20)  # 0.8 s of inference from standstill
    assert rig.executor.offer(chunk, rig.now_ns) is None
    assert rig.tick()[0] == pytest.approx(gentle()[0])


def test_delay_is_counted_in_rows_executed(make_rig):
    rig = make_rig()
    rig.offer(gentle(40))
    rig.tick(10)
    seen = rig.chunk(gentle(60)[10:])  # planned when row 9 had just been sent
    rig.tick(5)
    rig.executor.offer(seen, rig.now_ns)
    assert rig.tick()[0] == pytest.approx(gentle(40)[15], abs=1e-6)
    assert rig.executor.status().chunk_id == 2


def test_at_a_higher_command_rate_rows_are_met_in_time(make_rig):
    rig = make_rig(command_rate_hz=200)
    rows = gentle()
    rig.offer(rows)
    sent = np.array(rig.tick(8 * 25))
    # from rest to 0.25 rad/s takes 25 ms at 10 rad/s^2, so plan time starts half of that behind
    assert np.abs(sent[7::8] - rows[:25])[:, [SHOULDER, ELBOW]].max() < 0.25 * 0.02
    assert np.abs(np.diff(sent, axis=0)).max() * 200 <= 0.26


def test_holds_its_last_command_when_the_chunk_runs_out_and_resumes(make_rig):
    rig = make_rig()
    rig.offer(gentle(5))
    last = rig.run_until(State.HOLDING)[-1]
    assert last == pytest.approx(gentle(5)[-1], abs=1e-6)
    rig.pose = last + [0.01, 0.0, -0.01]  # sagging under gravity
    assert np.array(rig.tick(20)) == pytest.approx(np.tile(last, (20, 1)))
    assert rig.offer(last + gentle(5) - [0, 0.5, 0]) is None
    assert rig.tick()[0] == pytest.approx(last + [0.01, 0, -0.01], abs=1e-6)
    assert rig.executor.state == State.RUNNING


def test_a_hold_of_over_a_second_needs_enable_again(make_rig):
    rig = make_rig()
    rig.offer(gentle(5))
    last = rig.run_until(State.HOLDING)[-1]
    epoch = rig.executor.epoch
    assert np.array(rig.tick(30)) == pytest.approx(np.tile(last, (30, 1)))
    assert rig.executor.state == State.HOLDING
    refusal = "not following: the plan has ended, no fresh chunk for too long: ~/enable is needed"
    assert rig.offer(gentle()) == refusal and rig.executor.status().reason in refusal
    assert rig.executor.home() == rig.executor.status().reason
    assert rig.tick()[0] == pytest.approx(last)
    assert rig.enable() is None and rig.executor.epoch == epoch + 1
    assert rig.offer(last + gentle(5) - [0, 0.5, 0]) is None
    assert rig.tick()[0] == pytest.approx(last + [0.01, 0, -0.01], abs=1e-6)


def test_the_first_chunk_after_enable_may_take_a_while_but_not_for_ever(make_rig):
    rig = make_rig()
    rig.tick(240)
    assert rig.offer(gentle()) is None
    assert rig.tick()[0] == pytest.approx(gentle()[0])
    rig = make_rig()
    rig.tick(260)
    assert rig.offer(gentle()) == "not following: enabled, no chunk yet for too long: ~/enable is needed"
    assert rig.enable() is None and rig.offer(gentle()) is None


def test_goes_to_the_first_row_slowly(make_rig):
    rig = make_rig(command_rate_hz=200)
    rig.offer(gentle() + [0.5, 0, 0])
    sent = np.array(rig.tick(500))
    speed = np.abs(np.diff(sent[:, SHOULDER])) * 200
    ramp = sent[1:, SHOULDER] < 0.45
    assert speed[ramp].max() == pytest.approx(0.25, abs=1e-5) and np.count_nonzero(ramp) > 300
    # a newer chunk does not make it faster
    rig = make_rig(command_rate_hz=200)
    for _ in range(5):
        rig.offer(gentle() + [0.5, 0, 0])
        assert np.abs(np.diff(np.array(rig.tick(40))[:, SHOULDER])).max() * 200 <= 0.25 + 1e-5


# Joining


def disagreeing(rig) -> np.ndarray:
    """Commands (N, 3) while a chunk that disagrees a little arrives in the middle of another."""
    rig.offer(gentle(40))
    sent = rig.tick(80)
    rig.offer(gentle(60)[10:] + [0.02, 0.05, 0])
    return np.array(sent + list(rig.run_until(State.HOLDING)))


def test_crossfade_leads_over_without_a_step_and_exempts_grippers(make_rig):
    faded = disagreeing(make_rig(joining="crossfade", crossfade_s=0.4, command_rate_hz=200))
    switched = disagreeing(make_rig(joining="switch", command_rate_hz=200))
    for sent in (faded, switched):
        assert sent[-1] == pytest.approx(gentle(60)[-1] + [0.02, 0.05, 0], abs=1e-5)
    step, jump = (np.abs(np.diff(sent[:, SHOULDER])).max() * 200 for sent in (faded, switched))
    assert jump > 0.6 and step < 0.25 + 1.875 / 0.4 * 0.02 + 0.02  # the fade's highest speed
    assert faded[95:, GRIPPER] == pytest.approx(0.55, abs=1e-6)  # at once
    assert (np.diff(faded[:, GRIPPER]) >= -1e-9).all()  # and not beyond


def test_a_fade_ends_though_new_chunks_keep_coming(make_rig):
    rig = make_rig(joining="crossfade", crossfade_s=0.4)
    rig.offer(gentle(60))
    sent = rig.tick(10)
    for k in range(10, 40):
        assert rig.offer(gentle(60)[k:] + [0.05, 0, 0]) is None
        sent += rig.tick()
    off = np.array(sent)[10:, SHOULDER] - gentle(60)[10:40, SHOULDER] - 0.05
    assert np.abs(off[12:]).max() < 0.1 * 0.05 and off.max() < 0.05 * 0.05


def test_crossfade_begins_where_the_older_chunk_leads_when_the_newer_one_begins_later(make_rig):
    rig = make_rig(joining="crossfade", crossfade_s=0.4)
    rig.offer(gentle(40))
    rig.tick(10)
    rig.offer(gentle(60)[14:] + [0.05, 0, 0], offset_steps=5)
    sent = np.array(rig.tick(5))
    assert sent[:, SHOULDER] == pytest.approx(gentle(40)[10:15, SHOULDER], abs=1e-3)


def test_from_standstill_nothing_is_faded(make_rig):
    rig = make_rig(joining="crossfade")
    rig.offer(gentle() + [0.02, 0, 0])
    sent = rig.run_until(State.HOLDING)
    assert sent[-1] == pytest.approx(gentle()[-1] + [0.02, 0, 0], abs=1e-5)


def test_a_chunk_without_rows_changes_nothing(make_rig):
    rig = make_rig()
    rig.offer(gentle())
    rig.tick(3)
    assert rig.offer(np.zeros((0, 3))) is None
    assert rig.tick()[0] == pytest.approx(gentle()[3], abs=1e-6)
    assert rig.executor.status().chunk_id == 1


def test_a_jump_becomes_a_straight_ramp_at_the_limits(make_rig):
    rig = make_rig(command_rate_hz=200, start_velocity_scale=1.0)
    goal = np.array([1.0, 0.5, -0.5])
    rig.offer(np.tile(goal, (64, 1)))
    sent = np.array(rig.tick(260))
    assert np.abs(np.diff(sent[:, SHOULDER])).max() * 200 == pytest.approx(1.0)
    assert sent[:, ELBOW] == pytest.approx(-0.5 * sent[:, SHOULDER], abs=1e-3)
    arrived = np.argmax(np.abs(sent - goal).max(axis=1) < 1e-3) / 200
    assert arrived <= 1.1 * (1.0 / 1.0 + 1.0 / 10)  # trapezoid: way / v + v / a
    assert sent[:, SHOULDER].max() < 1.002
    limited = rig.executor.take_limited()
    assert limited["shoulder", "velocity"] > 0 and ("shoulder", "acceleration") in limited
    assert rig.executor.take_limited() == {}


def test_too_fast_a_plan_is_slowed_along_its_path(make_rig):
    rig = make_rig()
    angle = np.linspace(0, np.pi, 33)[1:, None]  # a half circle in 1.3 s; 2.4 rad/s at the shoulder
    circle = np.hstack([0.5 - 0.5 * np.cos(angle), 0.5 + 0 * angle, 0.5 * np.sin(angle)])
    circle = np.vstack([circle, np.tile(circle[-1], (20, 1))])
    rig.offer(circle)
    sent = rig.run_until(State.HOLDING)
    radius = np.hypot(sent[:, SHOULDER] - 0.5, sent[:, ELBOW])
    assert np.abs(radius - 0.5).max() < 0.02
    assert sent[-1] == pytest.approx(circle[-1], abs=1e-5)
    assert ("shoulder", "velocity") in rig.executor.take_limited()


def test_rows_outside_the_position_limits_are_cut_off_and_named(make_rig):
    rig = make_rig()
    rig.offer(np.tile([0.0, 0.5, 2.25], (200, 1)))
    sent = rig.run_until(State.HOLDING)
    assert sent[-1] == pytest.approx([0, 0.5, 2.0], abs=1e-6) and sent.max() <= 2.0 + 1e-9
    assert rig.executor.take_limited()["elbow", "position"] == pytest.approx(0.25)


def test_an_older_chunk_never_replaces_a_newer_one(make_rig):
    rig = make_rig()
    early = rig.chunk(gentle())
    rig.tick(2)
    assert rig.offer(gentle()) is None
    assert rig.executor.offer(early, rig.now_ns).startswith("overtaken")


def test_status_tells_the_rows_to_come(make_rig):
    rig = make_rig()
    rig.offer(gentle(10))
    assert len(rig.executor.status().rows) == 0
    rig.tick(4)
    status = rig.executor.status()
    assert status.rows == pytest.approx(gentle(10)[4:], abs=1e-6)
    assert status.rows_stamp_ns == rig.now_ns + P and status.stamp_ns == rig.now_ns


# Epochs


def test_every_start_is_a_new_epoch_and_older_chunks_are_refused(make_rig):
    rig = make_rig()
    assert rig.executor.epoch == 1
    old = rig.chunk(gentle())
    rig.executor.disable()
    rig.enable()
    assert rig.executor.epoch == 2
    assert rig.executor.offer(old, rig.now_ns) == "another epoch: expected 2, found 1"
    assert rig.enable() is None and rig.executor.epoch == 2  # enabled already


# Stopping


def move_at_speed(rig) -> None:
    """Shoulder and elbow at 0.9 rad/s."""
    k = np.arange(1, 60)[:, None]
    way = 0.036 * (k - 4 * (1 - np.exp(-k / 4)))
    rig.offer(np.hstack([way, 0.5 + 0 * k, -way]))
    ticks = round(0.8 / rig.tick_s)
    rig.tick(ticks)


@pytest.mark.parametrize("rate_hz", [25, 200])
def test_a_software_stop_brakes_from_the_next_tick_within_its_distance(make_rig, rate_hz):
    rig = make_rig(command_rate_hz=rate_hz)
    move_at_speed(rig)
    before = np.array(rig.tick(2))
    velocity = (before[1] - before[0]) / rig.tick_s
    rig.executor.software_stop()
    sent = np.vstack([before[1], rig.tick(round(0.5 / rig.tick_s))])
    speeds = np.diff(sent, axis=0)[:, SHOULDER] / rig.tick_s
    assert velocity[SHOULDER] > 0.7
    assert speeds[0] == pytest.approx(velocity[SHOULDER] - 8.0 * rig.tick_s)  # the robot file's stop deceleration
    assert (sent[-1] - sent[0])[SHOULDER] <= velocity[SHOULDER] ** 2 / (2 * 8.0)
    assert np.count_nonzero(speeds) <= np.ceil(velocity[SHOULDER] / 8.0 / rig.tick_s)
    assert np.abs(sent[:, SHOULDER] + sent[:, ELBOW] - (sent[0, SHOULDER] + sent[0, ELBOW])).max() < 1e-3


def test_a_software_stop_latches(make_rig):
    rig = make_rig()
    rig.offer(gentle(60))
    rig.tick(10)
    rig.executor.software_stop()
    assert rig.executor.reset_stop() == "the arms are still being braked"
    held = rig.tick(20)[-1]
    assert rig.offer(gentle()).startswith("not following") and rig.enable() == "stopped: software stop"
    assert rig.executor.home() is not None and rig.executor.disable() is not None
    assert np.array(rig.tick(20)) == pytest.approx(np.tile(held, (20, 1)))
    assert rig.executor.reset_stop() is None
    assert rig.executor.state == State.INACTIVE and rig.tick(5) == [None] * 5
    assert rig.enable() is None


def test_the_deadman_switch_must_be_held(make_rig, toy):
    rig = Rig(toy, (0.0, 0.77, 0.0), require_deadman=True, deadman_timeout_s=0.2)
    assert rig.enable() == "the dead-man switch is not held"
    rig.executor.deadman(True)
    assert rig.enable() is None
    rig.offer(gentle())
    for _ in range(4):
        rig.executor.deadman(True)
        rig.tick(3)
    assert rig.executor.state == State.RUNNING
    rig.tick(8)  # nobody says it any more
    assert (rig.executor.state, rig.executor.status().reason) == (State.FAULT, "the dead-man switch is not held")
    rig.executor.deadman(True)
    assert np.ptp(np.array(rig.tick(3)), axis=0).max() < 1e-9  # pressing it again moves nothing
    assert rig.enable() is None
    rig.offer(gentle())
    rig.tick(2)
    rig.executor.deadman(False)
    rig.tick()
    assert rig.executor.state == State.FAULT


def test_a_dry_run_is_not_a_following_error(make_rig):
    rig = make_rig(dry_run=True, max_following_error=0.05)
    rig.offer(gentle(60))
    for _ in range(30):
        assert rig.tick()[0] is not None
        rig.pose = np.array([0.0, 0.77, 0.0])  # the arms stay
    assert rig.executor.state == State.RUNNING


def test_a_stop_before_enable_keeps_it_from_being_enabled(make_rig):
    rig = make_rig()
    rig.executor.disable()
    rig.executor.software_stop()
    assert rig.tick(3) == [None] * 3 and rig.enable() == "stopped: software stop"


def test_a_chunk_that_waits_for_its_tick_dies_with_the_stop(make_rig):
    rig = make_rig()
    rig.offer(gentle())
    rig.executor.software_stop()
    assert np.array(rig.tick(10)) == pytest.approx(np.tile([0, 0.5, 0], (10, 1)))


def test_disable_brakes_and_then_is_silent(make_rig):
    rig = make_rig()
    move_at_speed(rig)
    assert rig.executor.disable() is None
    sent = rig.tick(20)
    count = sum(position is not None for position in sent)
    assert 2 <= count <= 5 and all(position is None for position in sent[count:])


# Faults


def test_stale_joints_brake_and_are_named(make_rig):
    rig = make_rig()
    move_at_speed(rig)
    rig.sensors_alive = False
    rig.tick(5)
    assert rig.executor.state == State.RUNNING
    held = rig.tick(10)
    assert rig.executor.state == State.FAULT
    assert rig.executor.status().reason == "joints of left on left/measured are 0.24 s old"
    assert held[-1] == pytest.approx(held[-2])
    assert rig.enable() == "joints of left on left/measured are 0.60 s old"
    rig.sensors_alive = True
    rig.tick()
    assert rig.enable() is None and rig.executor.epoch == 2


def test_enable_needs_every_group(toy):
    executor = Executor(toy, ExecutorConfig(robot="toy"), lambda: 0)
    assert executor.enable(P) == "no joints of left on left/measured"


def test_an_arm_that_does_not_follow_is_a_fault(make_rig):
    rig = make_rig(max_following_error=0.1)
    rig.offer(gentle(60))
    for _ in range(20):
        rig.tick()
        rig.pose = np.zeros(3)
        rig.measure()
    assert rig.executor.state == State.FAULT
    assert rig.executor.status().reason == "shoulder is 0.15 rad away from its command"


def test_somebody_else_on_the_command_topic(make_rig):
    rig = make_rig()
    move_at_speed(rig)
    rig.executor.intrusion("/left/command is also published by teleop")
    assert rig.executor.state == State.FAULT
    sent = rig.tick(20)
    assert sent[0] is not None and sent[-1] is None  # brakes, then leaves the topic to the other
    assert rig.enable() == "/left/command is also published by teleop"
    rig.executor.intrusion("")
    assert rig.enable() is None


def test_a_stopped_executor_leaves_the_topic_to_somebody_else_too(make_rig):
    rig = make_rig()
    rig.offer(gentle())
    rig.tick(5)
    rig.executor.software_stop()
    assert rig.tick(20)[-1] is not None
    rig.executor.intrusion("/left/command is also published by teleop")
    assert rig.tick(3) == [None] * 3 and rig.executor.state == State.STOPPED


def test_time_going_back_is_a_fault(make_rig):
    rig = make_rig()
    rig.offer(gentle(60))
    rig.tick(10)
    rig.now_ns -= 5 * NS_PER_S
    rig.tick()
    assert rig.executor.status().reason == "ROS time went back by 4.960 s"
    rig.tick(10)
    assert rig.enable() is None and rig.offer(gentle()) is None and rig.tick()[0] is not None


# Home


def test_home_goes_through_all_poses_at_reduced_speed_and_begins_an_epoch(make_rig, toy):
    rig = make_rig(pose=(-0.4, 0.77, 0.0), home_velocity_scale=0.5)
    assert rig.executor.home() is None
    assert rig.offer(gentle()) == "not following: the executor is homing"
    sent = rig.run_until(State.HOLDING)
    assert sent[0][:2] == pytest.approx([-0.4, 0.5], abs=0.02)
    assert np.abs(sent[:, [SHOULDER, ELBOW]]).max(axis=0) == pytest.approx([0.4, 0.3], abs=0.02)
    assert np.abs(sent - toy.home[0]).max(axis=1).min() < 0.03
    assert sent[-1] == pytest.approx(toy.home[-1], abs=1e-5)
    assert np.abs(np.diff(sent[:, SHOULDER])).max() / rig.tick_s <= 0.5 * 1.6  # a cubic is faster in its middle
    assert rig.executor.epoch == 2 and rig.executor.status().reason == "at home, no chunk yet"


def test_home_needs_enable(make_rig):
    rig = make_rig()
    rig.executor.disable()
    assert rig.executor.home() == "inactive: disabled"


# Lock-step


def test_lockstep_answers_a_tick_after_its_observation_was_answered(make_rig):
    rig = make_rig(lockstep=True)
    tick_ns = rig.now_ns  # the simulator stands at the moment of enable
    assert not rig.executor.ready(tick_ns)
    rig.offer(gentle())
    assert rig.executor.ready(tick_ns)
    held = rig.executor.tick(tick_ns)
    assert held.position == pytest.approx([0, 0.5, 0])  # row 0 is due a period after its Observation
    assert not rig.executor.ready(tick_ns + P)
    rig.now_ns += P
    assert rig.offer(np.zeros((0, 3))) is None  # the plan stands
    assert rig.executor.ready(tick_ns + P)
    assert rig.executor.tick(tick_ns + P).position == pytest.approx(gentle()[0], abs=1e-6)


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_lockstep_latency_shows_in_the_row_that_is_executed(make_rig, latency):
    """Every Observation gets a plan whose rows tell when it was made."""
    rig = make_rig(lockstep=True, latency_ticks=latency, joining="switch")
    tick_ns = rig.now_ns
    made = []
    for k in range(20):
        rows = np.zeros((30, 3))
        rows[:, ELBOW] = (100 * k + np.arange(30)) * 1e-5  # which Observation, which row
        rig.now_ns = tick_ns
        rig.measure()
        assert rig.offer(rows) is None
        assert rig.executor.ready(tick_ns)
        made.append(divmod(round(rig.executor.tick(tick_ns).position[ELBOW] * 1e5), 100))
        tick_ns += P
    # tick k executes row `latency` of the Observation of tick k - 1 - latency
    assert made[latency + 5 :] == [(k - 1 - latency, latency) for k in range(latency + 5, 20)]


def test_lockstep_with_latency_waits_only_for_the_present_epoch(make_rig):
    rig = make_rig(lockstep=True, latency_ticks=2)
    first_ns = rig.now_ns
    rig.offer(gentle())
    for k in range(3):
        assert rig.executor.ready(first_ns + k * P), k
        rig.now_ns = first_ns + k * P
        rig.executor.tick(rig.now_ns)
    assert not rig.executor.ready(first_ns + 3 * P)


def test_lockstep_needs_no_policy_to_go_home_or_to_stop(make_rig):
    rig = make_rig(lockstep=True)
    rig.executor.home()
    assert rig.executor.ready(rig.now_ns)
    rig.run_until(State.HOLDING)
    assert not rig.executor.ready(rig.now_ns + P)
    rig.executor.software_stop()
    assert rig.executor.ready(rig.now_ns + P)


def test_lockstep_counts_the_age_of_joints_in_ros_time(make_rig):
    rig = make_rig(lockstep=True)
    rig.offer(gentle())
    rig.steady_ns += 60 * NS_PER_S  # a slow policy while the simulator stands
    rig.executor.tick(rig.now_ns)
    assert rig.executor.state == State.HOLDING


def test_lockstep_cannot_run_dry(toy):
    with pytest.raises(InputError, match="dry_run: expected false in lock-step"):
        Executor(toy, ExecutorConfig(robot="toy", lockstep=True, dry_run=True), lambda: 0)


def test_lockstep_has_one_rate(toy):
    with pytest.raises(InputError, match="executor.command_rate_hz: expected 0 or 25 Hz in lock-step, found 100"):
        Executor(toy, ExecutorConfig(robot="toy", lockstep=True, command_rate_hz=100.0), lambda: 0)
