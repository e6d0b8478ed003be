"""Evaluation through the nodes: what outcomes mean, which nodes run, and that it is what one process gives."""

from __future__ import annotations

import io
from contextlib import closing

import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.eval_nodes import NodeSession, Verdict, plan
from rdt_ros.evaluation.arena import Arena, Done, Job
from rdt_ros.evaluation.condition import Condition
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.task import HAND_OVER, LIFT

ROBOT = load_robot("sim_aloha_small")
SCRIPTED = Condition("lift", "lift it", policy="scripted", robot="sim_aloha_small", max_yaw=0.5)
RANDOM = Condition("lift", "lift it", checkpoint="random:tiny", robot="sim_aloha_small", device="cpu", noise_seed=3)
SHIPPED = Condition(HAND_OVER.name, HAND_OVER.instruction, checkpoint="sim_cube", device="cpu")
DOMAIN, SECOND_DOMAIN, THIRD_DOMAIN = "66", "67", "74"


def outcome(sim_time: float, ever_success: bool = False, stage: str = "touched", dropped: bool = False) -> dict:
    return {"sim_time": sim_time, "ever_success": ever_success, "stage": stage, "dropped": dropped}


def test_a_verdict_is_over_half_a_second_after_success():
    verdict = Verdict(start_s=200.04, episode_s=14.0)
    for k in range(300):
        verdict.hear(outcome(200.04 + 0.04 * k, ever_success=k >= 100, stage="success" if k >= 100 else "touched"))
        assert verdict.over == (k >= 113)  # 4.00 s, and 0.52 s after it the first tick that is not before 4.50 s
    result = verdict.result(2, "lift", "lift it")
    assert (result.success, result.success_s, result.seconds, result.stage) == (True, 4.0, 4.52, "success")


def test_a_success_after_the_time_does_not_count():
    verdict = Verdict(start_s=0.04, episode_s=1.0)
    for k, success in ((0, False), (20, False), (26, True)):  # the outcome of 1.0 s was lost
        verdict.hear(outcome(0.04 + 0.04 * k, success, dropped=k == 20))
    result = verdict.result(0, "lift", "lift it")
    assert verdict.over and (result.success, result.success_s, result.seconds) == (False, None, 0.8)
    assert result.dropped and result.how == "touched, dropped"


def test_a_success_at_the_last_tick_counts():
    verdict = Verdict(start_s=0.04, episode_s=1.0)
    verdict.hear(outcome(1.04, True, "success"))
    assert verdict.over and verdict.result(0, "lift", "lift it").success


def test_the_nodes_get_the_condition():
    condition = Condition("lift", "go", policy="scripted", replan_rows=16, latency_ms=80, max_yaw=0.25, noise_seed=9)
    nodes = {node.name: node.parameters for node in plan(condition, ROBOT, 70, realtime=False, domain="66").nodes}
    assert (nodes["sim"]["seed"], nodes["sim"]["task"], nodes["sim"]["max_yaw"]) == (70, "lift", 0.25)
    assert (nodes["policy"]["seed"], nodes["policy"]["replan_rows"], nodes["policy"]["policy"]) == (9, 16, "scripted")
    assert nodes["executor"]["latency_ticks"] == 2 and all(p.get("lockstep", True) for p in nodes.values())
    assert {p["robot"] for p in nodes.values()} == {"sim_aloha_small"}


@pytest.mark.parametrize(
    ("values", "realtime", "message"),
    [
        ({"mask_history": True}, False, "give --in-process"),
        ({"without_cameras": ("cam_high",)}, False, "give --in-process"),
        ({"latency_ms": 40.0}, True, "latency is injected in lock-step only"),
    ],
)
def test_what_nodes_cannot_do_is_refused(values, realtime, message):
    with pytest.raises(InputError, match=message):
        plan(Condition("lift", "go", policy="scripted", **values), ROBOT, 0, realtime=realtime, domain="66")


