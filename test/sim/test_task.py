"""The judges, fed by hand; that the simulator feeds them is in test_robot.py and test_expert.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.errors import InputError
from rdt_ros.sim.scene import CUBE_HALF_M, CubeScene
from rdt_ros.sim.schedule import STEP_NS
from rdt_ros.sim.task import HOLD_S, LIFT_M, TASKS, Contacts, HandOverJudge, LiftJudge, find_task, read_scene_text

NOTHING, TABLE = Contacts(False, False, False), Contacts(False, False, True)
RIGHT, RIGHT_AND_TABLE = Contacts(False, True, False), Contacts(False, True, True)
LEFT, BOTH = Contacts(True, False, False), Contacts(True, True, False)
STEP_S = STEP_NS * 1e-9


def watch(judge, contacts, height_m, seconds=HOLD_S, at=(0.1, 0.5), moving_m_s=0.0):
    """Feeds the same for a while and returns the outcome; the height is that above the table."""
    for step in range(round(seconds / STEP_S)):
        cube = np.array([at[0] + step * STEP_S * moving_m_s, at[1], CUBE_HALF_M + height_m, 0, 0, 0, 1])
        judge.watch(contacts, cube)
    return judge.outcome()


def test_the_stages_of_a_hand_over():
    judge = HandOverJudge()
    assert watch(judge, TABLE, 0).stage == "never touched"
    assert watch(judge, RIGHT_AND_TABLE, 0).stage == "touched"
    assert watch(judge, RIGHT, 0.001).stage == "touched"  # squeezed, it leaves the table for single steps
    assert watch(judge, RIGHT, 0.1).stage == "lifted by the right arm"
    assert watch(judge, BOTH, 0.2).stage == "both arms hold it"
    assert watch(judge, LEFT, 0.2, HOLD_S - 0.1).stage == "left arm alone, too short"
    assert watch(judge, BOTH, 0.2).success is False
    done = watch(judge, LEFT, 0.2)
    assert (done.success, done.ever_success, done.stage, done.dropped) == (True, True, "success", False)
    assert done.held_s == pytest.approx(HOLD_S)


def test_a_cube_that_falls_is_dropped_and_a_gap_between_fingers_is_no_fall():
    judge = HandOverJudge()
    watch(judge, RIGHT, 0.1)
    assert not watch(judge, NOTHING, 0.1, 0.02).dropped
    watch(judge, RIGHT, 0.1, 0.01)
    assert not watch(judge, NOTHING, 0.1, 0.04).dropped  # the two gaps do not add up
    watch(judge, RIGHT, 0.1, 0.01)
    assert watch(judge, NOTHING, 0.08, 0.06).dropped
    fallen = watch(judge, TABLE, 0, 2.0)
    assert (fallen.dropped, fallen.success, fallen.stage) == (True, False, "lifted by the right arm")
    assert not watch(LiftJudge(), NOTHING, 0.005, 1.0).dropped  # tilted on its edge


def test_the_stages_of_a_lift():
    judge = LiftJudge()
    assert watch(judge, TABLE, 0).stage == "never touched"
    assert watch(judge, RIGHT_AND_TABLE, 0).stage == "touched"
    low = "lifted, not high or long enough"
    assert watch(judge, RIGHT, LIFT_M - 0.001, 2.0).stage == low
    assert watch(judge, RIGHT, LIFT_M, HOLD_S - 0.01).stage == low
    assert watch(judge, BOTH, LIFT_M, 2.0).stage == low  # the left arm helps
    up = watch(judge, RIGHT, LIFT_M)
    assert (up.stage, up.success, up.held_s) == ("held up", False, 0)
    back = "back on the table, not let go or not still"
    assert watch(judge, RIGHT_AND_TABLE, 0, 2.0).stage == back
    assert watch(judge, TABLE, 0, 2.0, moving_m_s=0.6).stage == back
    assert watch(judge, TABLE, 0, HOLD_S - 0.01).stage == "let go, lies there too short"
    assert not watch(judge, RIGHT_AND_TABLE, 0, 0.1).success
    done = watch(judge, TABLE, 0, HOLD_S + STEP_S)
    assert (done.success, done.ever_success, done.stage) == (True, True, "success")
    touched = watch(judge, RIGHT_AND_TABLE, 0, 0.1)
    assert (touched.success, touched.ever_success) == (False, True)


def test_a_cube_that_was_never_held_up_has_not_been_put_back():
    judge = LiftJudge()
    watch(judge, RIGHT, 0.05, 2.0)
    assert not watch(judge, TABLE, 0, 5.0).ever_success


CONTACTS = st.builds(Contacts, st.booleans(), st.booleans(), st.booleans())
MOMENTS = st.lists(st.tuples(CONTACTS, st.floats(0, 0.3), st.integers(1, 300)), max_size=12)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
@given(moments=MOMENTS)
def test_a_stage_never_goes_back_and_success_is_the_last(task, moments):
    judge, reached = task.judge(), 0
    for contacts, height_m, steps in moments:
        outcome = watch(judge, contacts, height_m, steps * STEP_S)
        assert judge.stages.index(outcome.stage) >= reached
        reached = judge.stages.index(outcome.stage)
        assert outcome.ever_success == (outcome.stage == judge.stages[-1] == "success")
        assert outcome.ever_success or not outcome.success
        assert outcome.success == (outcome.held_s >= HOLD_S)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_says_itself_in_words_of_its_own(task):
    others = {text for other in TASKS.values() if other is not task for text in other.instructions}
    assert 4 <= len(set(task.instructions)) == len(task.instructions) <= 6
    assert task.instruction == task.instructions[0] and not others & set(task.instructions)
    scene = CubeScene(3, 0.5)
    assert read_scene_text(task.scene_text(scene)) == (scene, task)
    assert len(task.plan(scene, 25.0)) / 25 < task.episode_s


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="task: expected one of hand_over, lift, found 'fold'"):
        find_task("fold")
