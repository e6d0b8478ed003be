"""Scripted demonstrations, recorded as those of `rdt up record sim:=true` are, in this process and without ROS."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter, locked_by_writer, unfinished_path
from rdt_ros.errors import InputError
from rdt_ros.robot.description import JointGroup, Robot, load_robot, robot_path
from rdt_ros.sensing.synchroniser import SyncConfig, Synchroniser
from rdt_ros.sim.camera import CameraRenderer
from rdt_ros.sim.disturbance import Disturbance
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import TASKS, Task, find_task
from rdt_ros.types import JointSample, Observation, Picture

ATTEMPTS = 20  # with other noise, until a disturbed expert succeeds
REST_S = 1.0  # the arms stand at the end of the plan, for the policy to learn that it is over
FINE = 8  # rows of the plan in a control period, between which a slowed plan is interpolated


@dataclass(frozen=True)
class DemonstrationConfig:
    """What is demonstrated, on which robot, how differently."""

    robot: str = "sim_aloha_small"  # robot file
    tasks: tuple[str, ...] = tuple(TASKS)
    shares: tuple[float, ...] = (0.5, 0.5)  # of each task
    max_yaw: float = np.pi / 4  # rad; the cube is turned by up to this to either side
    disturbed: bool = True

    def __post_init__(self) -> None:
        for name in self.tasks:
            find_task(name)
        if len(self.shares) != len(self.tasks) or min(self.shares) < 0 or not sum(self.shares) > 0:
            raise InputError(
                f"task share: expected {len(self.tasks)} shares, none negative and not all 0, "
                f"found {', '.join(f'{share:g}' for share in self.shares)}"
            )


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What one seed decides: the scene, the task and its wording, the commands and what disturbs them."""

    task: Task
    scene: CubeScene
    instruction: str
    disturbance: Disturbance
    commands: np.ndarray  # (N, J) rad and openings, one a control tick: what is recorded
    noise: np.ndarray  # (N, J) rad, added on the way to the actuators


@dataclass(frozen=True)
class Recorded:
    """One episode that was made, or why there is none."""

    seed: int
    task: str
    path: str  # "" where the expert failed in all attempts
    steps: int
    failures: tuple[str, ...]  # what each failed attempt came to: its stage, or in a word what went wrong


def episode_path(folder: Path, seed: int) -> Path:
    """Where the episode of a seed is written."""
    return folder / f"episode_{seed:06d}.hdf5"


def record(config: DemonstrationConfig, folder: Path, seeds: Sequence[int]) -> list[Recorded]:
    """Records the episodes of these seeds; each depends on the settings and its seed alone."""
    with contextlib.closing(Studio(config, folder)) as studio:
        return [studio.record(seed) for seed in seeds]


