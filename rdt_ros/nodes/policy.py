"""The `policy` node: Observations in, ActionChunks out; receiving never waits for inference."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from rdt_msgs.msg import ActionChunk, ExecutorState, Observation
from rdt_msgs.srv import SetInstruction
from std_msgs.msg import String

from rdt_ros import types
from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.qos import LATCHED, OBSERVATIONS
from rdt_ros.options import option
from rdt_ros.policy.committed import CommittedPlan, PlanState
from rdt_ros.policy.history import History
from rdt_ros.policy.interface import Policy, joint_chunk
from rdt_ros.policy.replan import MARGIN_PERIODS, MODES, Replanner
from rdt_ros.policy.trajectory import HoldPolicy, TrajectoryPolicy
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.types import NS_PER_S

if TYPE_CHECKING:
    from rdt_ros.model.instruction import Instructions

TIMES_KEPT = 1000  # inference times that the percentiles in /diagnostics are of
RECENT_TIMES = 50  # those that the next one is expected from
FOLLOWING = (ExecutorState.RUNNING, ExecutorState.HOLDING)


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the policy node."""

    robot: str = option("agilex", doc="robot file: a shipped name or a YAML path")
    policy: str = option("rdt", doc="which policy answers", choices=("rdt", "scripted", "replay", "hold"))
    checkpoint: str = option("", doc="for rdt: file, folder or Hub id; or random:SIZE (untrained)")
    vision: str = option(
        "", doc="for rdt: folder or Hub id of the vision encoder; empty: the checkpoint's, from the Hub"
    )
    instructions: str = option("", doc="for rdt: language embeddings (docs/language.md); empty: the checkpoint's own")
    encoder: str = option("", doc="for rdt: folder or Hub id of a T5 or BERT, for instructions without embeddings")
    action_dtype: str = option(
        "float32", choices=("float32", "model"), doc="for rdt: model rounds joint targets to bf16 as the reference does"
    )
    backend: str = option(
        "auto",
        choices=("auto", "eager", "compile", "graph"),
        doc="for rdt: how the network is computed (docs/speed.md); auto: compile on a GPU, else eager",
    )
    pictures: str = option(
        "auto",
        choices=("auto", "exact", "device"),
        doc="for rdt: prepare pictures exactly as in training on the CPU, or on the device; auto: device on a GPU",
    )
    episode: str = option("", doc="for replay: the recorded episode to repeat")
    instruction: str = option(
        "", doc="what the robot shall do: words, or a file of their embeddings; ~/set_instruction changes it"
    )
    device: str = option("auto", doc="where the policy computes", choices=("auto", "cpu", "cuda"))
    seed: int = option(0, doc="seed of the policy's noise", low=0)
    replan: str = option(
        "period",
        doc="when the next chunk is computed: eager: always, needed: just before the plan ends, period: by replan_rows",
        choices=MODES,
    )
    replan_rows: int = option(
        32, doc="for period: rows of a chunk after which the next one is computed", unit="rows", low=1, high=64
    )
    realtime_chunking: bool = option(
        False, doc="the policy continues the rows that are executed before its chunk can arrive (docs/joining.md)"
    )
    lockstep: bool = option(False, doc="answer every Observation, with an empty chunk where the plan stands")
    autostart: bool = option(True, doc="configure and activate by itself; false: a lifecycle manager does it")


