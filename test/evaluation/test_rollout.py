"""Episodes within this process, and that they are those of the nodes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdt_ros import demo
from rdt_ros.bench import handover
from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.evaluation.rollout import roll_out
from rdt_ros.policy.trajectory import HoldPolicy, TrajectoryPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.expert import plan
from rdt_ros.sim.scene import CubeScene

ROBOT = load_robot("sim_aloha")
DOMAIN = "89"


def expert(seed: int) -> TrajectoryPolicy:
    return TrajectoryPolicy(ROBOT, plan(CubeScene(seed), ROBOT.control_rate_hz))


def test_the_expert_hands_the_cube_over_and_holding_still_does_not():
    done = roll_out(ROBOT, expert(3), CubeScene(3), seconds=9)
    assert done.success and 5 < done.success_s < 9 and done.commands.shape == (225, 14)
    assert [o.stamp_ns for o in done.observations[:3]] == [ROBOT.period_ns * k for k in (1, 2, 3)]
    still = roll_out(ROBOT, HoldPolicy(ROBOT), CubeScene(3), seconds=2)
    assert not still.success and still.success_s is None


def test_the_same_seed_gives_the_same_commands():
    first, second = (roll_out(ROBOT, expert(4), CubeScene(4), seconds=3) for _ in range(2))
    assert (first.commands == second.commands).all()


def test_latency_shifts_nothing_from_standstill_and_real_time_is_refused():
    settings = ExecutorConfig(robot="sim_aloha", lockstep=True, latency_ticks=5)
    late = roll_out(ROBOT, expert(5), CubeScene(5), seconds=9, settings=settings)
    assert late.success
    with pytest.raises(InputError, match="lock-step"):
        roll_out(ROBOT, expert(5), CubeScene(5), seconds=1, settings=ExecutorConfig(robot="sim_aloha"))


def test_the_bench_counts_successes(capsys):
    assert handover.main(["--seeds", "1", "--latency-ms", "0", "--offset-rad", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["successes"] for row in found["handover"]] == [1, 1]


@pytest.mark.slow
def test_the_nodes_send_the_same_commands(tmp_path, capsys):
    instruction = "hand the red cube over to the left arm"
    config = demo.DemoConfig("scripted", "", instruction, 6, str(tmp_path), False, False, DOMAIN)
    assert demo.run(config) == 0
    with EpisodeReader(json.loads(capsys.readouterr().out.splitlines()[-1])["episode"]) as episode:
        steps = [o for o in episode.observations() if o.command is not None]
    theirs = np.array([o.command for o in steps])
    mine = roll_out(ROBOT, expert(6), CubeScene(6), seconds=13).commands.astype(np.float32)
    # the arms stand until the first plan is there, for as long as that takes
    moves = [int(np.argmax((commands != commands[0]).any(axis=1))) for commands in (mine, theirs)]
    count = min(len(mine) - moves[0], len(theirs) - moves[1])
    assert count > 250
    assert (mine[moves[0] : moves[0] + count] == theirs[moves[1] : moves[1] + count]).all()
