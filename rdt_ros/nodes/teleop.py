"""The `teleop` node: the scripted expert in the teleoperator's place, on the leader topics of the simulated robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from rdt_msgs.msg import Observation, RecorderState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rdt_ros.nodes import messages
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.qos import LATCHED, OBSERVATIONS
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.task import read_scene_text

DEPTH = 10


@dataclass(frozen=True)
class TeleopConfig:
    """Settings of the scripted teleoperator."""

    robot: str = option("sim_aloha", doc="Robot file: a shipped name or a path")
    autostart: bool = option(
        False, doc="Begin each scene by itself; false: when the recorder begins, or after the service ~/start"
    )
    lockstep: bool = option(False, doc="Send a tick only once the Observation of the tick before is out: none is lost")


class TeleopNode(Node):
    """Plans for the scene, then sends one row of the plan a control tick, and the last one for ever.

    Before the start it sends nothing, so in lock-step the simulator stands until then.
    """

    def __init__(self) -> None:
        super().__init__("teleop")
        self._config = load(self, TeleopConfig)
        self._robot = load_robot(self._config.robot)
        self._leaders = [
            (group, self.create_publisher(JointState, group.topic("leader").topic, DEPTH))
            for group in self._robot.groups
        ]
        self._scene: CubeScene | None = None
        self._plan = np.zeros((0, len(self._robot.joints)))
        self._started = self._config.autostart
        self._first_tick: int | None = None  # the tick of the plan's first row, in control periods
        self._tick = -1
        self._clock_ns = -1
        self._observed_ns = -1  # stamp of the newest Observation
        self._due: int | None = None  # tick that is not sent yet
        self.create_subscription(String, "sim/scene", self._on_scene, LATCHED)
        self.create_subscription(Clock, "/clock", self._on_clock, DEPTH)
        if self._config.lockstep:
            self.create_subscription(Observation, "observation", self._on_observation, OBSERVATIONS)
        self.create_subscription(RecorderState, "recorder/state", self._on_recorder, DEPTH)
        self.create_service(Trigger, "~/start", self._on_start)

    def _on_scene(self, msg: String) -> None:
        self._scene, task = read_scene_text(msg.data)
        self._plan = task.plan(self._scene, self._robot.control_rate_hz)
        self._started, self._first_tick = self._config.autostart, None
        self.get_logger().info(f"planned {len(self._plan)} steps of {task.name} for {self._scene}")

    def _on_recorder(self, msg: RecorderState) -> None:
        """An operator begins when the recording does, unless he is at it already."""
        if msg.state == RecorderState.RECORDING and self._scene is not None:
            self._started = True

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Begins the plan at the next tick, also a second time."""
        response.success = self._scene is not None
        response.message = f"begins {self._scene}" if response.success else "no scene yet: is the simulator running?"
        if response.success:
            self._started, self._first_tick = True, None
        return response

    def _on_observation(self, msg: Observation) -> None:
        self._observed_ns = messages.stamp_ns(msg.header.stamp)
        self._send_due()

    def _on_clock(self, msg: Clock) -> None:
        """Sends when a new tick begins, and again where the same time comes again: a simulator that still waits."""
        now_ns = messages.stamp_ns(msg.clock)
        tick = now_ns // self._robot.period_ns
        if tick != self._tick or now_ns == self._clock_ns:
            self._due = tick
            self._send_due()
        self._tick, self._clock_ns = tick, now_ns

    def _send_due(self) -> None:
        """The simulator goes on with what is sent here, so in lock-step the tick before must have been seen by all."""
        if self._due is None or not self._started or self._scene is None:
            return
        going = self._first_tick is not None and self._due > self._first_tick
        if self._config.lockstep and going and self._observed_ns < (self._due - 1) * self._robot.period_ns:
            return
        self._send(self._due)
        self._due = None

    def _send(self, tick: int) -> None:
        if self._first_tick is None or tick < self._first_tick:
            self._first_tick = tick
        row = self._plan[min(tick - self._first_tick, len(self._plan) - 1)]
        for group, publisher in self._leaders:
            publisher.publish(
                messages.joint_state_msg(
                    self._robot,
                    group,
                    "leader",
                    stamp_ns=tick * self._robot.period_ns,
                    position=row[group.columns],
                )
            )


def main() -> None:
    """Runs the node."""
    run_node(TeleopNode)