class PolicyNode(LifecycleNode):
    """Keeps the newest Observations and lets one worker thread run the policy on them."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._config = load(self, PolicyConfig)
        _check_lockstep(self._config)
        self._robot = load_robot(self._config.robot)
        self._policy: Policy | None = None
        self._failure = ""
        self._instruction = self._config.instruction
        self._language: Instructions | None = None
        self._see: Callable[[types.Observation], object] | None = None  # of a policy that keeps what it saw
        self._replanner = Replanner(self._config.replan, self._robot.period_ns, self._config.replan_rows)
        self._plan = CommittedPlan(self._robot)
        self._changed = threading.Condition()
        self._history = History()
        self._received_s = 0.0  # when the newest Observation came, steady clock
        self._epoch = 0
        self._answered: tuple[int, int] | None = None  # stamp and epoch of the last Observation that was answered
        self._chunk_id = 0
        self._refused = 0
        self._inference_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self._delay_s: deque[float] = deque(maxlen=TIMES_KEPT)  # Observation received to chunk published
        self._seen_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self._committed_rows = 0  # of the newest chunk
        self._running = False
        self._worker: threading.Thread | None = None
        if self._config.autostart:
            self.trigger_configure()
            if self._policy is not None or self._config.policy == "scripted":
                self.trigger_activate()
            else:
                raise InputError(self._failure)

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Builds the policy, which may take long, and tells how far it is; before it is ready nothing activates."""
        began = time.monotonic()
        try:
            self._policy = self._make_policy()
        except InputError as error:
            self._failure = f"policy: {error}"
            self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        self._chunks = self.create_publisher(ActionChunk, "action_chunk", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(Observation, "observation", self._on_observation, OBSERVATIONS)
        self.create_subscription(ExecutorState, "executor/state", self._on_executor_state, 10)
        self.create_service(SetInstruction, "~/set_instruction", self._set_instruction)
        if self._config.policy == "scripted":
            self.create_subscription(String, "sim/scene", self._on_scene, LATCHED)
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"{self._config.policy} is ready after {time.monotonic() - began:.1f} s")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to answer Observations."""
        self._running = True
        self._worker = threading.Thread(target=self._work, name="inference", daemon=True)
        self._worker.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Stops after the inference that is under way."""
        with self._changed:
            self._running = False
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stops the worker."""
        self.on_deactivate(None)

    def _make_policy(self) -> Policy | None:
        """The policy of the settings; None for `scripted`, which waits for the scene."""
        config = self._config
        if config.policy == "hold":
            return HoldPolicy(self._robot)
        if config.policy == "replay":
            from rdt_ros.episodes.motion import commanded_motion

            if not config.episode:
                raise InputError("episode: expected a recorded episode to repeat, found nothing")
            return TrajectoryPolicy(self._robot, commanded_motion(config.episode, self._robot))
        if config.policy == "rdt":
            return self._make_rdt()
        return None

    def _make_rdt(self) -> Policy:
        from rdt_ros.policy import deployed  # imports torch: the other policies run without it

        config = self._config
        settings = ("instruction", "instructions", "encoder", "vision", "device", "backend", "seed", "action_dtype")
        rdt = deployed.deploy(
            config.checkpoint,
            self._robot,
            progress=self.get_logger().info,
            **{name: getattr(config, name) for name in (*settings, "pictures")},
        )
        self._language, self._instruction = rdt.language, rdt.instruction
        self._see = rdt.policy.see if rdt.policy.fast is not None else None
        return rdt.policy

    def _on_scene(self, msg: String) -> None:
        from rdt_ros.sim.task import read_scene_text

        scene, task = read_scene_text(msg.data)
        rows = task.plan(scene, self._robot.control_rate_hz)
        with self._changed:
            self._policy = TrajectoryPolicy(self._robot, rows)
            self._changed.notify()
        self.get_logger().info(f"planned {task.name} for {scene}")

    def _on_observation(self, msg: Observation) -> None:
        observation = messages.observation(msg)
        with self._changed:
            self._history.add(observation)
            self._received_s = time.monotonic()
            self._changed.notify()

    def _on_executor_state(self, msg: ExecutorState) -> None:
        state = _plan_state(self._robot, msg)
        with self._changed:
            self._plan.heard(state)
            if msg.epoch != self._epoch:
                self._epoch = msg.epoch
                self._changed.notify()

    async def _set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        """The worker reads the instruction once per chunk, so it changes between two chunks."""
        try:
            self._instruction = await self._prepared(request.instruction)
            response.success = True
        except InputError as error:
            response.message = str(error)
        return response

    def _prepared(self, instruction: str) -> Future:
        """The text to follow once its tokens are there; encoding may take seconds, in which receiving goes on."""
        future: Future = Future()
        language = self._language
        if language is None:
            if instruction.strip():
                future.set_result(instruction.strip())
            else:
                future.set_exception(InputError("instruction: expected words, found an empty text"))
            return future

        def prepare() -> None:
            try:
                future.set_result(language.prepare(instruction))
            except InputError as error:
                future.set_exception(error)

        threading.Thread(target=prepare, name="language", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running or self._pending())
                if not self._running:
                    return
                history, epoch, policy = self._history.snapshot(), self._epoch, self._policy
                assert policy is not None  # _pending said so
                received_s = self._received_s
            if self._answered is None or epoch != self._answered[1]:
                policy.reset()
            self._answered = (history[-1].stamp_ns, epoch)
            if not self._answer(policy, history, epoch, received_s):
                self._look(history[-1])

    def _pending(self) -> bool:
        history = self._history.snapshot()
        return bool(history) and self._policy is not None and (history[-1].stamp_ns, self._epoch) != self._answered

    def _answer(self, policy: Policy, history: tuple, epoch: int, received_s: float) -> bool:
        """Plans anew where that is due; gives whether it was."""
        observation, period_ns = history[-1], self._robot.period_ns
        now_ns, latency_ns = self.get_clock().now().nanoseconds, self._latency_ns()
        until_ns = now_ns + latency_ns + MARGIN_PERIODS * period_ns
        with self._changed:
            rows_left = self._plan.rows_left(now_ns)
            committed = self._plan.rows(observation.stamp_ns, self._robot.action_offset_steps, until_ns)
        due = self._replanner.due(observation.stamp_ns, epoch, rows_left=rows_left, latency_ns=latency_ns)
        if due:
            began = time.monotonic()
            given = committed if self._config.realtime_chunking and len(committed) else None
            try:
                chunk = policy.step(history, instruction=self._instruction or None, committed=given)
            except InputError as error:
                self._refused += 1
                self.get_logger().error(str(error), throttle_duration_sec=1.0)
                return True
            self._chunk_id += 1
            inference_s = time.monotonic() - began
            chunk = dataclasses.replace(chunk, epoch=epoch, chunk_id=self._chunk_id, inference_s=inference_s)
            self._chunks.publish(messages.action_chunk_msg(chunk))
            with self._changed:
                self._plan.sent(chunk, self.get_clock().now().nanoseconds)
            self._committed_rows = chunk.committed_rows
            self._inference_s.append(inference_s)
            self._delay_s.append(time.monotonic() - received_s)
        elif self._config.lockstep:
            stands = joint_chunk(self._robot, observation, np.zeros((0, len(self._robot.joints))), None)
            self._chunks.publish(messages.action_chunk_msg(dataclasses.replace(stands, epoch=epoch)))
        return due

    def _look(self, observation: types.Observation) -> None:
        """Encodes an Observation that is not planned from: the next chunk may need its pictures as the older ones.

        Never where a chunk would have to wait for it: not while there is a newer Observation, nor where a whole step
        takes longer than a period, so that this is done before the next one comes. In lock-step it would let the
        chunks depend on time.
        """
        if self._see is None or self._config.lockstep or not 0 < self._latency_ns() < self._robot.period_ns:
            return
        with self._changed:
            if self._pending():
                return
        began = time.monotonic()
        try:
            self._see(observation)
        except InputError:
            return  # a step that needs this picture says what is wrong with it
        self._seen_s.append(time.monotonic() - began)

    def _latency_ns(self) -> int:
        """How long the next inference is expected to take; 0 before the first one."""
        recent = list(self._inference_s)[-RECENT_TIMES:]
        return round(float(np.percentile(recent, 95)) * NS_PER_S) if recent else 0

    def _report(self) -> None:
        times = self._inference_s
        values = {"chunks": self._chunk_id, "observations_refused": self._refused, "instruction": self._instruction}
        if self._config.realtime_chunking:
            values["committed_rows"] = self._committed_rows
        if times:
            measured = {"inference_ms": times, "observation_to_chunk_ms": self._delay_s, "seen_ms": self._seen_s}
            for name, series in measured.items():
                if not series:
                    continue
                p50, p99 = np.percentile(np.array(series) * 1e3, (50, 99))
                values |= {f"{name}_p50": round(p50, 2), f"{name}_p99": round(p99, 2)}
        level, text = DiagnosticStatus.OK, f"{self._config.policy}: {self._chunk_id} chunks"
        if self._policy is None:
            level, text = DiagnosticStatus.WARN, "waiting for sim/scene"
        elif not self._history.snapshot():
            level, text = DiagnosticStatus.WARN, "waiting for observations"
        self._diagnostics.publish(diagnostic_array(self, level, text, values))


def _check_lockstep(config: PolicyConfig) -> None:
    """In lock-step nothing may depend on how long anything took."""
    if config.lockstep and config.replan != "period":
        raise InputError(f"policy.replan: expected period in lock-step, found {config.replan!r}")
    if config.lockstep and config.realtime_chunking:
        raise InputError("policy.realtime_chunking: expected false in lock-step, found true")


def _plan_state(robot: Robot, msg: ExecutorState) -> PlanState:
    """What the executor's state says of its plan; no rows where they are not those of this robot."""
    rows = np.array(msg.committed, np.float32)
    known = tuple(msg.channel_names) == robot.channels and len(rows) == msg.rows_left * len(robot.channels)
    return PlanState(
        stamp_ns=messages.stamp_ns(msg.header.stamp),
        epoch=msg.epoch,
        following=msg.state in FOLLOWING,
        chunk_id=msg.chunk_id,
        first_ns=msg.committed_stamp_ns,
        rows=(rows if known else rows[:0]).reshape(-1, len(robot.channels)),
    )


def main() -> None:
    """Runs the node."""
    run_node(PolicyNode)