def session(condition: Condition, seed: int, *, realtime: bool = False, domain: str = DOMAIN) -> NodeSession:
    return NodeSession(condition, seed, io.StringIO(), realtime=realtime, domain=domain, films=True)


@pytest.mark.slow
@pytest.mark.ros
def test_the_nodes_do_what_one_process_does():
    seeds = (5, 6)
    with session(RANDOM, seeds[0]) as nodes:
        theirs = {seed: nodes.play(seed) for seed in seeds}
    for seed in seeds:
        result, observations = theirs[seed]
        with closing(Arena(RANDOM)) as arena:
            mine, _ = arena.roll_out(seed, draw_all=True)
        assert (result.success, result.stage, result.seconds) == (mine.success, mine.stage, mine.seconds)
        commands = {o.stamp_ns: mine.commands[k - 1] for k, o in enumerate(mine.observations) if k}
        seen = {o.stamp_ns: o for o in observations}
        for observation in mine.observations:
            other = seen[observation.stamp_ns]
            assert [p.jpeg for p in other.pictures] == [p.jpeg for p in observation.pictures]
            assert (other.measured == observation.measured).all()
            if observation.stamp_ns in commands:
                assert (other.command == commands[observation.stamp_ns].astype(np.float32)).all()
    # and not because nothing depends on anything
    assert (theirs[seeds[0]][1][40].command != theirs[seeds[1]][1][40].command).any()


@pytest.mark.slow
@pytest.mark.ros
def test_the_expert_succeeds_through_the_nodes_and_is_filmed(tmp_path):
    pytest.importorskip("av")
    with session(SCRIPTED, 8) as nodes:
        done: list[Done] = list(nodes.run([8, 9], lambda result: tmp_path if result.seed == 9 else None))
        assert nodes.step_ms["step_ms_p50"] is not None
    with closing(Arena(SCRIPTED)) as arena:
        mine = [one.result for one in arena.run([Job(8), Job(9)])]
    for one, expected in zip(done, mine, strict=True):
        assert one.result.success and one.result.success_s == pytest.approx(expected.success_s)
        assert one.result.seconds == pytest.approx(expected.seconds)
    assert done[0].strip is None and done[1].strip is not None
    assert [path.name for path in tmp_path.iterdir()] == ["success_9.mp4"]


@pytest.mark.slow
@pytest.mark.ros
def test_in_real_time_the_expert_succeeds_too():
    with session(SCRIPTED, 8, realtime=True, domain=SECOND_DOMAIN) as nodes:
        results = [nodes.play(seed)[0] for seed in (8, 9)]
    assert [(r.seed, r.success, r.fault) for r in results] == [(8, True, ""), (9, True, "")]
    # the simulator says at once that it is done, and the next time when the episode is over
    assert all(r.seconds - r.success_s == pytest.approx(0.5, abs=0.02) for r in results)


@pytest.mark.slow
@pytest.mark.ros
def test_between_two_episodes_the_policy_is_given_another_task_by_its_service():
    from rdt_msgs.msg import ActionChunk

    told = []
    with session(SHIPPED, 200000, domain=THIRD_DOMAIN) as nodes:
        spectator = nodes._spectator
        keep = lambda msg: told.append(msg.instruction) if msg.rows else None  # noqa: E731
        spectator._node.create_subscription(ActionChunk, spectator._prefix + "action_chunk", keep, 100)
        (first, _), (second, _) = nodes.play(200000), nodes.play(200001, LIFT)
    assert (first.success, first.task, first.instruction) == (True, "hand_over", HAND_OVER.instruction), first
    assert (second.success, second.task, second.instruction) == (True, "lift", LIFT.instruction), second
    change = told.index(LIFT.instruction)
    assert change >= 4 and set(told[:change]) == {HAND_OVER.instruction}
    assert len(told) - change >= 4 and set(told[change:]) == {LIFT.instruction}
