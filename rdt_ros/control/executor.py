"""The executor's state machine: chunks and measured joints in, one joint command a tick out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rdt_ros.control.base import BaseFollower
from rdt_ros.control.intake import Intake
from rdt_ros.control.limits import SLACK, Limits, scale_into
from rdt_ros.control.plan_clock import PlanClock
from rdt_ros.control.states import TRANSITIONS, Event, State
from rdt_ros.control.timeline import Timeline
from rdt_ros.errors import InputError
from rdt_ros.options import option
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.types import NS_PER_S, ActionChunk, JointCommand, JointSample

ARRIVED = 1e-6  # rad or opening: closer than this to the last row, the plan is done
FOLLOWING_ERROR_S = 0.2  # how long an arm may be away from its command
JOINING = ("switch", "crossfade", "realtime_chunking")


@dataclass(frozen=True)
class ExecutorConfig:
    """Settings of the executor."""

    robot: str = option("agilex", doc="robot file: a shipped name or a YAML path")
    command_rate_hz: float = option(
        0.0, doc="commands per second; 0: the control rate of the robot file", unit="Hz", low=0, high=500
    )
    lockstep: bool = option(False, doc="answer a tick of /clock only once the policy has answered its Observation")
    latency_ticks: int = option(
        0, doc="lock-step only: control ticks after which a chunk takes effect", unit="ticks", low=0, high=1000
    )
    stale_after_s: float = option(0.2, doc="age of joint states at which the arms brake", unit="s", low=0.01, high=10)
    max_following_error: float = option(
        0.5, doc="distance of an arm joint from its command that, kept for 0.2 s, is a fault", unit="rad", low=0.01
    )
    joining: str = option(
        "crossfade",
        doc="how a newer chunk takes over from an older one (docs/joining.md); realtime_chunking joins as switch does, "
        "because the policy has continued the committed rows",
        choices=JOINING,
    )
    crossfade_s: float = option(
        0.4, doc="for crossfade: time in which the disagreement of two chunks fades out", unit="s", low=0.01, high=5
    )
    resume_within_s: float = option(
        1.0, doc="a hold up to this long ends with the next chunk; a longer one needs ~/enable", unit="s", low=0
    )
    first_chunk_within_s: float = option(
        10.0,
        doc="time after ~/enable or ~/home in which the first chunk may come; after it ~/enable is needed",
        unit="s",
    )
    start_velocity_scale: float = option(
        0.25, doc="part of the velocity limits at which the arms go to the first row", low=0.01, high=1
    )
    require_deadman: bool = option(
        False, doc="move only while true messages come on /deadman; without them brake, and ~/enable is needed"
    )
    deadman_timeout_s: float = option(0.3, doc="age at which a message on /deadman is void", unit="s", low=0.05, high=2)
    dry_run: bool = option(False, doc="do everything but send commands: for watching a new policy")
    realtime_priority: int = option(
        0,
        doc="SCHED_FIFO priority of the node's threads, where the system permits it (docs/executor.md)",
        low=0,
        high=98,
    )
    home_velocity_scale: float = option(0.25, doc="part of the velocity limits that ~/home uses", low=0.01, high=1)
    enable_at_start: bool = option(
        False, doc="enable as soon as joints are measured and the policy sends chunks, once; false: only by ~/enable"
    )


@dataclass(frozen=True, eq=False)
class ExecutorStatus:
    """What `~/state` tells."""

    stamp_ns: int  # of the last tick
    state: State
    reason: str
    epoch: int
    chunk_id: int
    rows: np.ndarray  # (N, J) of the plan, still to come; none unless running
    rows_stamp_ns: int  # ROS time at which the first of them is due if plan time runs with ROS time
    ticks: int
    refused: dict[str, int]  # kind -> chunks since the start
    needs_enable: bool  # the hold was too long


class Executor:
    """Follows chunks inside the limits of a robot; ROS-free, driven by `tick`.

    Commands are sent from the first target after `enable` on. That first command starts the arm joints at their
    measured pose, which is used this once. A measured gripper opening is no command (its scale differs, and it tells
    what is held, not how hard), so a gripper stays at its last command; one that never had any goes to the first row
    of the first chunk, or of the home pose, at once.

    A base, where one is driven, follows the same plan time and comes to zero with the arms.

    A tick with a plan takes the largest step along it that all joints can take together; one without brakes every
    joint along its motion and then repeats the last command. So stop, fault and disable only cut off the plan.
    """

    def __init__(self, robot: Robot, config: ExecutorConfig, steady_ns: Callable[[], int]) -> None:
        rate_hz = config.command_rate_hz or robot.control_rate_hz
        if config.lockstep and rate_hz != robot.control_rate_hz:
            raise InputError(
                f"executor.command_rate_hz: expected 0 or {robot.control_rate_hz:g} Hz in lock-step, found {rate_hz:g}"
            )
        if config.lockstep and config.dry_run:
            raise InputError("executor.dry_run: expected false in lock-step, found true: the simulator would stand")
        self.tick_ns = round(NS_PER_S / rate_hz)
        self._robot, self._config, self._steady_ns = robot, config, steady_ns
        self._limits = Limits.of(robot, self.tick_ns / NS_PER_S)
        self._intake = Intake(robot)
        self._timeline = Timeline(
            self._limits,
            robot.period_ns,
            crossfade_ns=round(config.crossfade_s * NS_PER_S) if config.joining == "crossfade" else 0,
            grippers=robot.is_gripper,
        )
        self._base = BaseFollower(robot.base, self._limits.tick_s) if robot.base and robot.base.command else None
        self._clock = PlanClock()
        self._state, self._reason = State.INACTIVE, "not enabled yet"
        self._epoch, self._epoch_start_ns = 0, 0
        self._now_ns: int | None = None  # of the last tick
        self._plan_ns, self._rate = 0, 0.0
        self._position = np.full(len(robot.joints), np.nan)  # last command; NaN where none was given yet
        self._velocity = np.zeros(len(robot.joints))
        self._live = False  # whether commands are sent
        self._silence = False  # whether they cease once the arms rest
        self._measured: dict[str, tuple[JointSample, int]] = {}  # by group, with the steady time of its arrival
        self._pending: deque[ActionChunk] = deque()
        self._newest_ns = self._answered_ns = -1  # stamps of the newest chunk and of the newest answer in this epoch
        self._intruder = ""
        self._deadman_ns: int | None = None  # steady time of the last message that it is held
        self._hold_until_ns: int | None = None  # when a hold becomes too long, on the clock of watchdogs
        self._expired = False  # whether it was too long
        self._moved_ns = -1  # steady time of the last command that moved an arm
        self._away_ticks = 0
        self._ticks = 0
        self._limited: dict[tuple[str, str], float] = {}
        self._refused: Counter[str] = Counter()

    # What others say

    def measured(self, group: JointGroup, sample: JointSample) -> None:
        """Takes measured joints of a group."""
        self._measured[group.name] = (sample, self._steady_ns())

    def deadman(self, held: bool) -> None:
        """Says whether the dead-man switch is held; what is not said again soon is void."""
        self._deadman_ns = self._steady_ns() if held else None

    def offer(self, chunk: ActionChunk, now_ns: int) -> str | None:
        """Takes a chunk, or returns why it is refused (whole); every refusal is counted by its kind."""
        if self._state not in (State.HOLDING, State.RUNNING):
            return self._refuse("not following", f"the executor is {self._state.name.lower()}")
        if self._expired:
            return self._refuse("not following", self._reason)
        refusal = self._intake.refusal(chunk, epoch=self._epoch, now_ns=now_ns, newest_ns=self._newest_ns)
        if refusal is not None:
            return self._refuse(*refusal)
        self._answered_ns = max(self._answered_ns, chunk.stamp_ns)
        if len(chunk.rows):
            self._newest_ns = chunk.stamp_ns
            self._pending.append(chunk)
            self._go_live(self._within(self._intake.rows(chunk)[:1])[0])
        return None

    def enable(self, now_ns: int) -> str | None:
        """Begins to follow chunks, in a new epoch, from the measured pose; returns why not, None if enabled."""
        if self._state in (State.HOLDING, State.RUNNING) and not self._expired:
            return None
        if (self._state, Event.ENABLE) not in TRANSITIONS:
            return f"{self._state.name.lower()}: {self._reason}"
        reason = self._intruder or self._released() or self._stale(now_ns)
        if reason:
            return reason
        if self._moves():
            return "the arms are still being braked"
        if any(arrived_ns <= self._moved_ns for _, arrived_ns in self._measured.values()):
            return "the joints were measured before the arms came to rest"
        self._live = self._silence = False
        self._hold_for(self._config.first_chunk_within_s, now_ns)
        self._now_ns = None
        self._clock.reset()
        self._clock.record(now_ns, self._plan_ns)
        self._move(Event.ENABLE, "enabled, no chunk yet")
        self._begin_epoch(now_ns)
        return None

    def disable(self) -> str | None:
        """Brakes, then sends nothing more; returns why not, None if done."""
        if self._state == State.INACTIVE:
            return None
        if (self._state, Event.DISABLE) not in TRANSITIONS:
            return f"{self._state.name.lower()}: {self._reason}"
        self._cut(Event.DISABLE, "disabled", silence=True)
        return None

    def home(self) -> str | None:
        """Goes through the home poses at reduced speed; returns why not, None if it begins."""
        if (self._state, Event.HOME) not in TRANSITIONS:
            return f"{self._state.name.lower()}: {self._reason}"
        if self._expired:
            return self._reason
        poses = [np.array(pose) for pose in self._robot.home]
        self._pending.clear()
        self._drop_base()
        self._go_live(poses[0])
        self._timeline.visit(
            poses,
            plan_ns=self._plan_ns,
            position=self._position,
            slope=self._slope(),
            velocity_scale=self._config.home_velocity_scale,
        )
        self._move(Event.HOME, "going home")
        return None

    def software_stop(self) -> None:
        """Cuts off all chunks and brakes from the next tick on; holds until `reset_stop` and a new `enable`."""
        self._cut(Event.SOFTWARE_STOP, "software stop", silence=self._silence)

    def reset_stop(self) -> str | None:
        """Ends the latched software stop; nothing moves before the next `enable`. Returns why not, None if done."""
        if self._state != State.STOPPED:
            return "no software stop"
        if self._moves():
            return "the arms are still being braked"
        self._silence = True
        self._move(Event.RESET_STOP, "software stop was reset, not enabled")
        return None

    def intrusion(self, who: str) -> None:
        """Says who else commands the arms, empty for nobody. The arms brake, and then leave the topic to the other."""
        self._intruder = who
        if who:
            self._fail(who)
            self._silence = True

    def status(self) -> ExecutorStatus:
        """What `~/state` tells at this moment."""
        running = self._state == State.RUNNING
        due_ns, rows = self._timeline.left(self._plan_ns if running else np.iinfo(np.int64).max)
        now_ns = self._now_ns or 0
        return ExecutorStatus(
            stamp_ns=now_ns,
            state=self._state,
            reason=self._reason,
            epoch=self._epoch,
            chunk_id=self._timeline.chunk_id,
            rows=rows,
            rows_stamp_ns=now_ns + int(due_ns[0]) - self._plan_ns if len(due_ns) else 0,
            ticks=self._ticks,
            refused=dict(self._refused),
            needs_enable=self._expired,
        )

    def take_limited(self) -> dict[tuple[str, str], float]:
        """The largest part of the plan that was held back since the last call, in rad or openings.

        Keys are joint and reason: "position", "velocity" or "acceleration".
        """
        limited, self._limited = self._limited, {}
        return limited

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return self._epoch

    # One tick

    def ready(self, now_ns: int) -> bool:
        """Whether this tick may be done; lock-step waits for the policy's answer that the tick depends on.

        That is the one for the Observation of `latency_ticks` ago, unless that one is older than the epoch. And it
        waits for a first target: the first chunk of the epoch.
        """
        if not self._config.lockstep or self._state not in (State.HOLDING, State.RUNNING) or self._expired:
            return True
        asked_ns = now_ns - self._config.latency_ticks * self._robot.period_ns
        return self._live and (asked_ns < self._epoch_start_ns or asked_ns <= self._answered_ns)

    def tick(self, now_ns: int) -> JointCommand | None:
        """The command of the tick at ROS time `now_ns`, None where nothing is to be sent."""
        if self._now_ns is not None and now_ns <= self._now_ns:
            self._clock.reset()
            self._fail(f"ROS time went back by {(self._now_ns - now_ns) / NS_PER_S:.3f} s")
        self._now_ns = now_ns
        self._ticks += 1
        self.watch(now_ns)
        self._take_pending(now_ns)
        if self._silence and not self._moves():
            self._live = False
            if self._config.lockstep:  # a simulator that is reset meanwhile has its grippers as at the start
                self._position = np.full_like(self._position, np.nan)
        if self._live:
            follows, plan_ns = self._timeline.path is not None, self._plan_ns
            self._velocity = self._follow() if follows else self._limits.braked(self._position, self._velocity)
            self._position = self._position + self._velocity * self._limits.tick_s
            if self._base is not None:
                self._base.tick(plan_ns, self._rate if follows else 0.0)
            if self._moves():
                self._moved_ns = self._steady_ns()
        self._clock.record(now_ns, self._plan_ns)
        if not self._live:
            return None
        return JointCommand(now_ns, self._position, None if self._base is None else self._base.velocity)

    def watch(self, now_ns: int) -> None:
        """What the joints, the dead-man switch and the clock tell; every tick asks, others may where no tick comes."""
        if self._state not in (State.HOLDING, State.RUNNING, State.HOMING):
            return
        reason = self._released() or self._stale(now_ns)
        if reason:
            self._fail(reason)
            return
        until_ns = self._hold_until_ns
        if self._state == State.HOLDING and until_ns is not None and self._watched_ns(now_ns) > until_ns:
            self._hold_until_ns, self._expired = None, True
            self._reason += " for too long: ~/enable is needed"
        if self._live and not self._config.dry_run:
            error = np.where(self._robot.is_gripper, 0, np.abs(self._measured_position() - self._position))
            joint = int(np.argmax(error))
            self._away_ticks = self._away_ticks + 1 if error[joint] > self._config.max_following_error else 0
            if self._away_ticks * self._limits.tick_s > FOLLOWING_ERROR_S:
                self._fail(f"{self._robot.joint_names[joint]} is {error[joint]:.2f} rad away from its command")

    def _released(self) -> str:
        """That the dead-man switch is not held where it must be, empty otherwise."""
        if not self._config.require_deadman:
            return ""
        age_ns = None if self._deadman_ns is None else self._steady_ns() - self._deadman_ns
        if age_ns is not None and age_ns <= self._config.deadman_timeout_s * NS_PER_S:
            return ""
        return "the dead-man switch is not held"

    def _hold_for(self, seconds: float, now_ns: int) -> None:
        """From now on a hold may take so long."""
        self._hold_until_ns, self._expired = self._watched_ns(now_ns) + round(seconds * NS_PER_S), False

    def _watched_ns(self, now_ns: int) -> int:
        """The clock of watchdogs: steady, in lock-step ROS time."""
        return now_ns if self._config.lockstep else self._steady_ns()

    def _stale(self, now_ns: int) -> str:
        """Which group has no fresh measured joints, empty for none. In lock-step the age is counted in ROS time."""
        steady_ns = self._steady_ns()
        for group in self._robot.groups:
            if group.name not in self._measured:
                return f"no joints of {group.name} on {group.measured.topic}"
            sample, arrived_ns = self._measured[group.name]
            age_s = (now_ns - sample.stamp_ns if self._config.lockstep else steady_ns - arrived_ns) / NS_PER_S
            if age_s > self._config.stale_after_s:
                return f"joints of {group.name} on {group.measured.topic} are {age_s:.2f} s old"
        return ""

    def _take_pending(self, now_ns: int) -> None:
        """Lays chunks on the timeline from the first tick later than their Observation (and the injected latency)."""
        latency_ns = self._config.latency_ticks * self._robot.period_ns if self._config.lockstep else 0
        while self._pending and self._pending[0].stamp_ns + latency_ns < now_ns:
            chunk = self._pending.popleft()
            due_ns = self._clock.at(chunk.stamp_ns) + self._intake.due_offsets_ns(chunk)
            placed = self._timeline.place(
                chunk.chunk_id,
                due_ns,
                self._within(self._intake.rows(chunk)),
                plan_ns=self._plan_ns,
                position=self._position,
                slope=self._slope(),
            )
            if placed:
                self._place_base(chunk, due_ns)
                self._hold_until_ns = None
                self._move(Event.CHUNK, f"following chunk {chunk.chunk_id}")

    def _place_base(self, chunk: ActionChunk, due_ns: np.ndarray) -> None:
        if self._base is None:
            return
        rows = self._intake.base_rows(chunk)
        if rows is None:
            self._base.clear()
        else:
            self._base.place(due_ns, rows)

    def _follow(self) -> np.ndarray:
        """Velocity (J,) of this tick along the plan; moves plan time on by as much.

        The arm joints keep to the path together. A gripper chases its own value: it never slows the arms down, and
        never goes beyond what the plan asks of it.
        """
        path, tick_s, arms = self._timeline.path, self._limits.tick_s, ~self._robot.is_gripper
        assert path is not None
        rate = path.rate(self._plan_ns)
        rate = min(rate, path.rate(self._plan_ns + int(rate * self.tick_ns)))
        if self._base is not None:
            rate = min(rate, self._base.rate(self._plan_ns))
        step_ns = min(round(rate * self.tick_ns), path.end_ns - self._plan_ns)
        here = path.sample(self._plan_ns)
        along = (path.sample(self._plan_ns + step_ns) - here) / tick_s
        want = along + self._limits.approach(np.where(arms, here - self._position, 0))
        scale = self._config.start_velocity_scale if self._plan_ns < self._timeline.ramp_end_ns else 1.0
        low, high = self._limits.reach(self._velocity, scale)
        common = scale_into(want[arms], low[arms], high[arms])
        factor = 1.0 if common is None else common
        window = self._limits.window(self._position, self._velocity)
        moved = np.clip(factor * want, *window)
        if common is None:  # the last resort was each joint by itself; plan time waits for the one held back most
            part = np.where(arms & (np.abs(want) > SLACK), moved / np.where(want == 0, 1, want), 1)
            factor = float(part.clip(0, 1).min())
        advance_ns = round(factor * step_ns)
        asked_ns = min(self.tick_ns, path.end_ns - self._plan_ns)
        if advance_ns < asked_ns or common is None:
            self._note_limited((path.sample(self._plan_ns + asked_ns) - self._position) / tick_s)
        self._plan_ns += advance_ns
        self._rate = advance_ns / self.tick_ns
        chase = self._limits.chase(path.sample(self._plan_ns) - self._position)
        moved = np.where(arms, moved, np.clip(chase, *window))
        away = np.abs(path.rows[-1] - self._position)
        if self._plan_ns < path.end_ns or max(away.max(), np.abs(moved).max()) > ARRIVED:
            return moved
        self._end_plan()
        return np.zeros_like(moved)

    def _end_plan(self) -> None:
        self._timeline.clear()
        self._drop_base()
        now_ns = self._now_ns
        assert now_ns is not None  # set by the tick that got here
        if self._state == State.HOMING:
            self._move(Event.END, "at home, no chunk yet")
            self._begin_epoch(now_ns)
            self._hold_for(self._config.first_chunk_within_s, now_ns)
        else:
            self._move(Event.END, "the plan has ended, no fresh chunk")
            self._hold_for(self._config.resume_within_s, now_ns)

    # Small steps

    def _move(self, event: Event, reason: str) -> None:
        self._state, self._reason = TRANSITIONS[self._state, event], reason

    def _cut(self, event: Event, reason: str, *, silence: bool) -> None:
        """Chunks go first, so that nothing of them can follow the braking."""
        self._hold_until_ns, self._expired = None, False
        self._pending.clear()
        self._timeline.clear()
        self._drop_base()
        self._silence = silence
        self._move(event, reason)

    def _fail(self, reason: str) -> None:
        if (self._state, Event.FAILURE) in TRANSITIONS:
            self._cut(Event.FAILURE, reason, silence=False)

    def _drop_base(self) -> None:
        if self._base is not None:
            self._base.clear()

    def _moves(self) -> bool:
        """Whether arms or base are commanded to move."""
        return bool(self._velocity.any()) or (self._base is not None and bool(self._base.velocity.any()))

    def _refuse(self, kind: str, particulars: str) -> str:
        self._refused[kind] += 1
        return f"{kind}: {particulars}"

    def _begin_epoch(self, now_ns: int) -> None:
        self._epoch += 1
        self._epoch_start_ns = now_ns
        self._newest_ns = self._answered_ns = -1

    def _go_live(self, first_row: np.ndarray) -> None:
        """From now on commands are sent: arms from the measured pose, a gripper without a command as in this row."""
        if not self._live:
            grippers = np.where(np.isnan(self._position), first_row, self._position)
            self._position = np.where(self._robot.is_gripper, grippers, self._measured_position())
            self._away_ticks = 0
            self._live = True

    def _slope(self) -> np.ndarray | None:
        """Motion (J,) per second of plan time, None where the arms stand."""
        return self._velocity / self._rate if self._rate > 0 and self._velocity.any() else None

    def _measured_position(self) -> np.ndarray:
        return np.concatenate([self._measured[group.name][0].position for group in self._robot.groups])

    def _within(self, rows: np.ndarray) -> np.ndarray:
        """Rows (T, J) inside the position limits; what was cut off is noted."""
        inside = np.clip(rows, self._limits.lower, self._limits.upper)
        self._note("position", np.abs(rows - inside).max(axis=0))
        return inside

    def _note_limited(self, asked: np.ndarray) -> None:
        """Notes by how much the plan at full speed, `asked` (J,) rad/s, is beyond the limits."""
        tick_s = self._limits.tick_s
        self._note("velocity", (np.abs(asked) - self._limits.velocity) * tick_s)
        self._note("acceleration", (np.abs(asked - self._velocity) - self._limits.acceleration * tick_s) * tick_s)

    def _note(self, reason: str, amount: np.ndarray) -> None:
        for joint in np.flatnonzero(amount > ARRIVED):
            key = (self._robot.joint_names[joint], reason)
            self._limited[key] = max(self._limited.get(key, 0.0), float(amount[joint]))
