"""How smoothly, and how late, chunks that disagree are joined: the executor's modes and the reference's blocking loop.

ROS-free, in virtual time, so that a result depends on nothing but its seeds. The policy is an oracle: it answers an
Observation after an injected latency with the scripted expert's next 64 rows, counted from how far the arms have come,
shifted by an offset of its own for every chunk and arm joint. The executor is the real one, driven tick by tick; arms
reach their command at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np

from rdt_ros.control.executor import JOINING, Executor, ExecutorConfig
from rdt_ros.control.states import State
from rdt_ros.policy.interface import HORIZON_ROWS
from rdt_ros.robot.description import Robot
from rdt_ros.sim import expert
from rdt_ros.sim.scene import CubeScene
from rdt_ros.types import NS_PER_S, ActionChunk, JointSample

REFERENCE = "reference"  # the blocking loop of the reference's deployment script
MODES = tuple(mode for mode in JOINING if mode != "realtime_chunking")  # that one needs a sampler, not an oracle
STANDING = 0.002  # rad/s or openings/s: a slower command stands
MOVING = 0.02  # the same of the plan: a slower one is about to stand itself
START_NS = 10 * NS_PER_S
PATIENCE = 4  # plan durations after which a run is given up


class Plan:
    """The undelayed, undisturbed plan: the expert's, at the command rate; places in it are counted in control rows."""

    def __init__(self, robot: Robot, seed: int, rate_hz: float, seconds: float | None = None) -> None:
        positions = expert.plan(CubeScene(seed), rate_hz)
        self.ticks_per_row = round(rate_hz / robot.control_rate_hz)
        keep = len(positions) if seconds is None else min(len(positions), round(seconds * rate_hz) + 1)
        self.last_row = (keep - 1) // self.ticks_per_row
        self.positions = positions[: self.last_row * self.ticks_per_row + 1]  # (N, J)
        self.tick_s = 1 / rate_hz

    def at(self, rows: np.ndarray | float) -> np.ndarray:
        """Positions (..., J) at places in the plan; it stands before its first and after its last row."""
        place = np.clip(np.asarray(rows, float) * self.ticks_per_row, 0, len(self.positions) - 1)
        before = np.minimum(place.astype(int), len(self.positions) - 2)
        part = (place - before)[..., None]
        return self.positions[before] * (1 - part) + self.positions[before + 1] * part

    def moves(self, rows: np.ndarray, ticks: int) -> np.ndarray:
        """Whether some joint moves on either side of each place (N,), within as many ticks."""
        part = ticks / self.ticks_per_row
        here = self.at(rows)
        slower = np.minimum(
            np.abs(self.at(rows + part) - here).max(axis=-1), np.abs(here - self.at(rows - part)).max(axis=-1)
        )
        return slower > MOVING * ticks * self.tick_s


@dataclass(frozen=True)
class Case:
    """What is run: a way of joining under a latency; `replan_rows` 1 is eager, as fast as inference allows."""

    mode: str  # REFERENCE or one of the executor's
    latency_ms: int
    replan_rows: int = 32
    disagreement_rad: float = 0.05  # of neighbouring chunks, in each arm joint, half of the time; else they agree


@dataclass(frozen=True, eq=False)
class Run:
    """One run, a row a tick: the start pose when the first chunk is there, then the commands until the plan's end."""

    position: np.ndarray  # (N, J)
    rows: np.ndarray  # (N,) how far the plan has come
    spacing: int  # ticks between two commands: 1, or those of a control period
    edges: tuple[int, ...]  # ticks at which a chunk took over


class Oracle:
    """Answers with the expert's rows; grippers are exact, each chunk shifts the arm joints by its own offset."""

    def __init__(self, robot: Robot, plan: Plan, case: Case, seed: int) -> None:
        self._plan = plan
        self._random = np.random.default_rng(seed)
        self._half = np.where(robot.is_gripper, 0, case.disagreement_rad / 2)
        self._offset = self._next_offset()
        self.start = plan.positions[0] + self._offset  # (J,) where the arms stand: what the first chunk leads on from

    def rows(self, row: float) -> np.ndarray:
        """The rows (64, J) that follow a place in the plan."""
        offset, self._offset = self._offset, self._next_offset()
        return self._plan.at(row + 1 + np.arange(HORIZON_ROWS)) + offset

    def _next_offset(self) -> np.ndarray:
        return self._half * self._random.choice((-1.0, 1.0), len(self._half))


def run(robot: Robot, plan: Plan, case: Case, seed: int) -> Run | None:
    """One run of a case; None where it did not come to the plan's end in PATIENCE times its duration."""
    return (run_reference if case.mode == REFERENCE else run_executor)(robot, plan, case, seed)