class Studio:
    """A simulator, a renderer, and the objects that the nodes `camera_sync` and `recorder` use."""

    def __init__(self, config: DemonstrationConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._robot, self._robot_text = load_robot(config.robot), robot_path(config.robot).read_text()
        self._sim = SimRobot(self._robot)
        self._renderer = CameraRenderer(self._sim.model)
        checked = Thresholds()
        self._margins = np.where(self._robot.is_gripper, checked.limit_margin_gripper, checked.limit_margin_rad)

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()

    def record(self, seed: int) -> Recorded:
        """One episode. An attempt in which the disturbed expert fails is not recorded; the next has other noise."""
        failures: list[str] = []
        for attempt in range(ATTEMPTS):
            demonstration = demonstrate(self._config, self._robot, seed, attempt)
            failure = self._rehearse(demonstration)
            if not failure:
                path = episode_path(self._folder, seed)
                steps = self._write(demonstration, path)
                return Recorded(seed, demonstration.task.name, str(path), steps, tuple(failures))
            failures.append(failure)
        return Recorded(seed, demonstration.task.name, "", 0, tuple(failures))

    def _rehearse(self, demonstration: Demonstration) -> str:
        """Why the expert fails, "" where it does not; without pictures, which are what takes long."""
        low, high = self._robot.limits("lower"), self._robot.limits("upper")
        measured = np.array([self._sim.measured().position for _ in self._run(demonstration)])
        outcome = self._sim.outcome()
        if (np.maximum(low - measured, measured - high) > self._margins).any():
            return "beyond the limits"  # as a gripper that is pushed open; `rdt episodes check` refuses such an episode
        if outcome.dropped:
            return "dropped"
        if outcome.success:
            return ""
        return "lost again" if outcome.ever_success else outcome.stage

    def observations(self, demonstration: Demonstration) -> Iterator[Observation]:
        """What camera_sync makes of the simulator's pictures and joints and of the expert's leader arms."""
        robot, sync = self._robot, Synchroniser(self._robot, SyncConfig(leader=True, lockstep=True))
        for command in self._run(demonstration):
            now_ns = self._sim.time_ns
            samples: dict[str, Picture | JointSample] = {
                f"camera/{camera.name}": CameraRenderer.encode(
                    camera, now_ns, self._renderer.render(self._sim.data, camera)
                )
                for camera in robot.cameras
            }
            measured, leader = self._sim.measured(), JointSample(now_ns, command)
            for group in robot.groups:
                samples[f"measured/{group.name}"] = _as_received(robot, group, "measured", measured)
                samples[f"leader/{group.name}"] = _as_received(robot, group, "leader", leader)
            for name, sample in samples.items():
                for event in sync.put(name, now_ns, sample, now_ns):
                    assert isinstance(event, Observation), event  # nothing is late or missing in lock-step
                    yield event

    def _run(self, demonstration: Demonstration) -> Iterator[np.ndarray]:
        """Runs the episode; at every tick, before the step, the command (J,) for it."""
        robot, sim = self._robot, self._sim
        sim.time_ns = robot.period_ns
        sim.reset(demonstration.scene, demonstration.task)
        for command, noise in zip(demonstration.commands, demonstration.noise, strict=True):
            yield command
            sent = JointSample(sim.time_ns, command)
            received = [_as_received(robot, group, "command", sent).position for group in robot.groups]
            sim.step(np.concatenate(received) + noise, robot.period_ns)

    def _write(self, demonstration: Demonstration, path: Path) -> int:
        """The episode's file as the recorder writes it, and its steps; flushed once, for it can be made again."""
        remove_interrupted(path)
        header = Header(self._robot, self._robot_text, demonstration.instruction)
        recording = Recording(self._robot.period_ns, self._robot.action_offset_steps)
        writer = EpisodeWriter(path, header, flush_period_s=np.inf)
        try:
            for observation in self.observations(demonstration):
                for step in recording.add(observation):
                    writer.add(step)
            writer.finish(steps_lost=recording.lost, steps_without_action=recording.waiting)
        except BaseException:
            writer.discard()
            raise
        return recording.stored


def demonstrate(config: DemonstrationConfig, robot: Robot, seed: int, attempt: int = 0) -> Demonstration:
    """What a seed decides; another attempt has other noise and is the same in all else."""
    random = np.random.default_rng([seed, 2])  # [seed, 0] draws what [seed] does: the scene's own numbers
    task = find_task(str(random.choice(config.tasks, p=np.array(config.shares) / sum(config.shares))))
    instruction = str(random.choice(task.instructions))
    scene, rate_hz = CubeScene(seed, config.max_yaw), robot.control_rate_hz
    rows = task.plan(scene, rate_hz)
    disturbance = Disturbance()
    if config.disturbed:
        disturbance = Disturbance.draw(random, (len(rows) - 1) / rate_hz)
    if disturbance.pauses:
        rows = _paused(task.plan(scene, FINE * rate_hz), disturbance, rate_hz)
    commands = np.vstack([rows, np.tile(rows[-1], (round(REST_S * rate_hz), 1))])
    noise = disturbance.noise(np.random.default_rng([seed, 1, attempt]), len(commands), rate_hz, ~robot.is_gripper)
    return Demonstration(task, scene, instruction, disturbance, commands, noise)


def _paused(fine: np.ndarray, disturbance: Disturbance, rate_hz: float) -> np.ndarray:
    """Rows (N, J) at the control rate of a plan (M, J) with FINE rows a period, its time slowed for the pauses."""
    fine_hz = FINE * rate_hz
    at = disturbance.plan_times((len(fine) - 1) / fine_hz, rate_hz) * fine_hz
    below = np.minimum(at.astype(int), len(fine) - 2)
    share = (at - below)[:, None]
    return (1 - share) * fine[below] + share * fine[below + 1]


def _as_received(robot: Robot, group: JointGroup, role: str, sample: JointSample) -> JointSample:
    """A group's part of a sample after its way through a message in the robot's own units."""
    zero = np.zeros(len(group.joints))
    scale = robot.to_wire(group, role, zero + 1) - robot.to_wire(group, role, zero)
    velocity = () if sample.velocity is None else (sample.velocity[group.columns] * scale).tolist()
    return robot.from_wire(
        group,
        role,
        stamp_ns=sample.stamp_ns,
        names=(),
        position=robot.to_wire(group, role, sample.position[group.columns]).tolist(),
        velocity=velocity,
        effort=() if sample.effort is None else sample.effort[group.columns].tolist(),
    )


def remove_interrupted(path: Path) -> None:
    """Removes what a killed process has left of an episode, unless another process is writing it."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(unfinished_path(path), os.O_RDONLY)
        try:
            if not locked_by_writer(descriptor):
                unfinished_path(path).unlink()
        finally:
            os.close(descriptor)
