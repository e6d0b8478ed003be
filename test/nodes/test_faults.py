"""What the arms do when something dies while they move: real processes, killed, frozen and cut off."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rdt_ros.bench.faults import FAULTS, NETWORK, TICK_S, _against_limits, run, run_network  # noqa: E402
from rdt_ros.bench.stand import Stand  # noqa: E402
from rdt_ros.nodes.bench_watch import Seen  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402

pytestmark = pytest.mark.ros

DOMAINS = ("67", "68")
PATIENCE = 3.0  # these tests are about what is done, and may run beside others
ROUNDED = 1.001  # part of a limit


@dataclass(frozen=True)
class Expected:
    """How a fault ends, and what `~/enable` says while its cause is there."""

    state: str
    reason: str = ""  # a regular expression
    commands_go_on: bool = True
    enable: str | None = None
    afterwards: tuple[str, ...] = ()  # states once the cause is gone, before `~/enable`; none: not decided


HOLD = Expected("holding", "no fresh chunk", enable="accepted", afterwards=("holding", "running"))
# arms that move fast and are not seen any more are soon too far from their commands as well
NO_JOINTS = Expected("fault", "joints of |away from its command", enable="joints of ", afterwards=("fault",))
SILENT = Expected("silent", commands_go_on=False)
EXPECTED = {
    "policy killed": HOLD,
    "policy frozen": HOLD,
    "policy frozen, back at once": Expected("running", "the plan has ended", afterwards=("running",)),
    "camera_sync killed": HOLD,
    "camera_sync frozen": HOLD,
    "one camera cut": HOLD,
    "joints of one arm cut": NO_JOINTS,
    "sim frozen": NO_JOINTS,
    "sim killed": NO_JOINTS,
    "executor frozen": SILENT,
    "executor killed": SILENT,
    "second publisher": Expected("fault", "is also published by", False, "is also published by", ("fault",)),
    "software stop": Expected("stopped", "software stop", enable="stopped: software stop", afterwards=("inactive",)),
    NETWORK: HOLD,
}


@pytest.fixture(scope="module")
def shared():
    """One deployment for all faults; `broken` names the one after which the arms could not move again."""
    before = dict(os.environ)
    with Stand(DOMAINS[0], print, patience=PATIENCE) as stand:
        yield SimpleNamespace(stand=stand, broken="")
    os.environ.clear()
    os.environ.update(before)


def check(row: dict) -> None:
    expected = EXPECTED[row["fault"]]
    assert row.get("settled"), row
    assert row["state"] == expected.state and re.search(expected.reason, row["reason"]), row
    assert row["commands_go_on"] == expected.commands_go_on, row
    assert max(row["velocity_of_limit"], row["acceleration_of_limit"]) <= ROUNDED, row
    if expected.enable is None:
        assert row["enable_meanwhile"] is None, row
    else:
        assert expected.enable in row["enable_meanwhile"], row
    assert not expected.afterwards or row["state_afterwards"] in expected.afterwards, row


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_arms_rest_inside_the_limits_and_move_again(shared, fault):
    if shared.broken:
        pytest.skip(f"the arms do not move since: {shared.broken}")
    shared.broken = fault.name
    row = run(shared.stand, fault)  # ends with the arms in motion again, or raises
    shared.broken = ""
    check(row)
    if fault.name.startswith("executor"):
        assert row["arms_from_command_rad"] < 0.1, row  # the simulated followers hold the last target
    if fault.name == "one camera cut":
        assert any("camera/cam_left_wrist" in text for _, text in row["complaints"]), row


@pytest.mark.slow
def test_the_network_of_the_policy_is_cut():
    row = run_network(DOMAINS[1], PATIENCE)
    if "needs root" in row["reason"]:
        pytest.skip(row["reason"])
    check(row)


def judged(
    positions: list[float], *, pause_at: int = 0, enabled_after: float | None = None, fault_after: float = 0.0
) -> list[float]:
    """Velocity and acceleration of the first joint, as parts of their limits; one command a tick but for one pause."""
    robot = load_robot("sim_aloha")
    pose = np.array(robot.home[-1])
    commands = {group.name: [Seen(0.0, 0.0, pose[group.columns])] * 3 for group in robot.groups}
    step = np.eye(len(robot.groups[0].joints))[0]
    times_s = [(k + 1 + 100 * (0 < pause_at <= k)) * TICK_S for k in range(len(positions))]
    commands["left_arm"] = [Seen(t, t, step * x) for t, x in zip(times_s, positions, strict=True)]
    enabled_s = [] if enabled_after is None else [enabled_after * TICK_S]
    row = _against_limits(
        SimpleNamespace(robot=robot, watch=SimpleNamespace(commands=commands), enabled_s=enabled_s),
        fault_after * TICK_S,
    )
    return [row["velocity_of_limit"], row["acceleration_of_limit"]]


def test_figures_are_parts_of_the_limits():
    assert judged([0, 0, 0, 0]) == [0, 0]
    velocity, acceleration = judged([0, 0.00125, 0.00375, 0.0075])  # 12.5 rad/s^2 of 25, up to 0.375 rad/s of 3.14
    assert velocity == pytest.approx(0.375 / 3.14, abs=1e-3) and acceleration == pytest.approx(0.5)


def test_a_jump_counts_unless_it_is_a_new_start_or_before_the_fault():
    jump = [0, 0, 0, 0.5, 0.5, 0.5]
    assert min(judged(jump)) > 1
    assert min(judged(jump, pause_at=3)) > 1  # a silence excuses nothing
    assert min(judged(jump, enabled_after=1.5)) > 1
    assert judged(jump, pause_at=3, enabled_after=3.5) == [0, 0]
    assert judged(jump, fault_after=5.5) == [0, 0]
    assert min(judged(jump, pause_at=3, enabled_after=0.5, fault_after=1.5)) > 1  # the silence is the fault's
