"""Robot files: the shipped ones are whole and right, a wrong one is refused with its key."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import yaml

from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, parse_robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.share import share_dir

SHIPPED = sorted(path.stem for path in (share_dir() / "config" / "robots").glob("*.yaml"))

# state_mean of the entry "agilex" in the reference's configs/dataset_stat.json, by index of the 128-vector
AGILEX_STATE_MEAN = {
    0: 0.294098, 1: 1.040518, 2: 0.796019, 3: -0.073434, 4: -0.171895, 5: 0.056423, 10: 0.168371,
    50: -0.298316, 51: 0.817896, 52: 0.700793, 53: -0.175091, 54: 0.203623, 55: -0.032136, 60: 0.121387,
}  # fmt: skip


@pytest.fixture
def data() -> dict:
    return yaml.safe_load((share_dir() / "config/robots/agilex.yaml").read_text())


def test_the_three_robots_are_shipped():
    assert {"agilex", "agilex_piper", "sim_aloha"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_robot_keeps_its_home_inside_its_limits(name):
    robot = load_robot(name)
    assert robot.name == name
    for pose in robot.home:
        assert (pose >= robot.limits("lower")).all() and (pose <= robot.limits("upper")).all()


def test_the_data_sets_mean_pose_is_inside_the_limits_of_agilex():
    robot = load_robot("agilex")
    mean = np.array([AGILEX_STATE_MEAN[SLOTS[slot]] for slot in robot.channels])
    assert len(AGILEX_STATE_MEAN) == len(robot.joints)
    assert (mean >= robot.limits("lower")).all() and (mean <= robot.limits("upper")).all()


def test_agilex_is_the_robot_of_the_reference():
    robot = load_robot("agilex")
    assert [SLOTS[slot] for slot in robot.channels] == [50, 51, 52, 53, 54, 55, 60, 0, 1, 2, 3, 4, 5, 10]
    assert (robot.control_rate_hz, robot.period_ns, robot.action_offset_steps) == (25, 40_000_000, 1)
    ones = np.ones(7)
    left, right = robot.groups
    assert robot.to_wire(left, "command", ones)[6] == 11.8997
    assert robot.to_wire(right, "command", ones)[6] == 13.9231
    assert robot.to_wire(left, "measured", ones)[6] == 4.7908
    assert robot.to_wire(right, "measured", ones)[6] == 4.7888
    assert robot.to_wire(left, "command", np.array(robot.home[0])[:7])[6] == pytest.approx(3.557830810546875, abs=1e-4)
    assert robot.to_wire(right, "command", np.array(robot.home[1])[7:])[6] == pytest.approx(-0.33970355987548, abs=1e-4)


def test_wire_units_go_both_ways():
    robot = load_robot("agilex_piper")
    group = robot.groups[0]
    wire = [0.1, 0.2, -0.3, 0, 0, 0, 0.04]
    sample = robot.from_wire(group, "measured", stamp_ns=7, names=[], position=wire, velocity=wire, effort=wire)
    assert sample.position[6] == pytest.approx(0.5)
    assert sample.velocity[6] == pytest.approx(0.5)
    np.testing.assert_allclose(robot.to_wire(group, "measured", sample.position), wire)


def test_joints_are_ordered_by_their_names_on_the_wire():
    robot = load_robot("sim_aloha")
    names = [f"joint{i}" for i in (6, 0, 1, 2, 3, 4, 5)]
    sample = robot.from_wire(robot.groups[1], "measured", stamp_ns=0, names=names, position=[0.058, 1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(sample.position, [1, 2, 3, 4, 5, 6, 1])


@pytest.mark.parametrize(
    ("names", "position", "line"),
    [
        ([], [0.0] * 6, "puppet/joint_left: expected 7 joint positions, found 6"),
        (["joint0"] * 6 + ["thumb"], [0.0] * 7, "puppet/joint_left: expected joints joint0, joint1.*found thumb"),
        ([], [0.0, np.nan, 0, 0, 0, 0, 0], "puppet/joint_left: expected a finite position of left_shoulder, found nan"),
    ],
)
def test_a_wrong_joint_state_is_refused_by_name(names, position, line):
    robot = load_robot("sim_aloha")
    with pytest.raises(InputError, match=line):
        robot.from_wire(robot.groups[0], "measured", stamp_ns=0, names=names, position=position)


def test_unknown_robot_suggests_the_nearest():
    with pytest.raises(InputError, match="found 'agilx', is 'agilex' meant"):
        load_robot("agilx")


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_robot(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(InputError, match="no YAML") as error:
        load_robot(broken)
    assert "\n" not in str(error.value)


def _remove(*path):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


def _set(value, *path):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


JOINT = ("groups", 0, "joints", 2)
GRIPPER = ("groups", 0, "joints", 6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_remove("control_rate_hz"), "x.yaml: missing key 'control_rate_hz'"),
        (_set(0, "control_rate_hz"), "x.yaml.control_rate_hz: expected a number above 0, found 0"),
        (_set(25, "control_rate_hertz"), "x.yaml: unknown key 'control_rate_hertz'"),
        (_remove(*JOINT, "slot"), r"x.yaml.groups\[0\].joints\[2\]: missing key 'slot'"),
        (_set("left_arm_joint_2_poss", *JOINT, "slot"), r"joints\[2\].slot: expected 'left_arm_joint_2_pos' perhaps"),
        (_set([1, -1], *JOINT, "position"), r"joints\[2\].position: expected lower below upper"),
        (_set([1, "a"], *JOINT, "position"), r"joints\[2\].position: expected a list of 2 numbers"),
        (_set(float("nan"), *JOINT, "velocity"), r"joints\[2\].velocity: expected a number above 0, found nan"),
        (_set("left_joint1", *JOINT, "name"), "joint name used twice: left_joint1"),
        (
            _set("left_arm_joint_1_pos", *JOINT, "slot"),
            "slot used twice: left_joint1.left_arm_joint_1_pos and left_joi",
        ),
        (_remove(*GRIPPER, "command_wire"), r"joints\[6\]: a gripper needs the keys"),
        (_set({"closed": 1, "open": 1}, *GRIPPER, "command_wire"), "open: expected another value than closed"),
        (_set(["a", "b"], "groups", 0, "measured", "names"), "measured.names: expected a list of 7 different texts"),
        (_set([0.0] * 13, "home", 0, "pose"), r"home\[0\].pose: expected a list of 14 numbers"),
        (_set([9.0] * 14, "home", 0, "pose"), r"home\[0\].pose: expected left_joint0 between -3.14 and 2.618, found 9"),
        (_set("front", "cameras", 0, "role"), "role: expected one of external, right_wrist, left_wrist, found 'front'"),
        (_set("left_wrist", "cameras", 0, "role"), "camera role used twice: left_wrist"),
        (_set([], "groups"), "groups: expected a list of mappings"),
        (_set("yes", "groups", 0), r"groups\[0\]: expected a mapping, found 'yes'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(data, change, line):
    data = copy.deepcopy(data)
    change(data)
    with pytest.raises(InputError, match=line) as error:
        parse_robot(data, "x.yaml")
    assert "\n" not in str(error.value)


def test_one_arm_with_a_five_joint_hand_a_base_and_poses_is_only_another_file():
    fingers = [
        {"name": f"finger{i}", "slot": f"gripper_joint_{i}_pos", "velocity_slot": f"gripper_joint_{i}_vel",
         "position": [0, 1.6], "velocity": 3, "acceleration": 20}
        for i in range(5)
    ]  # fmt: skip
    arm = [
        {"name": f"joint{i}", "slot": f"arm_joint_{i}_pos", "position": [-3, 3], "velocity": 2, "acceleration": 9}
        for i in range(6)
    ]
    topics = {"limits_source": "s", "measured": {"topic": "a"}, "command": {"topic": "b"}}
    robot = parse_robot(
        {
            "name": "hand", "description": "d", "control_rate_hz": 50, "action_offset_steps": 0, "stop_deceleration": 9,
            "groups": [
                {"name": "arm", "joints": arm, **topics},
                {"name": "hand", "joints": fingers, **topics},
            ],
            "home": [{"pose": [0] * 11}],
            "base": {"odometry": "odom", "velocity": [0.5, 0, 1]},
            "poses": [{"name": "tool", "topic": "tool", "slots": "eef"}],
        },
        "hand.yaml",
    )  # fmt: skip
    assert [SLOTS[slot] for slot in robot.channels] == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    assert [SLOTS[j.velocity_slot] for j in robot.joints if j.velocity_slot] == [25, 26, 27, 28, 29]
    assert [SLOTS[slot] for slot in robot.poses[0].slots] == list(range(30, 39))
    assert robot.base is not None and [SLOTS[slot] for slot in robot.base.slots] == [100, 101, 102]
    assert robot.groups[1].columns == slice(6, 11)
    assert not robot.is_gripper.any()
