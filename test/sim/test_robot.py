import dataclasses

import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.expert import plan
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.schedule import STEP_NS
from rdt_ros.sim.task import HOLD_S, LIFT, Contacts

ROBOT = load_robot("sim_aloha")
HOME = np.array(ROBOT.home[-1])
PERIOD_NS = ROBOT.period_ns
LEFT_GRIPPER = ROBOT.joint_names.index("left_gripper")


@pytest.fixture(scope="module")
def sim():
    return SimRobot(ROBOT)


@pytest.fixture(autouse=True)
def at_rest(sim):
    sim.reset(CubeScene(0))


def run(sim, command, seconds):
    for _ in range(round(seconds * ROBOT.control_rate_hz)):
        sim.step(command, PERIOD_NS)


def test_it_begins_at_home_with_the_cube_where_the_scene_says(sim):
    scene = CubeScene(3, 0.6)
    sim.reset(scene)
    np.testing.assert_allclose(sim.measured().position, HOME, atol=1e-9)
    pose = sim.cube_pose()
    np.testing.assert_allclose(pose[:3], scene.position)
    assert 2 * np.arctan2(pose[5], pose[6]) == pytest.approx(scene.yaw)
    run(sim, None, 0.2)
    assert sim.contacts() == Contacts(left=False, right=False, table=True)
    np.testing.assert_allclose(sim.cube_pose()[:3], scene.position, atol=1e-3)


@pytest.mark.parametrize("joint", range(len(ROBOT.joints)), ids=ROBOT.joint_names)
def test_each_joint_follows_its_own_target(sim, joint):
    target = HOME.copy()
    target[joint] += 0.3
    run(sim, target, 1.5)
    moved = sim.measured().position - HOME
    assert moved[joint] == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.delete(moved, joint)).max() < 0.03


def test_opening_is_scaled_as_the_robot_file_says(sim):
    """The messages of this robot are in metres of finger position, as is the model."""
    target = HOME.copy()
    target[LEFT_GRIPPER] = 0.5
    run(sim, target, 1.0)
    group = ROBOT.groups[0]
    finger_m = sim.data.qpos[sim.model.joint("vx300s_left/left_finger").qposadr[0]]
    opening = sim.measured().position[group.columns]
    assert ROBOT.to_wire(group, "measured", opening)[-1] == pytest.approx(finger_m)
    mirrored_m = sim.data.qpos[sim.model.joint("vx300s_left/right_finger").qposadr[0]]
    assert mirrored_m == pytest.approx(-finger_m, abs=2e-4)


def test_targets_stop_at_the_actuators_ranges(sim):
    run(sim, np.full(len(HOME), 10.0), 0.04)
    low, high = sim.model.actuator_ctrlrange.T
    assert (sim.data.ctrl <= high).all() and (sim.data.ctrl >= low).all()
    assert sim.data.ctrl[0] == high[0]


def test_velocity_is_the_derivative_of_position(sim):
    """Semi-implicit integration: each step moves by the velocity at its end."""
    target = HOME.copy()
    target[[0, LEFT_GRIPPER]] += 0.5
    for _ in range(10):
        before = sim.measured().position
        sim.step(target, STEP_NS)
        np.testing.assert_allclose((sim.measured().position - before) / 0.002, sim.measured().velocity, atol=1e-6)
    assert (np.abs(sim.measured().velocity[[0, LEFT_GRIPPER]]) > 0.5).all()


def test_effort_pushes_towards_the_target(sim):
    target = HOME.copy()
    target[0] += 0.3
    sim.step(target, STEP_NS)
    assert sim.measured().effort[0] > 10
    target[0] -= 0.6
    sim.step(target, STEP_NS)
    assert sim.measured().effort[0] < -10


def test_without_a_new_command_the_last_one_holds(sim):
    target = HOME.copy()
    target[0] = 0.4
    sim.step(target, PERIOD_NS)
    run(sim, None, 1.0)
    assert sim.measured().position[0] == pytest.approx(0.4, abs=0.02)


def test_time_goes_on_over_a_reset(sim):
    before = sim.time_ns
    sim.step(None, PERIOD_NS)
    sim.reset(CubeScene(1))
    assert sim.time_ns == sim.measured().stamp_ns == before + PERIOD_NS


def test_a_time_between_physics_steps_is_refused(sim):
    with pytest.raises(InputError, match="its 2 ms step divides, found 33333333 ns"):
        sim.step(None, 33_333_333)


def test_equal_commands_give_equal_states(sim):
    states = []
    for _ in range(2):
        sim.reset(CubeScene(5))
        for row in plan(CubeScene(5), 25)[:80]:
            sim.step(row, PERIOD_NS)
        states.append(np.concatenate([sim.measured().position, sim.cube_pose()]))
    np.testing.assert_array_equal(*states)


def test_success_needs_the_left_arm_alone_for_half_a_second(sim, monkeypatch):
    """Fed with contacts by hand: what counts, what breaks it, and what is remembered."""
    touch = {"now": Contacts(left=False, right=False, table=True)}
    monkeypatch.setattr(sim, "contacts", lambda: touch["now"])

    def hold(seconds, left=True, right=False, table=False):
        touch["now"] = Contacts(left, right, table)
        sim.step(None, round(seconds * 1e9))
        return sim.outcome()

    assert hold(1.0, left=False, table=True).held_s == 0
    assert hold(1.0, right=True).held_s == 0
    assert hold(1.0, table=True).held_s == 0
    nearly = hold(HOLD_S - 0.002)
    assert (nearly.success, nearly.ever_success, nearly.held_s) == (False, False, pytest.approx(HOLD_S - 0.002))
    assert hold(0.002).success
    dropped = hold(0.002, left=False, table=True)
    assert (dropped.success, dropped.ever_success, dropped.held_s) == (False, True, 0)
    sim.reset(CubeScene(0), LIFT)
    assert not sim.outcome().ever_success and not hold(1.0).success  # another task, another judge
    assert {name: outcome.success for name, outcome in sim.outcomes().items()} == {"hand_over": True, "lift": False}


def test_a_control_period_between_physics_steps_is_refused():
    with pytest.raises(InputError, match="multiple of its 2 ms step, found 33.3333 ms"):
        SimRobot(dataclasses.replace(ROBOT, control_rate_hz=30.0))


def test_a_joint_that_the_model_lacks_is_named():
    left, right = ROBOT.groups
    wrong = dataclasses.replace(left.joints[2], name="left_knee")
    group = dataclasses.replace(left, joints=(*left.joints[:2], wrong, *left.joints[3:]))
    with pytest.raises(InputError, match="robot sim_aloha: the simulator has no joint 'vx300s_left/knee'"):
        SimRobot(dataclasses.replace(ROBOT, groups=(group, right)))


def test_a_camera_that_the_model_lacks_is_named():
    camera = dataclasses.replace(ROBOT.cameras[0], name="cam_low")
    with pytest.raises(InputError, match="the simulator has no camera 'cam_low'; it has .*cam_high"):
        SimRobot(dataclasses.replace(ROBOT, cameras=(camera,)))
