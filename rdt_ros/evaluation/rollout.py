"""One episode of a policy in the simulator within this process: what the nodes do in lock-step, without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rdt_ros.control.executor import Executor, ExecutorConfig
from rdt_ros.errors import InputError
from rdt_ros.policy.history import History
from rdt_ros.policy.interface import Policy
from rdt_ros.policy.replan import Replanner
from rdt_ros.robot.description import Robot
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.types import NS_PER_S, JointSample, Observation, Picture

Draw = Callable[[SimRobot], tuple[Picture, ...]]


def no_pictures(_sim: SimRobot) -> tuple[Picture, ...]:
    """For policies that look at joints alone."""
    return ()


@dataclass(frozen=True, eq=False)
class Rollout:
    """How an episode went."""

    success: bool  # at some time the left arm alone held the cube for 0.5 s
    success_s: float | None  # when that was so first
    seconds: float
    commands: np.ndarray  # (N, J) rad or opening, one a control tick
    observations: tuple[Observation, ...] = field(repr=False)


def roll_out(
    robot: Robot,
    policy: Policy,
    scene: CubeScene,
    *,
    seconds: float,
    settings: ExecutorConfig | None = None,
    replan_rows: int = 32,
    instruction: str | None = None,
    draw: Draw = no_pictures,
    sim: SimRobot | None = None,
) -> Rollout:
    """Runs a policy from the scene's start; a given `sim` is reset and used again.

    Joint values pass through the robot's own units and float32 as they do on the wire, so the policy and the executor
    see the very numbers that they see through the nodes. `settings` are those of the executor, in lock-step; their
    `latency_ticks` delays every chunk.
    """
    settings = settings or ExecutorConfig(robot=robot.name, lockstep=True)
    if not settings.lockstep:
        raise InputError("rollout: expected an executor in lock-step, found one in real time")
    sim = sim or SimRobot(robot)
    sim.time_ns = robot.period_ns
    sim.reset(scene)
    executor = Executor(robot, settings, lambda: sim.time_ns)
    replanner, history = Replanner("period", robot.period_ns, replan_rows), History()
    policy.reset()
    observations: list[Observation] = []
    commands: list[np.ndarray] = []
    success_s = None
    for tick in range(round(seconds * NS_PER_S / robot.period_ns)):
        now_ns = sim.time_ns
        sample = _as_sent(robot, "measured", sim.measured())
        for group in robot.groups:
            executor.measured(group, JointSample(now_ns, sample.position[group.columns]))
        if tick == 0 and (refusal := executor.enable(now_ns)):
            raise InputError(f"rollout: {refusal}")
        observation = _observation(robot, sample, draw(sim), commands[-1] if commands else None)
        history.add(observation)
        observations.append(observation)
        if replanner.due(now_ns, executor.epoch):
            chunk = policy.step(history.snapshot(), instruction=instruction)
            if refusal := executor.offer(dataclasses.replace(chunk, epoch=executor.epoch, chunk_id=tick + 1), now_ns):
                raise InputError(f"rollout: tick {tick}: chunk refused: {refusal}")
        command = executor.tick(now_ns)
        if command is None:
            raise InputError(f"rollout: no command at tick {tick}: {executor.status().reason}")
        position = _as_sent(robot, "command", JointSample(now_ns, command.position)).position
        commands.append(position)
        sim.step(position, robot.period_ns)
        if success_s is None and sim.outcome().ever_success:
            success_s = (tick + 1) * robot.period_ns / NS_PER_S
    return Rollout(success_s is not None, success_s, seconds, np.array(commands), tuple(observations))


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
