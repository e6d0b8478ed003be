"""The `recorder` node: Observations in, one HDF5 file per episode out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import rdt_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from rdt_ros.episodes.recorder import EpisodeRecorder, RecorderConfig, RecorderState
from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.robot.description import load_robot, robot_path

QUEUE_DEPTH = 100  # Observations that wait while the node answers a service
STATE_PERIOD_S = 0.5
DIAGNOSTIC_PERIOD_S = 1.0
STATES = {
    "idle": rdt_msgs.msg.RecorderState.IDLE,
    "recording": rdt_msgs.msg.RecorderState.RECORDING,
    "fault": rdt_msgs.msg.RecorderState.FAULT,
}


class RecorderNode(Node):
    """Services start, stop and discard; the state at 2 Hz and when it changes."""

    def __init__(self) -> None:
        super().__init__("recorder")
        config = load(self, RecorderConfig)
        robot = load_robot(config.robot)
        recorder = self._recorder = EpisodeRecorder(robot, robot_path(config.robot).read_text(), config)
        self._publisher = self.create_publisher(rdt_msgs.msg.RecorderState, "~/state", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._shown: tuple[object, ...] = ()
        self.create_subscription(rdt_msgs.msg.Observation, "observation", self._on_observation, QUEUE_DEPTH)
        for name, action in {"start": recorder.start, "stop": recorder.stop, "discard": recorder.discard}.items():
            self.create_service(Trigger, f"~/{name}", functools.partial(self._obey, action))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATE_PERIOD_S, self._publish, clock=steady)
        self.create_timer(DIAGNOSTIC_PERIOD_S, self._diagnose, clock=steady)
        if not config.instruction:
            self.get_logger().warning("no instruction: episodes will say nothing about their task")
        if config.autostart:
            self.get_logger().info(f"recording {self._recorder.start()}")

    def close(self) -> None:
        """Finishes a running episode."""
        recording = self._recorder.state.state == "recording"
        self._recorder.close()
        if recording:
            state = self._recorder.state
            self.get_logger().info(f"{state.episode}: {state.steps} steps")
            self._publish()

    def _on_observation(self, msg: rdt_msgs.msg.Observation) -> None:
        if self._recorder.recording:
            self._recorder.put(messages.observation(msg))
        if self._key(self._recorder.state) != self._shown:
            self._publish()

    def _obey(
        self, action: Callable[[], Path], _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message, response.success = str(action()), True
            self.get_logger().info(response.message)
        except InputError as error:
            response.message, response.success = str(error), False
            self.get_logger().warning(response.message)
        self._publish()
        return response

    @staticmethod
    def _key(state: RecorderState) -> tuple[object, ...]:
        """What is worth a message at once."""
        return state.state, state.episode, len(state.warnings)

    def _publish(self) -> None:
        state = self._recorder.state
        if state.state == "fault" and self._shown[:1] != ("fault",):
            self.get_logger().error(state.reason)
        self._shown = self._key(state)
        msg = rdt_msgs.msg.RecorderState(
            state=STATES[state.state],
            episode=state.episode,
            instruction=state.instruction,
            steps=state.steps,
            seconds=state.seconds,
            rate_hz=state.rate_hz,
            lost=state.lost,
            flushes=state.flushes,
            episodes=state.episodes,
            free_bytes=state.free_bytes,
            warnings=list(state.warnings),
        )
        msg.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(msg)

    def _diagnose(self) -> None:
        state = self._recorder.state
        values = {
            "steps": state.steps,
            "rate_hz": round(state.rate_hz, 2),
            "lost": state.lost,
            "dropped": state.dropped,
            "flushes": state.flushes,
            "episodes": state.episodes,
            "free_gb": round(state.free_bytes / 1e9, 2),
        }
        level = DiagnosticStatus.WARN if state.warnings else DiagnosticStatus.OK
        if state.state == "fault":
            level = DiagnosticStatus.ERROR
        text = "; ".join((state.state, *state.warnings))
        self._diagnostics.publish(diagnostic_array(self, level, text, values))


def main() -> None:
    """Runs the node."""
    run_node(RecorderNode)