def run_executor(robot: Robot, plan: Plan, case: Case, seed: int) -> Run | None:
    """Drives the executor: at control ticks an idle policy that is due gets an Observation, later its chunk arrives."""
    oracle = Oracle(robot, plan, case, seed)
    rig = _Rig(robot, plan, oracle.start, joining=case.mode)
    rows, edges = [0.0], []
    asked_ns: int | None = None
    coming: ActionChunk | None = None
    ends = {0: 0.0}  # chunk id -> place of its last row
    while rows[-1] < plan.last_row:
        if coming is not None and coming.stamp_ns + case.latency_ms * 1_000_000 <= rig.now_ns:
            rig.offer(coming)
            edges.append(len(rig.position))
            coming = None
        due = asked_ns is None or rig.now_ns - asked_ns >= case.replan_rows * robot.period_ns
        if coming is None and due and rig.now_ns % robot.period_ns == 0:
            asked_ns = rig.now_ns
            coming = rig.chunk(oracle.rows(rows[-1]), chunk_id=len(ends))
            ends[coming.chunk_id] = rows[-1] + robot.action_offset_steps + HORIZON_ROWS - 1
            continue  # without latency it is there before the next tick
        if rig.tick():
            status = rig.executor.status()
            to_next = (status.rows_stamp_ns - rig.now_ns) / robot.period_ns
            # an ended plan stays where its last row was
            rows.append(ends[status.chunk_id] - (len(status.rows) - 1) - to_next if len(status.rows) else rows[-1])
        if len(rows) > PATIENCE * len(plan.positions):
            return None
    return Run(np.array(rig.position), np.array(rows), 1, tuple(edges))


def run_reference(robot: Robot, plan: Plan, case: Case, seed: int) -> Run:
    """The blocking loop: observe, wait for the chunk while the arms stand, send its 64 rows, one a control period.

    Its step limit is off, as by default there; no row is skipped and the period is the robot's, so it loses nothing
    but the time that it waits. Between two commands the arms are told nothing: the last one holds.
    """
    oracle = Oracle(robot, plan, case, seed)
    wait_ticks = round(case.latency_ms / 1000 / plan.tick_s)
    period = plan.ticks_per_row
    position, rows = [oracle.start] * period, [0] * period
    edges: list[int] = []
    while rows[-1] < plan.last_row:
        if edges:  # the first wait comes before the first command, in every mode
            position += [position[-1]] * wait_ticks
            rows += [rows[-1]] * wait_ticks
        edges.append(len(position))
        row = rows[-1]
        for k, target in enumerate(oracle.rows(row)[: plan.last_row - row], start=row + 1):
            position += [target] * period
            rows += [k] * period
    end = len(rows) - period + 1  # the run ends with the last command
    return Run(np.array(position[:end]), np.array(rows[:end], float), period, tuple(edges))


def follow_plan(robot: Robot, plan: Plan) -> Run:
    """The executor with one chunk that holds the whole plan: what interpolation and limits alone do."""
    rig = _Rig(robot, plan, plan.positions[0])
    rig.offer(rig.chunk(plan.at(np.arange(1, plan.last_row + 1)), chunk_id=1))
    while rig.tick() and rig.executor.state == State.RUNNING:
        pass
    places = np.minimum(np.arange(len(rig.position)) / plan.ticks_per_row, plan.last_row)
    return Run(np.array(rig.position), places, 1, ())


@dataclass(frozen=True)
class Figures:
    """What is told of a run. Figures in rad are of the arm joints; time counts from where a `Run` begins."""

    # time in which no joint got another command though one was due and the plan moves before and after that place
    standstill_ms: float
    # largest, from one command to the next: a tick, for the reference a control period
    max_step_rad: float
    # largest change within a control period beyond the one that the plan makes over the same rows
    seam_rad: float
    # second and third differences of the commands, squared, summed over the run, against those of the plan at the same
    # spacing, as a root: the ratio of the RMS values, except that time spent standing does not dilute them
    rms_acceleration_ratio: float
    rms_jerk_ratio: float
    # the same of every mode's commands looked at once a control period
    control_rate_jerk_ratio: float
    # largest second difference of the commands
    max_acceleration_rad_s2: float
    # the delay of the plan that fits the commands best, the RMS error that is then left, and the one without the delay
    lag_ms: float
    rms_error_rad: float
    rms_error_unshifted_rad: float
    # how much later than planned the last row was reached
    late_ms: float


