"""Hand-overs of the scripted expert in simulation, by joining mode, latency and disagreement of neighbouring chunks."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence

import numpy as np

from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.evaluation.rollout import roll_out
from rdt_ros.policy.trajectory import TrajectoryPolicy
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.sim.expert import plan
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.types import ActionChunk, Observation

EPISODE_S = 14.0
MODES = ("switch", "crossfade")


class Disagreeing:
    """A policy whose every chunk is off by `offset_rad` in all arm joints, with signs drawn anew each time."""

    def __init__(self, policy: TrajectoryPolicy, robot: Robot, offset_rad: float, seed: int) -> None:
        self._policy, self._arms, self._offset_rad = policy, ~robot.is_gripper, offset_rad
        self._random = np.random.default_rng(seed)

    def reset(self) -> None:
        """Starts from the first row."""
        self._policy.reset()

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        """The chunk of the policy, shifted."""
        chunk = self._policy.step(history, instruction=instruction, committed=committed)
        shift = self._random.choice([-self._offset_rad, self._offset_rad], self._arms.sum())
        rows = chunk.rows.copy()
        rows[:, self._arms] += shift.astype(np.float32)
        return dataclasses.replace(chunk, rows=rows)


def successes(
    robot: Robot, sim: SimRobot, seeds: Sequence[int], *, joining: str, latency_ticks: int, offset_rad: float
) -> int:
    """How many of the seeds' cubes were handed over."""
    settings = ExecutorConfig(robot=robot.name, lockstep=True, joining=joining, latency_ticks=latency_ticks)
    count = 0
    for seed in seeds:
        scene = CubeScene(seed)
        policy = Disagreeing(TrajectoryPolicy(robot, plan(scene, robot.control_rate_hz)), robot, offset_rad, seed)
        count += roll_out(robot, policy, scene, seconds=EPISODE_S, settings=settings, sim=sim).success
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line a condition, and all of them as JSON at the end."""
    parser = argparse.ArgumentParser(prog="rdt bench handover", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="cubes a condition; default: %(default)s")
    parser.add_argument("--latency-ms", type=int, nargs="+", default=[0, 200, 520], help="default: %(default)s")
    parser.add_argument("--offset-rad", type=float, nargs="+", default=[0.0, 0.01], help="default: %(default)s")
    args = parser.parse_args(argv)
    robot = load_robot("sim_aloha")
    sim, rows = SimRobot(robot), []
    for offset_rad, latency_ms, joining in itertools.product(args.offset_rad, args.latency_ms, MODES):
        count = successes(
            robot,
            sim,
            range(args.seeds),
            joining=joining,
            latency_ticks=round(latency_ms * 1e6 / robot.period_ns),
            offset_rad=offset_rad,
        )
        rows.append({"joining": joining, "latency_ms": latency_ms, "offset_rad": offset_rad, "successes": count})
        print(
            f"{joining:<10} {latency_ms:4d} ms  chunks off by {offset_rad:g} rad  {count} of {args.seeds}", flush=True
        )
    print(json.dumps({"seeds": args.seeds, "handover": rows}))
    return 0
