import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.expert import ArmKinematics, plan, rotation
from rdt_ros.sim.model import build_kinematics
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene

ROBOT = load_robot("sim_aloha")
RATE_HZ = ROBOT.control_rate_hz
SCENES = 200
ARM = ~ROBOT.is_gripper


@pytest.fixture(scope="module", params=[0.0, np.pi / 4], ids=["straight", "turned"])
def plans(request):
    scenes = [CubeScene(seed, request.param) for seed in range(SCENES)]
    return scenes, np.array([plan(scene, RATE_HZ) for scene in scenes])


def test_every_plan_keeps_the_robots_limits(plans):
    rows = plans[1]
    assert (rows >= ROBOT.limits("lower")).all() and (rows <= ROBOT.limits("upper")).all()
    velocity = np.abs(np.diff(rows, axis=1)).max(axis=(0, 1)) * RATE_HZ
    acceleration = np.abs(np.diff(rows, n=2, axis=1)).max(axis=(0, 1)) * RATE_HZ**2
    assert (velocity < ROBOT.limits("velocity")).all()
    assert (acceleration < ROBOT.limits("acceleration")).all()


def test_every_plan_is_of_one_branch(plans):
    """Neighbouring cubes have neighbouring plans, all along; another branch turns the forearm by about pi."""
    scenes, rows = plans
    where = np.array([[*scene.position[:2], 0.3 * scene.yaw] for scene in scenes])
    distance = np.linalg.norm(where[:, None] - where[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    change = np.abs(rows - rows[nearest])[:, :, ARM].max(axis=(1, 2))
    assert change.max() < 1.0


def test_a_plan_begins_and_ends_at_rest_and_begins_at_home(plans):
    rows = plans[1]
    np.testing.assert_allclose(rows[:, 0], np.tile(ROBOT.home[-1], (SCENES, 1)))
    for edge in (rows[:, :2], rows[:, -2:]):
        assert np.abs(np.diff(edge, axis=1)).max() * RATE_HZ < 0.05


def test_a_plan_is_a_function_of_the_scene_and_rates_sample_the_same_motion():
    slow, again, fast = (plan(CubeScene(4, 0.5), rate) for rate in (25, 25, 50))
    np.testing.assert_array_equal(slow, again)
    np.testing.assert_allclose(fast[::2], slow, atol=1e-12)
    assert len(slow) == 261


@pytest.mark.parametrize(("seed", "max_yaw"), [(0, 0), (1, 0), (2, 0), (0, np.pi / 4), (1, np.pi / 4), (2, np.pi / 4)])
def test_the_hand_over_succeeds(seed, max_yaw):
    sim, scene = SimRobot(ROBOT), CubeScene(seed, max_yaw)
    sim.reset(scene)
    for row in plan(scene, RATE_HZ):
        sim.step(row, ROBOT.period_ns)
    assert sim.outcome().success and sim.outcome().held_s > 2
    assert sim.cube_pose()[2] > 0.2


def test_a_solution_reaches_the_pose():
    arm = ArmKinematics(build_kinematics(), "right")
    position, turn = np.array([0.05, 0.55, 0.1]), rotation("z", np.pi + 0.3) @ rotation("y", 1.0)
    at, now = arm.pose(arm.solve(position, turn))
    np.testing.assert_allclose(at, position, atol=3e-4)
    np.testing.assert_allclose(now, turn, atol=3e-3)


def test_a_pose_out_of_reach_is_refused():
    arm = ArmKinematics(build_kinematics(), "left")
    with pytest.raises(InputError, match=r"the left arm cannot reach \[2.0, 0.5, 0.3\] m"):
        arm.solve(np.array([2.0, 0.5, 0.3]), np.eye(3))


def test_rotations_are_right_handed():
    np.testing.assert_allclose(rotation("z", np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation("x", np.pi / 2) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation("y", np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