def measure(run: Run, plan: Plan, robot: Robot) -> Figures:
    """The figures of one run."""
    arms = ~robot.is_gripper
    own, period = run.spacing, plan.ticks_per_row
    moved = np.abs(_change(run.position, own)).max(axis=1)
    stands = (moved < STANDING * own * plan.tick_s) & plan.moves(run.rows[own:], own)
    commands, planned = run.position[:, arms], plan.positions[:, arms]
    beyond = _change(commands, period) - _change(plan.at(run.rows)[:, arms], period)
    bends = np.diff(commands[::own], n=2, axis=0) / (own * plan.tick_s) ** 2
    shift, error = _best_shift(commands, planned)
    return Figures(
        standstill_ms=1e3 * plan.tick_s * float(stands.sum()),
        max_step_rad=float(np.abs(_change(commands, 1)).max()),
        seam_rad=float(np.abs(beyond).max()),
        rms_acceleration_ratio=_roughness(commands, planned, own, 2),
        rms_jerk_ratio=_roughness(commands, planned, own, 3),
        control_rate_jerk_ratio=_roughness(commands, planned, period, 3),
        max_acceleration_rad_s2=float(np.abs(bends).max()),
        lag_ms=1e3 * plan.tick_s * shift,
        rms_error_rad=error,
        rms_error_unshifted_rad=_shifted_error(commands, planned, 0),
        late_ms=1e3 * plan.tick_s * (len(commands) - len(planned)),
    )


def summary(runs: Sequence[Figures]) -> Figures:
    """Over several runs: the largest of what is a maximum, the mean of everything else."""
    merge = {"max_step_rad": max, "seam_rad": max, "max_acceleration_rad_s2": max}
    return Figures(*(merge.get(f.name, fmean)([getattr(run, f.name) for run in runs]) for f in fields(Figures)))


class _Rig:
    """An enabled executor in virtual time, with arms that are where they were last sent."""

    def __init__(self, robot: Robot, plan: Plan, start: np.ndarray, joining: str = "crossfade") -> None:
        self._robot, self.now_ns, self.position = robot, START_NS, [start]
        config = ExecutorConfig(robot=robot.name, command_rate_hz=1 / plan.tick_s, joining=joining)
        self.executor = Executor(robot, config, lambda: self.now_ns)
        self._measure()
        self._take(self.executor.enable(self.now_ns))

    def offer(self, chunk: ActionChunk) -> None:
        self._take(self.executor.offer(chunk, self.now_ns))

    def tick(self) -> bool:
        """Whether a command was sent."""
        self.now_ns += self.executor.tick_ns
        self._measure()
        command = self.executor.tick(self.now_ns)
        if command is not None:
            self.position.append(command.position)
        return command is not None

    def chunk(self, rows: np.ndarray, *, chunk_id: int) -> ActionChunk:
        """A chunk of the Observation of now."""
        return ActionChunk(
            stamp_ns=self.now_ns,
            robot=self._robot.name,
            period_s=self._robot.period_ns / NS_PER_S,
            offset_steps=self._robot.action_offset_steps,
            channels=self._robot.channels,
            rows=rows.astype(np.float32),
            epoch=self.executor.epoch,
            chunk_id=chunk_id,
        )

    def _measure(self) -> None:
        for group in self._robot.groups:
            self.executor.measured(group, JointSample(self.now_ns, self.position[-1][group.columns]))

    @staticmethod
    def _take(refusal: str | None) -> None:
        if refusal is not None:
            raise RuntimeError(f"the executor refused: {refusal}")


def _change(positions: np.ndarray, ticks: int) -> np.ndarray:
    return positions[ticks:] - positions[:-ticks]


def _roughness(commands: np.ndarray, planned: np.ndarray, spacing: int, order: int) -> float:
    ours, theirs = (np.diff(positions[::spacing], n=order, axis=0) for positions in (commands, planned))
    return float(np.sqrt((ours**2).sum() / (theirs**2).sum()))


def _best_shift(commands: np.ndarray, planned: np.ndarray) -> tuple[int, float]:
    """The delay in ticks at which the plan fits best, and the error (RMS) that is left."""
    most = max(len(commands) - len(planned), 0) + len(planned) // 10
    errors = {shift: _shifted_error(commands, planned, shift) for shift in range(-len(planned) // 10, most + 1)}
    shift = min(errors, key=lambda s: errors[s])
    return shift, errors[shift]


def _shifted_error(commands: np.ndarray, planned: np.ndarray, shift: int) -> float:
    index = np.clip(np.arange(len(commands)) - shift, 0, len(planned) - 1)
    return float(np.sqrt(np.mean((commands - planned[index]) ** 2)))
