"""Episodes within this process, and that they are those of the nodes."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from rdt_ros import demo
from rdt_ros.bench import handover
from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.evaluation.cameras import SimCameras
from rdt_ros.evaluation.rollout import roll_out
from rdt_ros.policy.interface import joint_chunk
from rdt_ros.policy.trajectory import HoldPolicy, TrajectoryPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.expert import plan
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import LIFT

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


def test_it_ends_so_long_after_success_and_begins_when_it_is_told_to():
    whole = roll_out(ROBOT, expert(3), CubeScene(3), seconds=14)
    short = roll_out(ROBOT, expert(3), CubeScene(3), seconds=14, after_success_s=0.5, start_ns=70 * ROBOT.period_ns)
    assert short.success_s == whole.success_s and short.seconds == pytest.approx(whole.success_s + 0.52, abs=0.03)
    assert (short.commands == whole.commands[: len(short.commands)]).all()
    assert [o.stamp_ns // ROBOT.period_ns for o in short.observations[:2]] == [70, 71]


def test_the_task_judges():
    lifted = roll_out(ROBOT, expert(3), CubeScene(3), seconds=9, task=LIFT)  # the expert's way is a hand-over
    assert not lifted.success and lifted.stage == "held up"


def test_a_fault_of_the_executor_is_part_of_the_episode():
    settings = ExecutorConfig(robot="sim_aloha", lockstep=True, max_following_error=0.01)
    done = roll_out(ROBOT, expert(3), CubeScene(3), seconds=4, settings=settings)
    assert "away from its command" in done.fault and not done.success
    assert len(done.commands) == 100 and (done.commands[-50:] == done.commands[-1]).all()


class Looking:
    """Steers by what it sees: the hash of both moments' pictures decides where the arms go."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def reset(self) -> None:
        self.seen.clear()

    def step(self, history, *, instruction=None, committed=None):
        jpegs = [p.jpeg for observation in history[-2:] for p in observation.pictures]
        self.seen.append(tuple(hash(jpeg) for jpeg in jpegs))
        random = np.random.default_rng(zlib.crc32(b"".join(jpegs)))
        rows = np.tile(np.array(ROBOT.home[-1]) + random.uniform(-0.2, 0.2, 14), (64, 1)).astype(np.float32)
        return joint_chunk(ROBOT, history[-1], rows, instruction)


def test_leaving_out_the_pictures_that_no_plan_needs_changes_nothing():
    drawn, runs = [], []
    sim, policy = SimRobot(ROBOT), Looking()
    cameras = SimCameras(ROBOT, sim)

    def draw(sim):
        drawn.append(sim.time_ns // ROBOT.period_ns)
        return cameras(sim)

    for draw_all in (True, False):
        drawn.clear()
        run = roll_out(ROBOT, policy, CubeScene(2), seconds=1, replan_rows=10, draw=draw, draw_all=draw_all, sim=sim)
        runs.append((run.commands, list(policy.seen)))
    cameras.close()
    assert drawn == [1, 10, 11, 20, 21]
    assert runs[0][1] == runs[1][1] and [len(seen) for seen in runs[0][1]] == [3, 6, 6]
    assert len(set(runs[0][1])) == 3 and (runs[0][0] == runs[1][0]).all()


def test_the_bench_counts_successes(capsys):
    assert handover.main(["--seeds", "1", "--latency-ms", "0", "--offset-rad", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["successes"] for row in found["handover"]] == [1, 1]


@pytest.mark.slow
@pytest.mark.ros
def test_the_nodes_send_the_same_commands(tmp_path, capsys):
    instruction = "hand the red cube over to the left arm"
    config = demo.DemoConfig("scripted", "", "hand_over", instruction, 6, str(tmp_path), False, False, DOMAIN)
    assert demo.run(config) == 0
    with EpisodeReader(json.loads(capsys.readouterr().out.splitlines()[-1])["episode"]) as episode:
        steps = [o for o in episode.observations() if o.command is not None]
    theirs = np.array([o.command for o in steps])
    whole = roll_out(ROBOT, expert(6), CubeScene(6), seconds=13)
    mine = whole.commands.astype(np.float32)
    # the arms stand until the first plan is there, for as long as that takes
    moves = [int(np.argmax((commands != commands[0]).any(axis=1))) for commands in (mine, theirs)]
    count = min(len(mine) - moves[0], len(theirs) - moves[1])
    assert count > whole.success_s * ROBOT.control_rate_hz - moves[0]  # the demo ends soon after success
    assert (mine[moves[0] : moves[0] + count] == theirs[moves[1] : moves[1] + count]).all()
