"""Rules of time, each by an example; what must hold for any arrival order is in test_synchroniser_properties.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.robot.description import Base, Pose, Robot
from rdt_ros.sensing.health import Level
from rdt_ros.sensing.picture import RawPicture
from rdt_ros.sensing.synchroniser import Event, GivenUp, SyncConfig, Synchroniser
from rdt_ros.types import JointSample, Observation, Picture

MS = 1_000_000
CAMERAS = ("camera/cam_high", "camera/cam_left_wrist", "camera/cam_right_wrist")
ARMS = ("measured/left_arm", "measured/right_arm")
COMMANDS = ("command/left_arm", "command/right_arm")


class Desk:
    """A synchroniser with a clock in ms: what arrives is stamped `stamp` and arrives at `self.now`."""

    def __init__(self, robot: Robot, **config) -> None:
        self.sync = Synchroniser(robot, SyncConfig(**config))
        self.now = 0.0
        self.events: list[Event] = []

    def put(self, name: str, stamp: float, value: object = None) -> None:
        """One sample; a joint sample holds `value` (default: its stamp in ms) in all places."""
        kind = name.split("/")[0]
        payload: object = np.full({"base": 3, "pose": 7}.get(kind, 0), stamp)
        if kind == "camera":
            payload = value or Picture(name.split("/")[1], round(stamp * MS), f"{name} {stamp}".encode())
        elif kind in ("measured", "command", "leader"):
            payload = value or JointSample(round(stamp * MS), np.full(7, float(stamp)))
        self.events += self.sync.put(name, round(stamp * MS), payload, round(self.now * MS))

    def put_all(self, stamp: float, *, without: tuple[str, ...] = ()) -> None:
        for name in (*CAMERAS, *ARMS):
            if name not in without:
                self.put(name, stamp)

    def wait(self, ms: float) -> None:
        self.now += ms
        self.events += self.sync.poll(round(self.now * MS))

    @property
    def status(self):
        return self.sync.status(round(self.now * MS))

    @property
    def ticks(self) -> list[float]:
        return [e.stamp_ns / MS for e in self.events if isinstance(e, Observation)]

    @property
    def given_up(self) -> list[GivenUp]:
        return [e for e in self.events if isinstance(e, GivenUp)]

    @property
    def last(self) -> Observation:
        return next(e for e in reversed(self.events) if isinstance(e, Observation))


@pytest.fixture
def desk(robot: Robot) -> Desk:
    return Desk(robot)


def test_a_set_is_out_with_its_last_sample_and_holds_the_first_at_or_after_the_tick(desk: Desk) -> None:
    for camera in CAMERAS:
        for stamp in (35, 68, 101):
            desk.put(camera, stamp)
    for stamp in (38, 43, 48):
        desk.put(ARMS[0], stamp)
    assert desk.ticks == []
    for stamp in (36, 41, 46):
        desk.put(ARMS[1], stamp)
    assert desk.ticks == [40]
    observation = desk.last
    assert [p.jpeg for p in observation.pictures] == [f"{name} 68".encode() for name in CAMERAS]
    assert observation.measured.dtype == np.float32
    assert observation.measured.tolist() == [43] * 7 + [41] * 7
    assert observation.source_stamps_ns == {**dict.fromkeys(CAMERAS, 68 * MS), ARMS[0]: 43 * MS, ARMS[1]: 41 * MS}
    assert (observation.velocity, observation.leader, observation.command, observation.base) == (None,) * 4


def test_velocity_and_effort_are_joined_where_both_arms_give_them(desk: Desk) -> None:
    for arm, value in zip(ARMS, (1.0, 2.0), strict=True):
        effort = np.full(7, 9.0) if arm == ARMS[0] else None
        desk.put(arm, 0, JointSample(0, np.zeros(7), np.full(7, value), effort))
    desk.put_all(0, without=ARMS)
    assert desk.last.velocity.tolist() == [1] * 7 + [2] * 7
    assert desk.last.effort is None


def test_base_and_poses_belong_to_the_set_where_the_robot_has_them(robot: Robot) -> None:
    desk = Desk(replace(robot, base=Base("odom", None, (1, 1, 1), (0, 0, 0)), poses=(Pose("left", "left/pose", ()),)))
    desk.put_all(40)
    desk.put("base/odometry", 40)
    assert desk.ticks == []
    desk.put("pose/left", 33)
    assert desk.ticks == []
    desk.put("pose/left", 43)
    assert desk.last.base.tolist() == [40] * 3
    assert desk.last.poses["left"].tolist() == [43] * 7


def test_record_mode_needs_the_leader_and_reads_no_commands(robot: Robot) -> None:
    desk = Desk(robot, leader=True)
    assert not set(COMMANDS) & set(desk.sync.sources)
    desk.put_all(40)
    for stamp in (39, 43):
        desk.put("leader/left_arm", stamp)
    assert desk.ticks == []
    for stamp in (38, 44):
        desk.put("leader/right_arm", stamp)
    assert desk.last.leader.tolist() == [43] * 7 + [44] * 7


def test_record_mode_without_a_leader_topic_is_refused(robot: Robot) -> None:
    groups = (replace(robot.groups[0], leader=None), robot.groups[1])
    with pytest.raises(
        InputError, match="robot sim_aloha: expected leader topics of all groups, found none of left_arm"
    ):
        Synchroniser(replace(robot, groups=groups), SyncConfig(leader=True))


def test_nothing_is_given_up_before_every_source_has_appeared(desk: Desk) -> None:
    for stamp in range(0, 4000, 40):
        desk.now = stamp
        desk.put_all(stamp, without=CAMERAS[1:2])
    assert desk.events == []
    assert (desk.status.level, desk.status.message) == (Level.WARN, "waiting for camera/cam_left_wrist")
    desk.put(CAMERAS[1], 3990)
    desk.put_all(4000)
    assert desk.ticks == [4000]
    assert desk.given_up == []


def test_a_sample_beyond_the_skew_gives_the_set_up_at_once(desk: Desk) -> None:
    desk.put_all(0)
    desk.put_all(40, without=CAMERAS[:1])
    desk.put(CAMERAS[0], 101)
    assert desk.given_up == [GivenUp(40 * MS, 1, "late", CAMERAS[:1], 61.0)]
    assert str(desk.given_up[0]) == "the set of tick 0.040 s given up: camera/cam_high late by 61 ms"
    desk.put_all(80, without=CAMERAS[:1])
    assert desk.ticks == [0, 80]
    assert desk.last.picture("cam_high").stamp_ns == 101 * MS
    assert dict(desk.status.reasons) == {"late camera/cam_high": 1}


@pytest.mark.parametrize(("stamp", "ticks"), [(90, [0, 40]), (91, [0])])
def test_the_bound_on_the_skew_is_inclusive(desk: Desk, stamp: float, ticks: list[float]) -> None:
    desk.put_all(0)
    desk.put_all(40, without=CAMERAS[:1])
    desk.put(CAMERAS[0], stamp)
    assert desk.ticks == ticks


def test_a_missing_source_gives_sets_up_after_the_time_out_one_by_one(desk: Desk) -> None:
    desk.put_all(0)
    for stamp in (40, 80):
        desk.now = stamp
        desk.put_all(stamp, without=ARMS[:1])
    desk.wait(259)
    assert desk.given_up == []
    desk.wait(1)
    assert desk.given_up == [GivenUp(40 * MS, 1, "missing", ARMS[:1], 40.0)]
    desk.put(ARMS[0], 80)
    assert desk.ticks == [0, 80]
    assert (desk.status.given_up, dict(desk.status.reasons)) == (1, {"missing measured/left_arm": 1})


def test_a_long_gap_is_one_record(desk: Desk) -> None:
    desk.put_all(0)
    desk.put_all(3_600_000)
    # 3_599_960 takes the samples of 3_600_000 too: they lie within the bound on the skew.
    assert desk.ticks == [0, 3_599_960, 3_600_000]
    assert desk.given_up == [GivenUp(40 * MS, 89_998, "pause", (), 3_599_960.0)]
    assert dict(desk.status.reasons) == {"pause": 89_998}


def test_a_gap_of_one_source_names_it(desk: Desk) -> None:
    for stamp in range(0, 401, 40):
        desk.put_all(stamp, without=CAMERAS[1:2] if 0 < stamp < 400 else ())
    assert desk.given_up == [GivenUp(40 * MS, 8, "late", CAMERAS[1:2], 360.0)]
    assert str(desk.given_up[0]).startswith(
        "8 sets from tick 0.040 s on given up: camera/cam_left_wrist late by 360 ms"
    )
    assert desk.ticks == [0, 360, 400]


def test_a_clock_set_back_starts_anew_and_says_so(desk: Desk) -> None:
    for stamp in (5000, 5040):
        desk.put_all(stamp)
    desk.put(CAMERAS[0], 5080)
    desk.put(ARMS[0], 0)  # the simulator was started again; cam_high of before is still on its way
    desk.put(CAMERAS[0], 5120)
    desk.put_all(0)
    desk.put_all(40)
    assert desk.ticks == [5000, 5040, 0, 40]
    assert [(e.reason, e.sources, e.ticks) for e in desk.given_up] == [
        ("clock", ARMS[:1], 1),
        ("clock", CAMERAS[:1], 0),
    ]
    assert "measured/left_arm went back 5040 ms: the clock was set back" in str(desk.given_up[0])


def test_one_stamp_far_ahead_does_not_block_what_follows(desk: Desk) -> None:
    for stamp in range(0, 400, 40):
        desk.put_all(stamp)
    desk.put(CAMERAS[0], 900_000)
    for stamp in range(400, 800, 40):
        desk.put_all(stamp)
    assert desk.ticks[-10:] == list(range(400, 800, 40))


def test_an_overtaken_message_is_no_clock_set_back(desk: Desk) -> None:
    desk.put_all(0)
    desk.put(ARMS[0], 80)
    desk.put(ARMS[0], 41)
    desk.put_all(40, without=ARMS[:1])
    assert desk.ticks == [0, 40]
    assert desk.last.source_stamps_ns[ARMS[0]] == 41 * MS


def test_a_full_buffer_gives_sets_up_instead_of_growing(desk: Desk) -> None:
    desk.put_all(0)
    for i in range(1, 2000):
        desk.put_all(i * 40, without=ARMS[:1])
    assert desk.sync.held < 4 * 512
    assert {e.reason for e in desk.given_up} == {"missing"}
    assert desk.given_up[0].stamp_ns == 40 * MS


def test_only_pictures_of_a_set_are_encoded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    monkeypatch.setattr(RawPicture, "encode", lambda raw: encoded.append(raw.stamp_ns // MS) or Picture("", 0, b""))
    for stamp in (0, 10, 20, 30, 41):
        desk.put(CAMERAS[0], stamp, RawPicture("cam_high", stamp * MS, "rgb8", 1, 3, bytes(3)))
    for stamp in (0, 41):
        desk.put_all(stamp, without=CAMERAS[:1])
    assert (desk.ticks, encoded) == ([0, 40], [0, 41])


# The command of a set


def running(robot: Robot, *, commands_until: float | None, **config) -> Desk:
    """Sets up to tick 400 are out; commands are stamped with each tick up to `commands_until`."""
    desk = Desk(robot, **config)
    for stamp in range(0, 401, 40):
        desk.now = stamp
        desk.put_all(stamp)
        if commands_until is not None and stamp <= commands_until:
            for name in COMMANDS:
                desk.put(name, stamp)
    return desk


def test_a_set_holds_the_command_of_the_tick_before(robot: Robot) -> None:
    desk = running(robot, commands_until=400)
    desk.put_all(440)
    assert desk.last.command.tolist() == [400] * 14
    assert desk.last.source_stamps_ns[COMMANDS[0]] == 400 * MS
    assert [e.command is None for e in desk.events] == [True] + [False] * 11


def test_a_set_waits_for_the_command_of_an_active_executor(robot: Robot) -> None:
    desk = running(robot, commands_until=360)
    desk.now = 440
    desk.put_all(440)
    assert desk.ticks[-1] == 400
    desk.put(COMMANDS[0], 400)
    assert desk.ticks[-1] == 400
    desk.put(COMMANDS[1], 400)
    assert desk.ticks[-1] == 440
    assert desk.last.command.tolist() == [400] * 14


def test_it_waits_at_most_one_period(robot: Robot) -> None:
    desk = running(robot, commands_until=360)
    desk.now = 440
    desk.put_all(440)
    desk.wait(39)
    assert desk.ticks[-1] == 400
    desk.wait(1)
    assert desk.ticks[-1] == 440
    assert desk.last.command is None
    assert desk.status.without_command == 1


@pytest.mark.parametrize("commands_until", [None, 0, 240])
def test_nobody_waits_for_an_executor_that_is_quiet(robot: Robot, commands_until: float | None) -> None:
    desk = running(robot, commands_until=commands_until)
    desk.put_all(440)
    assert desk.ticks[-1] == 440
    assert desk.last.command is None
    assert desk.status.without_command <= 3  # while it had just become quiet


def test_a_command_of_the_tick_itself_was_not_in_force_before_it(robot: Robot) -> None:
    desk = Desk(robot)
    desk.put_all(0)
    for name in COMMANDS:
        desk.put(name, 40)
    desk.put_all(40)
    desk.put_all(80)
    assert [e.command is None for e in desk.events] == [True, True, False]


def test_in_lockstep_even_the_first_command_is_waited_for(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    assert desk.ticks == [0]  # nobody can have answered yet
    desk.wait(60_000)
    desk.put_all(40)
    assert desk.ticks == [0]
    for name in COMMANDS:
        desk.put(name, 0)
    assert desk.ticks == [0, 40]
    assert desk.last.command.tolist() == [0] * 14


def test_in_lockstep_a_lost_command_does_not_stop_the_simulator_for_ever(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    desk.put_all(40)
    desk.wait(999)
    assert desk.ticks == [0]
    desk.wait(1)
    assert desk.ticks == [0, 40]
    assert desk.status.without_command == 1


def test_in_lockstep_without_any_commands_only_one_set_waits(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    desk.put_all(40)
    desk.wait(1000)
    desk.put_all(80)
    desk.put_all(120)
    assert desk.ticks == [0, 40, 80, 120]
    for name in COMMANDS:
        desk.put(name, 120)
    desk.put_all(160)
    desk.put_all(200)
    assert desk.ticks[-1] == 160  # now there is somebody to wait for


def test_in_lockstep_no_set_times_out(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0, without=CAMERAS[:1])
    desk.put(CAMERAS[0], 0)
    desk.put_all(40, without=CAMERAS[:1])
    desk.wait(60_000)
    assert desk.given_up == []
    named = {s.name for s in desk.status.sources if s.level is Level.ERROR}
    assert named == set(CAMERAS[:1])


def test_in_lockstep_a_standing_simulator_is_no_fault(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    desk.wait(60_000)
    assert {s.level for s in desk.status.sources} == {Level.OK}


def test_in_lockstep_a_source_has_stopped_when_the_set_waits_for_it(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    for name in COMMANDS:
        desk.put(name, 0)
    desk.wait(3000)  # the policy thinks
    desk.put_all(40, without=CAMERAS[:1])
    assert {s.level for s in desk.status.sources} == {Level.OK}  # it is being drawn
    desk.wait(600)
    assert [s.name for s in desk.status.sources if s.level is Level.ERROR] == [CAMERAS[0]]


def test_in_lockstep_any_step_back_is_a_new_run(robot: Robot) -> None:
    desk = Desk(robot, lockstep=True)
    desk.put_all(0)
    for stamp in (40, 80):
        for name in COMMANDS:
            desk.put(name, stamp - 40)
        desk.put_all(stamp)
    desk.put_all(0)
    assert desk.ticks == [0, 40, 80, 0]
    assert desk.last.command is None


# Status


def test_status_of_a_sound_robot(desk: Desk) -> None:
    for i in range(60):
        desk.now = i * 40
        desk.put_all(i * 40)
    status = desk.status
    assert (status.level, status.message, status.emitted, status.given_up) == (Level.OK, "25.0 sets/s", 60, 0)
    assert [s.name for s in status.sources] == [*CAMERAS, *ARMS, *COMMANDS]
    assert {s.level for s in status.sources} == {Level.OK}


def test_worst_wait_is_from_the_first_sample_of_a_set_to_its_end(desk: Desk) -> None:
    desk.put_all(0)
    desk.put_all(40, without=ARMS[:1])
    desk.now = 37
    desk.put(ARMS[0], 40)
    assert desk.status.worst_wait_ms == 37


def test_a_set_given_up_is_reported_for_two_seconds(desk: Desk) -> None:
    test_a_sample_beyond_the_skew_gives_the_set_up_at_once(desk)
    assert (desk.status.level, desk.status.message) == (Level.WARN, str(desk.given_up[0]))
    desk.wait(2000)
    assert desk.status.level is Level.OK


def test_a_frozen_camera_is_named(robot: Robot) -> None:
    desk = Desk(replace(robot, cameras=(replace(robot.cameras[0], frozen_after_s=0.5), *robot.cameras[1:])))
    for i in range(20):
        desk.now = i * 40
        desk.put(CAMERAS[0], i * 40, Picture("cam_high", i * 40 * MS, b"same"))
        desk.put_all(i * 40, without=CAMERAS[:1])
    assert len(desk.ticks) == 20
    assert [s.message for s in desk.status.sources if s.level] == [
        "frozen: the same picture for 0.8 s while its stamps advance"
    ]


def test_a_refused_message_is_named_and_counted(desk: Desk) -> None:
    desk.sync.refuse(CAMERAS[0], "cam_high: expected 640x480 pixels, found 320x240", 0)
    status = desk.status.sources[0]
    assert (status.level, status.refused) == (Level.ERROR, 1)
    assert status.message == "cam_high: expected 640x480 pixels, found 320x240"
