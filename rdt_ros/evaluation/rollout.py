"""One episode of a policy in the simulator within this process: what the nodes do in lock-step, without them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rdt_ros.control.executor import Executor, ExecutorConfig
from rdt_ros.control.states import State
from rdt_ros.errors import InputError
from rdt_ros.policy.history import History
from rdt_ros.policy.interface import Policy
from rdt_ros.policy.replan import Replanner
from rdt_ros.robot.description import Robot
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import HAND_OVER, Task
from rdt_ros.types import NS_PER_S, JointSample, Observation, Picture

Draw = Callable[[SimRobot], tuple[Picture, ...]]


def no_pictures(_sim: SimRobot) -> tuple[Picture, ...]:
    """For policies that look at joints alone."""
    return ()


@dataclass(frozen=True, eq=False)
class Rollout:
    """How an episode went."""

    success: bool  # the task was done at some time
    success_s: float | None  # when that was so first
    stage: str  # the furthest that was reached, as the task's judge calls it
    dropped: bool  # the cube has fallen at some time
    fault: str  # why the executor stopped following the policy, empty if it did not
    seconds: float
    commands: np.ndarray  # (N, J) rad or opening, one a control tick
    observations: tuple[Observation, ...] = field(repr=False)


def roll_out(
    robot: Robot,
    policy: Policy,
    scene: CubeScene,
    *,
    seconds: float,
    task: Task = HAND_OVER,
    after_success_s: float = math.inf,
    settings: ExecutorConfig | None = None,
    replan_rows: int = 32,
    instruction: str | None = None,
    draw: Draw = no_pictures,
    draw_all: bool = True,
    sim: SimRobot | None = None,
    start_ns: int | None = None,
) -> Rollout:
    """Runs a policy from the scene's start for `seconds`, or until so long after the task is done.

    Joint values pass through the robot's own units and float32 as they do on the wire, so the policy and the executor
    see the very numbers that they see through the nodes. `settings` are those of the executor, in lock-step; their
    `latency_ticks` delays every chunk. `draw_all` False leaves out the pictures that no plan is made from, which are
    all but those of its tick and the one before. A given `sim` is reset and used again; its clock is set to `start_ns`,
    the first tick of all unless given.
    """
    settings = settings or ExecutorConfig(robot=robot.name, lockstep=True)
    if not settings.lockstep:
        raise InputError("rollout: expected an executor in lock-step, found one in real time")
    sim = sim or SimRobot(robot)
    sim.time_ns = robot.period_ns if start_ns is None else start_ns
    sim.reset(scene, task)
    policy.reset()
    episode = _Episode(robot, sim, settings, _Planning(policy, replan_rows, instruction), draw, draw_all)
    for _ in range(round(seconds * NS_PER_S / robot.period_ns)):
        episode.tick()
        if episode.success_s is not None and episode.elapsed_s >= episode.success_s + after_success_s:
            break
    return episode.rollout()


@dataclass(frozen=True)
class _Planning:
    """Who plans, how often, and for what."""

    policy: Policy
    replan_rows: int
    instruction: str | None


class _Episode:
    """What the nodes keep between two ticks, and what is kept of the episode."""

    def __init__(
        self, robot: Robot, sim: SimRobot, settings: ExecutorConfig, planning: _Planning, draw: Draw, draw_all: bool
    ) -> None:
        self._robot, self._sim, self._planning = robot, sim, planning
        self._draw, self._draw_all = draw, draw_all
        self._executor = Executor(robot, settings, lambda: sim.time_ns)
        self._replanner, self._history = Replanner("period", robot.period_ns, planning.replan_rows), History()
        self._ticks_since_plan = 0
        self._observations: list[Observation] = []
        self._commands: list[np.ndarray] = []
        self._fault = ""
        self.success_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Simulated time since its start."""
        return len(self._commands) * self._robot.period_ns / NS_PER_S

    def tick(self) -> None:
        """One control period: observe, plan where that is due, command, move."""
        robot, sim, executor = self._robot, self._sim, self._executor
        now_ns, tick = sim.time_ns, len(self._commands)
        sample = _as_sent(robot, "measured", sim.measured())
        for group in robot.groups:
            executor.measured(group, JointSample(now_ns, sample.position[group.columns]))
        if tick == 0 and (refusal := executor.enable(now_ns)):
            raise InputError(f"rollout: {refusal}")
        due = self._replanner.due(now_ns, executor.epoch)
        self._observe(sample, due)
        if due:
            self._plan(tick)
        command = executor.tick(now_ns)
        if command is None:
            raise InputError(f"rollout: no command at tick {tick}: {executor.status().reason}")
        if executor.state == State.FAULT and not self._fault:
            self._fault = executor.status().reason
        position = _as_sent(robot, "command", JointSample(now_ns, command.position)).position
        self._commands.append(position)
        sim.step(position, robot.period_ns)
        if self.success_s is None and sim.outcome().ever_success:
            self.success_s = self.elapsed_s

    def _observe(self, sample: JointSample, due: bool) -> None:
        self._ticks_since_plan = 0 if due else self._ticks_since_plan + 1
        before_plan = self._ticks_since_plan == self._planning.replan_rows - 1
        pictures = self._draw(self._sim) if self._draw_all or due or before_plan else ()
        command = self._commands[-1] if self._commands else None
        observation = _observation(self._robot, sample, pictures, command)
        self._history.add(observation)
        self._observations.append(observation)

    def _plan(self, tick: int) -> None:
        chunk = self._planning.policy.step(self._history.snapshot(), instruction=self._planning.instruction)
        chunk = dataclasses.replace(chunk, epoch=self._executor.epoch, chunk_id=tick + 1)
        refusal = self._executor.offer(chunk, chunk.stamp_ns)
        if refusal and self._executor.state != State.FAULT:  # after a fault the arms stay, whatever the policy says
            raise InputError(f"rollout: tick {tick}: chunk refused: {refusal}")

    def rollout(self) -> Rollout:
        """How it went until now."""
        outcome = self._sim.outcome()
        return Rollout(
            success=self.success_s is not None,
            success_s=self.success_s,
            stage=outcome.stage,
            dropped=outcome.dropped,
            fault=self._fault,
            seconds=self.elapsed_s,
            commands=np.array(self._commands),
            observations=tuple(self._observations),
        )


def _observation(
    robot: Robot, sample: JointSample, pictures: tuple[Picture, ...], command: np.ndarray | None
) -> Observation:
    def single(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values.astype(np.float32)

    return Observation(
        stamp_ns=sample.stamp_ns,
        robot=robot.name,
        pictures=pictures,
        joint_names=robot.joint_names,
        measured=sample.position.astype(np.float32),
        velocity=single(sample.velocity),
        effort=single(sample.effort),
        command=single(command),
    )


def _as_sent(robot: Robot, role: str, sample: JointSample) -> JointSample:
    """What is left of the values after the way through the robot's own units."""
    positions = [
        robot.from_wire(
            group,
            role,
            stamp_ns=sample.stamp_ns,
            names=(),
            position=robot.to_wire(group, role, sample.position[group.columns]).tolist(),
        ).position
        for group in robot.groups
    ]
    return JointSample(sample.stamp_ns, np.concatenate(positions), sample.velocity, sample.effort)
