"""Simulator, cameras and policy in one process, one episode after the other: the nodes' lock-step without them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.errors import InputError
from rdt_ros.evaluation.ablation import MaskedPolicy
from rdt_ros.evaluation.cameras import SimCameras
from rdt_ros.evaluation.condition import Condition
from rdt_ros.evaluation.episode_clock import episode_start_ns
from rdt_ros.evaluation.film import Strip, film_name, strip_of, write_film
from rdt_ros.evaluation.rollout import Rollout, no_pictures, roll_out
from rdt_ros.evaluation.success import EpisodeResult
from rdt_ros.policy.interface import Policy
from rdt_ros.policy.trajectory import TrajectoryPolicy
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import AFTER_SUCCESS_S, find_task
from rdt_ros.types import ActionChunk, Observation, Picture

UNTRAINED = "random:"  # before a size, in place of a checkpoint
SIM_ROBOT = "sim_aloha"


@dataclass(frozen=True)
class Job:
    """One episode to run, and the folder for its film where it is to be filmed."""

    seed: int
    film_folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """An episode's result; `strip` where it was filmed."""

    result: EpisodeResult
    strip: Strip | None = None


class Arena:
    """Runs the episodes of one condition; use it in the thread that made it.

    `threads` is how many torch may use, 0 leaves that as it is.
    """

    def __init__(self, condition: Condition, threads: int = 0) -> None:
        self._condition, self._task = condition, find_task(condition.task)
        self._instruction, self._rdt = condition.instruction, None
        robot = load_robot(condition.robot) if condition.robot else None
        if condition.policy == "rdt":
            self._rdt, robot, self._instruction = _rdt(condition, robot, threads)
        self.robot = robot or load_robot(SIM_ROBOT)
        cameras = [camera.name for camera in self.robot.cameras]
        for name in condition.without_cameras:
            if name not in cameras:
                raise InputError(f"without-camera: expected one of {', '.join(cameras)}, found {name!r}")
        self._settings = ExecutorConfig(
            robot=self.robot.name,
            lockstep=True,
            joining=condition.joining,
            latency_ticks=condition.latency_ticks(self.robot),
        )
        self._sim = SimRobot(self.robot)
        self._cameras: SimCameras | None = None  # made when pictures are first asked for

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """One episode after the other; the pictures of one are forgotten before the next."""
        for job in jobs:
            film = job.film_folder is not None
            rollout, step_ms = self.roll_out(job.seed, draw_all=film)
            yield done(job, self._result(job.seed, rollout, step_ms), rollout.observations, self.robot)

    def roll_out(self, seed: int, *, draw_all: bool = False) -> tuple[Rollout, tuple[float, ...]]:
        """The episode of a seed and the ms of every plan; without `draw_all` only plans get pictures."""
        condition, robot = self._condition, self.robot
        scene = CubeScene(seed, condition.max_yaw)
        policy = _Timed(self._policy(scene))
        rollout = roll_out(
            robot,
            policy,
            scene,
            seconds=self._task.episode_s,
            task=self._task,
            after_success_s=AFTER_SUCCESS_S,
            settings=self._settings,
            replan_rows=condition.replan_rows,
            instruction=self._instruction,
            draw=self._draw if draw_all or self._rdt is not None else no_pictures,
            draw_all=draw_all,
            sim=self._sim,
            start_ns=episode_start_ns(seed, robot.period_ns),
        )
        return rollout, tuple(policy.step_ms)

    def close(self) -> None:
        """Frees the renderer."""
        if self._cameras is not None:
            self._cameras.close()

    def _policy(self, scene: CubeScene) -> Policy:
        condition = self._condition
        policy = self._rdt or TrajectoryPolicy(self.robot, self._task.plan(scene, self.robot.control_rate_hz))
        if condition.mask_history or condition.without_cameras:
            policy = MaskedPolicy(policy, history=not condition.mask_history, without_cameras=condition.without_cameras)
        return policy

    def _draw(self, sim: SimRobot) -> tuple[Picture, ...]:
        if self._cameras is None:
            self._cameras = SimCameras(self.robot, sim)
        return self._cameras(sim)

    def _result(self, seed: int, rollout: Rollout, step_ms: tuple[float, ...]) -> EpisodeResult:
        return EpisodeResult(
            seed=seed,
            task=self._task.name,
            instruction=self._condition.instruction,
            success=rollout.success,
            success_s=rollout.success_s,
            stage=rollout.stage,
            dropped=rollout.dropped,
            fault=rollout.fault,
            seconds=rollout.seconds,
            step_ms=step_ms,
        )


def done(job: Job, result: EpisodeResult, observations: Sequence[Observation], robot: Robot) -> Done:
    """The result of a job, filmed where that was asked for."""
    if job.film_folder is None:
        return Done(result)
    write_film(observations, job.film_folder / film_name(result), robot, result)
    return Done(result, strip_of(observations, robot, result))


class _Timed:
    """Passes everything on to a policy and notes how long each step took."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.step_ms: list[float] = []

    def reset(self) -> None:
        self._policy.reset()

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
    ) -> ActionChunk:
        began_s = time.perf_counter()
        chunk = self._policy.step(history, instruction=instruction, committed=committed)
        self.step_ms.append(round((time.perf_counter() - began_s) * 1e3, 3))
        return chunk


def _rdt(condition: Condition, robot: Robot | None, threads: int) -> tuple[Policy, Robot, str]:
    """The policy of the checkpoint as the policy node makes it, its robot, and the text to ask it for."""
    import torch
    import torch._dynamo  # noqa: F401 (after a software render, importing triton would crash the process)

    from rdt_ros.policy.deployed import deploy

    if threads:
        torch.set_num_threads(threads)
    if condition.checkpoint.startswith(UNTRAINED):
        robot = robot or load_robot(SIM_ROBOT)
    settings = ("instruction", "instructions", "encoder", "vision", "device", "backend")
    rdt = deploy(
        condition.checkpoint,
        robot,
        seed=condition.noise_seed,
        **{name: getattr(condition, name) for name in settings},
    )
    return rdt.policy, rdt.policy.robot, rdt.instruction
