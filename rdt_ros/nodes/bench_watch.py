"""For `rdt bench faults`: an operator that writes down what the arms are told, what they do, and who complains."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rdt_msgs.msg import ExecutorState
from sensor_msgs.msg import JointState

from rdt_ros.control.states import State
from rdt_ros.nodes import messages
from rdt_ros.nodes.operator import Operator
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.types import NS_PER_S

INTRUDER = "intruder"  # frame_id of the commands that this file sends in another's place
INTRUSION_PERIOD_S = 0.04
DEPTH = 1000  # a command that is missed here would look like a jump
STILL = 1e-6  # rad between two commands of an arm joint that rests
RESTING = 0.05  # rad/s of an arm joint that rests, as measured
SILENCE_S = 1.0  # without a state: the executor sends ten a second


@dataclass(frozen=True, eq=False)
class Seen:
    """The joints of one message, when it arrived (steady clock), and its stamp."""

    at_s: float
    stamp_s: float  # ROS time, here the system's
    position: np.ndarray  # (joints of the group,)


@dataclass(frozen=True)
class Said:
    """Who said what, and when it was heard (steady clock)."""

    at_s: float
    who: str
    text: str


class BenchWatch(Operator):
    """Sees the commands and the joints of every group, each change of the executor's state, and all complaints."""

    def __init__(self, robot: Robot, namespace: str = "", domain: str = "") -> None:
        super().__init__(namespace, domain)
        self._robot = robot
        self._arm = {group.name: ~robot.is_gripper[group.columns] for group in robot.groups}
        self.commands: dict[str, list[Seen]] = {group.name: [] for group in robot.groups}
        self.measured: dict[str, list[Seen]] = {group.name: [] for group in robot.groups}
        self.command_moved_s = self.measured_moved_s = 0.0  # when an arm joint was last in motion
        self.speed = self.peak_speed = 0.0  # rad/s of the fastest arm joint as measured: newest message, and largest
        self.states: list[Said] = []  # who: the state's name, text: its reason; only changes
        self.warnings: list[Said] = []  # diagnostics that are not OK
        self._state_at_s = 0.0

    def __enter__(self) -> BenchWatch:
        super().__enter__()
        subscribe = self._node.create_subscription
        for group in self._robot.groups:
            for topic, handler in ((group.command, self._on_command), (group.measured, self._on_measured)):
                subscribe(JointState, self._prefix + topic.topic, partial(handler, group), DEPTH)
        subscribe(ExecutorState, self._prefix + "executor/state", self._on_state, DEPTH)
        subscribe(DiagnosticArray, "/diagnostics", self._on_complaint, DEPTH)
        return self

    @property
    def state(self) -> str:
        """The executor's newest state, empty where it has been silent for over a second."""
        return self.states[-1].who if time.monotonic() - self._state_at_s < SILENCE_S else ""

    def forget(self) -> None:
        """Forgets the joints that were seen until now, all but the last ones."""
        for seen in (*self.commands.values(), *self.measured.values()):
            del seen[:-3]
        self.peak_speed = 0.0

    def intrude(self) -> None:
        """Becomes a second publisher on the first group's command topic, which sends the pose measured now."""
        group = self._robot.groups[0]
        self._intruder = self._node.create_publisher(JointState, self._prefix + group.command.topic, 10)
        position = self.measured[group.name][-1].position
        self._intrusion = self._node.create_timer(INTRUSION_PERIOD_S, partial(self._send, group, position))

    def retire(self) -> None:
        """Leaves that topic again."""
        self._node.destroy_timer(self._intrusion)
        self._node.destroy_publisher(self._intruder)

    def _send(self, group: JointGroup, position: np.ndarray) -> None:
        stamp_ns = self._node.get_clock().now().nanoseconds
        msg = messages.joint_state_msg(self._robot, group, "command", stamp_ns=stamp_ns, position=position)
        msg.header.frame_id = INTRUDER
        self._intruder.publish(msg)

    def _on_command(self, group: JointGroup, msg: JointState) -> None:
        if msg.header.frame_id == INTRUDER:
            return
        sample, seen = messages.joint_sample(self._robot, group, "command", msg), self.commands[group.name]
        seen.append(Seen(time.monotonic(), sample.stamp_ns / NS_PER_S, sample.position))
        step = sample.position - seen[-2 if len(seen) > 1 else -1].position
        if np.abs(step[self._arm[group.name]]).max() > STILL:
            self.command_moved_s = seen[-1].at_s

    def _on_measured(self, group: JointGroup, msg: JointState) -> None:
        sample = messages.joint_sample(self._robot, group, "measured", msg)
        self.measured[group.name].append(Seen(time.monotonic(), sample.stamp_ns / NS_PER_S, sample.position))
        self.speed = float(np.abs(sample.velocity[self._arm[group.name]]).max())
        self.peak_speed = max(self.peak_speed, self.speed)
        if self.speed > RESTING:
            self.measured_moved_s = time.monotonic()

    def _on_state(self, msg: ExecutorState) -> None:
        self._state_at_s = time.monotonic()
        name = State(msg.state).name.lower()
        if not self.states or (self.states[-1].who, self.states[-1].text) != (name, msg.reason):
            self.states.append(Said(self._state_at_s, name, msg.reason))

    def _on_complaint(self, msg: DiagnosticArray) -> None:
        now_s = time.monotonic()
        bad = [status for status in msg.status if status.level != DiagnosticStatus.OK]
        self.warnings += [Said(now_s, status.name, status.message) for status in bad]
