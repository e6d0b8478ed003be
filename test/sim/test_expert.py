import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.expert import ArmKinematics, hand_over, lift, plan, rotation
from rdt_ros.sim.model import build_kinematics
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import HAND_OVER, LIFT

ROBOT = load_robot("sim_aloha")
RATE_HZ = ROBOT.control_rate_hz
SCENES = 200
ARM = ~ROBOT.is_gripper


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((hand_over, 0.0), id="hand_over, straight"),
        pytest.param((hand_over, np.pi / 4), id="hand_over, turned"),
        pytest.param((lift, 0.0), id="lift, straight", marks=pytest.mark.slow),
        pytest.param((lift, np.pi / 4), id="lift, turned"),
    ],
)
def plans(request):
    script, max_yaw = request.param
    scenes = [CubeScene(seed, max_yaw) for seed in range(SCENES)]
    return scenes, np.array([plan(scene, RATE_HZ, script) for scene in scenes])


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
    for script, steps in ((hand_over, 261), (lift, 231)):
        slow, again, fast = (plan(CubeScene(4, 0.5), rate, script) for rate in (25, 25, 50))
        np.testing.assert_array_equal(slow, again)
        np.testing.assert_allclose(fast[::2], slow, atol=1e-12)
        assert len(slow) == steps


SCENES_RUN = pytest.mark.parametrize("scene", [CubeScene(seed, yaw) for seed in range(3) for yaw in (0, np.pi / 4)])


def run(scene, task, judged=None):
    """The simulator after the expert's plan for a task."""
    sim = SimRobot(ROBOT)
    sim.reset(scene, judged or task)
    for row in task.plan(scene, RATE_HZ):
        sim.step(row, ROBOT.period_ns)
    return sim


@SCENES_RUN
def test_the_hand_over_succeeds(scene):
    sim = run(scene, HAND_OVER)
    assert sim.outcome().success and sim.outcome().held_s > 2 and not sim.outcome().dropped
    assert sim.cube_pose()[2] > 0.2


@SCENES_RUN
def test_the_lift_succeeds_where_it_began_and_leaves_the_left_arm_at_home(scene):
    sim = run(scene, LIFT)
    assert sim.outcome().success and sim.outcome().held_s > 2 and not sim.outcome().dropped
    assert np.linalg.norm(sim.cube_pose()[:3] - scene.position) < 0.03
    left = sim.measured().position[ROBOT.groups[0].columns]
    np.testing.assert_allclose(left, ROBOT.home[-1][:7], atol=0.02)


@pytest.mark.parametrize("script", [hand_over, lift], ids=["hand_over", "lift"])
def test_what_the_arms_do_tells_how_far_the_plan_is(script):
    """Two moments far apart differ in where the arms are or where they go: a policy sees no more than that."""
    rows = plan(CubeScene(2, 0.5), RATE_HZ, script)[: -round(1.0 * RATE_HZ)]  # at the end they rest
    states = np.hstack([rows[1:], 0.2 * np.diff(rows, axis=0) * RATE_HZ])  # 0.2 s ahead
    distance = np.abs(states[:, None] - states).max(axis=2)
    apart = np.abs(np.subtract.outer(np.arange(len(states)), np.arange(len(states)))) > 1.0 * RATE_HZ
    assert distance[apart].min() > 0.15


@pytest.mark.parametrize(("done", "judged"), [(HAND_OVER, LIFT), (LIFT, HAND_OVER)], ids=lambda task: task.name)
def test_one_task_done_is_not_the_other(done, judged):
    outcome = run(CubeScene(1, 0.5), done, judged).outcome()
    assert not outcome.ever_success
    assert outcome.stage == {"lift": "held up", "hand_over": "lifted by the right arm"}[judged.name]


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
