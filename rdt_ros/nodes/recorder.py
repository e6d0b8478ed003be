"""The `recorder` node: Observations in, one HDF5 file per episode out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import rdt_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rdt_msgs.srv import SetInstruction
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from rdt_ros.episodes.recorder import COMMANDS, EpisodeRecorder, RecorderConfig, RecorderState
from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.robot.description import load_robot, robot_path

QUEUE_DEPTH = 100  # Observations that wait while the node answers a service; at most 50 MB
STATE_PERIOD_S = 0.5
DIAGNOSTIC_PERIOD_S = 1.0
STATES = {
    "idle": rdt_msgs.msg.RecorderState.IDLE,
    "recording": rdt_msgs.msg.RecorderState.RECORDING,
    "fault": rdt_msgs.msg.RecorderState.FAULT,
}


class RecorderNode(Node):
    """Every command as a service, on the topic `~/command`, or by a pedal; the state at 2 Hz and when it changes."""

    def __init__(self) -> None:
        super().__init__("recorder")
        config = load(self, RecorderConfig)
        self._max_seconds = config.max_seconds
        self._recorder = self._make_recorder(config)
        self._publisher = self.create_publisher(rdt_msgs.msg.RecorderState, "~/state", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._shown: tuple[object, ...] = ()
        self._logged = ""  # notice
        self._pedal_down = False
        self.create_subscription(rdt_msgs.msg.Observation, "observation", self._on_observation, QUEUE_DEPTH)
        for name in COMMANDS:
            self.create_service(Trigger, f"~/{name}", partial(self._on_service, name))
        self.create_service(SetInstruction, "~/set_instruction", self._on_instruction)
        self.create_subscription(String, "~/command", self._on_command, 10)
        self.create_subscription(Bool, "~/pedal", self._on_pedal, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATE_PERIOD_S, self._publish, clock=steady)
        self.create_timer(DIAGNOSTIC_PERIOD_S, self._diagnose, clock=steady)
        for warning in self._recorder.state.warnings:
            self.get_logger().warning(warning)
        if config.autostart:
            self._obey(self._recorder.start)

    def close(self) -> None:
        """Finishes a running episode."""
        recording = self._recorder.state.state == "recording"
        self._recorder.close()
        if recording:
            self._publish()

    def _make_recorder(self, config: RecorderConfig) -> EpisodeRecorder:
        return EpisodeRecorder(load_robot(config.robot), robot_path(config.robot).read_text(), config)

    def _on_observation(self, msg: rdt_msgs.msg.Observation) -> None:
        if self._recorder.recording:
            self._recorder.put(messages.observation(msg))
        if self._key(self._recorder.state) != self._shown:
            self._publish()

    def _on_service(self, name: str, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._obey(partial(self._recorder.command, name))
        return response

    def _on_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        response.success, response.message = self._obey(partial(self._recorder.set_instruction, request.instruction))
        return response

    def _on_command(self, msg: String) -> None:
        self._obey(partial(self._recorder.command, msg.data.strip()))

    def _on_pedal(self, msg: Bool) -> None:
        """Starts or finishes an episode when the pedal goes down, however often it says that it is down."""
        pressed, self._pedal_down = msg.data and not self._pedal_down, msg.data
        if pressed:
            self._obey(self._recorder.toggle)

    def _obey(self, action: Callable[[], str]) -> tuple[bool, str]:
        try:
            success, message = True, action()
        except InputError as error:
            success, message = False, str(error)
            self.get_logger().warning(message)
        self._publish()
        return success, message

    @staticmethod
    def _key(state: RecorderState) -> tuple[object, ...]:
        """What is worth a message at once."""
        return state.state, state.episode, state.notice, len(state.warnings)

    def _publish(self) -> None:
        state = self._recorder.state
        self._log(state)
        self._shown = self._key(state)
        msg = state_msg(state, self._max_seconds)
        msg.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(msg)

    def _log(self, state: RecorderState) -> None:
        """What has happened since; what was refused is logged where it is answered."""
        if state.state == "fault" and self._shown[:1] != ("fault",):
            self.get_logger().error(state.reason)
        elif state.notice != self._logged and not state.notice.startswith("recorder: "):
            self.get_logger().info(state.notice)
        self._logged = state.notice

    def _diagnose(self) -> None:
        state = self._recorder.state
        values = {
            "steps": state.steps,
            "rate_hz": round(state.rate_hz, 2),
            "lost": state.lost,
            "dropped": state.dropped,
            "queued": state.queued,
            "flushes": state.flushes,
            "fsyncs": state.fsyncs,
            "worst_flush_ms": round(1000 * state.worst_flush_s, 1),
            "episodes": state.episodes,
            "free_gb": round(state.free_bytes / 1e9, 2),
            "free_minutes": "" if state.free_minutes is None else round(state.free_minutes, 1),
        }
        level = DiagnosticStatus.WARN if state.warnings else DiagnosticStatus.OK
        if state.state == "fault":
            level = DiagnosticStatus.ERROR
        text = "; ".join((state.state, *state.warnings))
        self._diagnostics.publish(diagnostic_array(self, level, text, values))


def state_msg(state: RecorderState, max_seconds: float) -> rdt_msgs.msg.RecorderState:
    """A snapshot as its message, without a stamp."""
    return rdt_msgs.msg.RecorderState(
        state=STATES[state.state],
        episode=state.episode,
        instruction=state.instruction,
        steps=state.steps,
        seconds=state.seconds,
        max_seconds=max_seconds,
        rate_hz=state.rate_hz,
        lost=state.lost,
        dropped=state.dropped,
        queued=state.queued,
        flushes=state.flushes,
        fsyncs=state.fsyncs,
        worst_flush_ms=1000 * state.worst_flush_s,
        episodes=state.episodes,
        free_bytes=state.free_bytes,
        free_minutes=-1.0 if state.free_minutes is None else state.free_minutes,
        instructions=[task.instruction for task in state.tasks],
        recorded=[task.recorded for task in state.tasks],
        targets=[task.target for task in state.tasks],
        selected=state.selected,
        notice=state.notice,
        warnings=list(state.warnings),
    )


def main() -> None:
    """Runs the node."""
    run_node(RecorderNode)
