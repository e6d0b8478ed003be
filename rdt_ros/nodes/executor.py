"""The `executor` node: ActionChunks in, joint commands out at every tick; the states are those of `rdt_ros.control`."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rdt_msgs.msg import ActionChunk, ExecutorState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from rdt_ros.control.executor import Executor, ExecutorConfig, ExecutorStatus
from rdt_ros.control.rhythm import Rhythm
from rdt_ros.control.states import State
from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.ownership import other_publisher
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.realtime import calm_interpreter, fine_timers, schedule
from rdt_ros.robot.description import JointGroup, Robot, load_robot
from rdt_ros.types import NS_PER_S, JointCommand

STATE_PERIOD_S = 0.1
CHANGE_PERIOD_S = 0.01  # a new state or epoch is told so soon
WATCH_PERIOD_S = 1.0
CATCH_UP_NS = NS_PER_S // 20  # of /clock; a longer jump is one tick, not a burst of commands
COMMANDS = {"joint_state": JointState, "float64_multi_array": Float64MultiArray}
LEAD_NS = 2_000_000  # a command is ready this much before it is due: what takes longer now and then delays nothing
SET_BACK_NS = NS_PER_S // 10  # of the computer's clock; a smaller step back is waited for


class ExecutorNode(Node):
    """Ticks on the grid of ROS time: from a thread of its own, or, with use_sim_time, from `/clock`."""

    def __init__(self) -> None:
        super().__init__("executor")
        self._config = load(self, ExecutorConfig)
        self._robot = load_robot(self._config.robot)
        self._executor = Executor(self._robot, self._config, time.monotonic_ns)
        self._lock = threading.Lock()  # over the executor
        self._rhythm = Rhythm(self._executor.tick_ns)
        self._sim_time = self.get_parameter("use_sim_time").value
        self._lockstep = self._config.lockstep
        if self._lockstep and not self._sim_time:
            raise InputError("executor.lockstep: expected use_sim_time to be true as well, found false")
        self._clock_ns: int | None = None  # newest /clock
        self._sent: JointCommand | None = None  # the last one
        self._due_ns: int | None = None  # tick of /clock that is not done yet
        self._told: tuple[State, int] | None = None  # state and epoch of the last message
        self._refused_before = 0
        self._enable_at_start, self._chunk_heard = self._config.enable_at_start, False
        self._make_endpoints()
        if self._config.dry_run:
            self.get_logger().warning("dry run: no commands will be sent")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="commands", daemon=True)
        calm_interpreter()
        if not self._sim_time:
            # this thread too: the other one may have to wait for it
            refusal = schedule(self._config.realtime_priority)
            if refusal:
                self.get_logger().warning(refusal)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread that sends commands."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _make_endpoints(self) -> None:
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._commands: list[tuple[JointGroup, Publisher]] = []
        for group in self._robot.groups:
            if not self._config.dry_run:
                kind = COMMANDS[group.command.message]
                self._commands.append((group, self.create_publisher(kind, group.command.topic, 10)))
            self.create_subscription(
                JointState, group.measured.topic, lambda msg, group=group: self._on_measured(group, msg), best_effort
            )
        base = self._robot.base
        self._base_commands: Publisher | None = None
        if base is not None and base.command and not self._config.dry_run:
            self._base_commands = self.create_publisher(Twist, base.command, 10)
        self._states = self.create_publisher(ExecutorState, "~/state", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, 10)
        latest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Bool, "software_stop", self._on_software_stop, latest)
        if self._config.require_deadman:
            self.create_subscription(Bool, "deadman", self._on_deadman, latest)
        if self._sim_time:  # in lock-step no /clock may be lost
            self.create_subscription(Clock, "/clock", self._on_clock, 10 if self._lockstep else best_effort)
        self._serve("~/enable", self._enable)
        self._serve("~/disable", self._executor.disable)
        self._serve("~/home", self._executor.home)
        self._serve("~/reset_stop", self._executor.reset_stop)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATE_PERIOD_S, self._on_state_timer, clock=steady)
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(CHANGE_PERIOD_S, self._tell_change, clock=steady)

    def _serve(self, name: str, action: Callable[[], str | None]) -> None:
        """A service that does `action` and answers with its refusal, if any."""

        def handle(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            with self._lock:
                refusal = action()
                status = self._executor.status()
            response.success, response.message = refusal is None, refusal or status.reason
            self._tell()
            self._answer_due()
            return response

        self.create_service(Trigger, name, handle)

    # In

    def _on_measured(self, group: JointGroup, msg: JointState) -> None:
        try:
            sample = messages.joint_sample(self._robot, group, "measured", msg)
        except InputError as error:
            self.get_logger().warning(f"ignored: {error}", throttle_duration_sec=1.0)
            return
        with self._lock:
            self._executor.measured(group, sample)

    def _on_chunk(self, msg: ActionChunk) -> None:
        now_ns = self._now_ns()
        try:
            chunk = messages.action_chunk(msg)
        except InputError as error:
            self.get_logger().warning(f"chunk refused: {error}", throttle_duration_sec=1.0)
            return
        self._chunk_heard = True
        with self._lock:
            refusal = self._executor.offer(chunk, now_ns or 0)
            following = self._executor.state in (State.HOLDING, State.RUNNING)
        if refusal and following:
            self.get_logger().warning(f"chunk {chunk.chunk_id} refused: {refusal}", throttle_duration_sec=1.0)
        self._answer_due()

    def _on_software_stop(self, msg: Bool) -> None:
        if msg.data:
            with self._lock:
                self._executor.software_stop()
            self._tell()
            self._answer_due()

    def _on_deadman(self, msg: Bool) -> None:
        with self._lock:
            self._executor.deadman(msg.data)

    def _enable(self) -> str | None:
        self._executor.intrusion(self._others())
        now_ns = self._now_ns()
        if now_ns is None:
            return "no time on /clock yet"
        before = self._executor.epoch
        refusal = self._executor.enable(now_ns)
        if self._lockstep and self._executor.epoch != before:  # the simulator stands at a tick that may be done already
            self._due_ns = now_ns // self._executor.tick_ns * self._executor.tick_ns
        return refusal

    # Time

    def _now_ns(self) -> int | None:
        return self._clock_ns if self._sim_time else self.get_clock().now().nanoseconds

    def _on_clock(self, msg: Clock) -> None:
        """Every grid time that has passed is one tick; in lock-step it may have to wait for its answer."""
        tick_ns, before_ns = self._executor.tick_ns, self._clock_ns
        self._clock_ns = messages.stamp_ns(msg.clock)
        grid_ns = self._clock_ns // tick_ns * tick_ns
        if before_ns is None or self._clock_ns < before_ns or self._clock_ns - before_ns > CATCH_UP_NS:
            first_ns = grid_ns
        else:
            first_ns = before_ns // tick_ns * tick_ns + tick_ns
        if self._lockstep:
            if first_ns <= grid_ns:
                self._due_ns = grid_ns
            elif self._sent is not None and self._sent.stamp_ns == self._clock_ns:
                # the simulator still waits: it was found after the command was sent
                self._publish(self._sent, self._messages(self._sent))
            self._answer_due()
        else:
            for due_ns in range(first_ns, grid_ns + 1, tick_ns):
                self._do_tick(due_ns)

    def _answer_due(self) -> None:
        """Lock-step: does the tick at which the simulator stands as soon as it can be done."""
        if self._due_ns is None:
            return
        with self._lock:
            ready = self._executor.ready(self._due_ns)
        if ready:
            due_ns, self._due_ns = self._due_ns, None
            self._do_tick(due_ns)
            self._tell()

    def _loop(self) -> None:
        """Computes each command a little before its absolute deadline and sends it there.

        A tick that is missed altogether is left out, and plan time waits for it.
        """
        fine_timers()
        schedule(self._config.realtime_priority and self._config.realtime_priority + 1)
        tick_ns = self._executor.tick_ns
        lead_ns = min(LEAD_NS, tick_ns // 2)
        due_ns = (self._now_ns() // tick_ns + 1) * tick_ns
        while not self._ending.is_set():
            now_ns = self._now_ns()
            if due_ns - now_ns > tick_ns + SET_BACK_NS:
                due_ns = (now_ns // tick_ns + 1) * tick_ns  # the executor takes a tick of the past for a fault
            elif due_ns - now_ns > lead_ns:
                time.sleep((due_ns - now_ns - lead_ns) / NS_PER_S)
            else:
                command, outgoing = self._compute(due_ns)
                time.sleep(min(max(due_ns - self._now_ns(), 0), lead_ns) / NS_PER_S)
                lateness_ns = self._now_ns() - due_ns
                self._publish(command, outgoing)
                self._rhythm.add(time.monotonic_ns(), lateness_ns)
                due_ns = max(due_ns, self._now_ns() // tick_ns * tick_ns) + tick_ns

    def _do_tick(self, due_ns: int) -> None:
        """A tick of `/clock`, at once."""
        self._publish(*self._compute(due_ns))
        self._rhythm.add(time.monotonic_ns(), 0)

    def _compute(self, due_ns: int) -> tuple[JointCommand | None, list[tuple[Publisher, Any]]]:
        """The command of a tick, and the messages that carry it."""
        with self._lock:
            command = self._executor.tick(due_ns)
        return command, [] if command is None else self._messages(command)

    # Out

    def _messages(self, command: JointCommand) -> list[tuple[Publisher, Any]]:
        robot = self._robot
        outgoing = [(publisher, messages.command_msg(robot, group, command)) for group, publisher in self._commands]
        if self._base_commands is not None and command.base is not None:
            outgoing.append((self._base_commands, messages.twist_msg(command.base)))
        return outgoing

    def _publish(self, command: JointCommand | None, outgoing: list[tuple[Publisher, Any]]) -> None:
        for publisher, msg in outgoing:
            publisher.publish(msg)
        if command is not None:
            self._sent = command

    def _on_state_timer(self) -> None:
        others, now_ns = self._others(), self._now_ns()
        with self._lock:
            self._executor.intrusion(others)
            if self._sim_time and not self._lockstep and now_ns is not None:
                self._executor.watch(now_ns)  # a /clock that stands brings no tick
        if self._enable_at_start and self._chunk_heard:
            with self._lock:
                self._enable_at_start = self._enable() is not None
            self._answer_due()
        self._tell()

    def _tell_change(self) -> None:
        with self._lock:
            now = self._executor.state, self._executor.epoch
        if now != self._told:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            status, limited = self._executor.status(), self._executor.take_limited()
        msg = _state_msg(self._robot, status, limited, self._rhythm)
        if self._told is None or self._told[0] != status.state:
            self.get_logger().info(f"{status.state.name.lower()}: {status.reason}")
        self._told = status.state, status.epoch
        self._states.publish(msg)

    def _watch(self) -> None:
        """Once a second: diagnostics."""
        with self._lock:
            status = self._executor.status()
        figures = self._rhythm.figures()
        refused = sum(count for kind, count in status.refused.items() if kind != "not following")
        level = DiagnosticStatus.OK
        if refused > self._refused_before or status.state == State.STOPPED:
            level = DiagnosticStatus.WARN
        if status.needs_enable:
            level = DiagnosticStatus.WARN
        if status.state == State.FAULT:
            level = DiagnosticStatus.ERROR
        self._refused_before = refused
        values = {"epoch": status.epoch, "ticks": status.ticks, **figures, "chunks_refused": refused}
        values |= {f"refused {kind}": count for kind, count in status.refused.items()}
        dry = "dry run, " if self._config.dry_run else ""
        text = f"{dry}{status.state.name.lower()}: {status.reason}"
        self._diagnostics.publish(diagnostic_array(self, level, text, values))

    def _others(self) -> str:
        """Who else publishes on a command topic, empty for nobody."""
        publishers = [publisher for _, publisher in self._commands]
        for topic in [p.topic_name for p in (*publishers, self._base_commands) if p is not None]:
            if other := other_publisher(self, topic):
                return f"{topic} is also published by {other}"
        return ""


def _state_msg(
    robot: Robot, status: ExecutorStatus, limited: Mapping[tuple[str, str], float], rhythm: Rhythm
) -> ExecutorState:
    msg = ExecutorState(
        state=int(status.state),
        reason=status.reason,
        epoch=status.epoch,
        chunk_id=status.chunk_id,
        rows_left=len(status.rows),
        committed_stamp_ns=status.rows_stamp_ns,
        committed_period_s=robot.period_ns / NS_PER_S,
        channel_names=list(robot.channels),
        committed=array.array("f", status.rows.astype(np.float32).tobytes()),
        ticks=status.ticks,
        late_ticks=rhythm.late_ticks,
        worst_lateness_ms=rhythm.worst_lateness_ms,
        limited_joints=[joint for joint, _ in limited],
        limited_reasons=[reason for _, reason in limited],
        limited_by=array.array("f", limited.values()),
        refused_reasons=list(status.refused),
        refused_counts=array.array("I", status.refused.values()),
    )
    msg.header.stamp = messages.stamp_msg(status.stamp_ns)
    msg.header.frame_id = robot.name
    return msg


def main() -> None:
    """Runs the node."""
    run_node(ExecutorNode, many_messages=True)
