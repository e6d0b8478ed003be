"""What a person does from a terminal: call the nodes' services, watch their states."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.client import Client
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rdt_msgs.msg import ExecutorState, RecorderState
from rdt_msgs.srv import SetInstruction
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from rdt_ros.errors import InputError

REPEAT_S = 2.0  # until a request without answer is sent again
STOP_REPEATS = 5  # the topic is best effort
SAID_S = 3.0  # what a node said is true for so long; it reports every second


class Operator:
    """A small node of its own, as a context; `namespace` and `domain` say which robot is meant."""

    def __init__(self, namespace: str = "", domain: str = "", *, recorder: str = "recorder") -> None:
        if domain:
            os.environ["ROS_DOMAIN_ID"] = domain
        self._prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self.where = f"namespace {self._prefix}, ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}"
        self._recorder = recorder
        self.executor_state: ExecutorState | None = None
        self.recorder_state: RecorderState | None = None
        self.outcome: dict[str, Any] | None = None  # of the simulator
        self.diagnostics: dict[str, dict[str, str]] = {}  # node -> its newest values
        self._said: dict[str, tuple[float, str]] = {}  # node or source -> when it last complained, and of what

    def __enter__(self) -> Operator:
        rclpy.init(args=[])
        self._node = rclpy.create_node(f"operator_{os.getpid()}")
        subscribe = self._node.create_subscription
        subscribe(ExecutorState, self._prefix + "executor/state", lambda m: setattr(self, "executor_state", m), 10)
        recorder_state = f"{self._prefix}{self._recorder}/state"
        subscribe(RecorderState, recorder_state, lambda m: setattr(self, "recorder_state", m), 10)
        subscribe(String, self._prefix + "sim/outcome", self._on_outcome, 10)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._stop = self._node.create_publisher(Bool, self._prefix + "software_stop", best_effort)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._node.destroy_node()
        rclpy.try_shutdown()

    def spin(self, seconds: float) -> None:
        """Receives for so long."""
        self.wait_for(lambda: False, seconds)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Receives until the condition holds; False when time ran out."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            rclpy.spin_once(self._node, timeout_sec=min(left_s, 0.1))
        return True

    def call(self, service: str, timeout_s: float = 10.0) -> str:
        """Calls a Trigger service such as `executor/enable`; returns its message.

        Raises InputError where the service is not there, does not answer, or refuses.
        """
        return self._call(Trigger, service, Trigger.Request(), timeout_s)

    def set_instruction(self, instruction: str, timeout_s: float = 10.0) -> str:
        """Gives the recorder's next episode another instruction; raises InputError as `call` does."""
        request = SetInstruction.Request(instruction=instruction)
        return self._call(SetInstruction, f"{self._recorder}/set_instruction", request, timeout_s)

    def _call(self, kind: Any, service: str, request: Any, timeout_s: float) -> str:
        client = self._node.create_client(kind, self._prefix + service)
        try:
            if not client.wait_for_service(timeout_sec=timeout_s):
                raise InputError(f"{service}: no such service within {timeout_s:g} s in {self.where}")
            result = self._answer(client, service, request, timeout_s)
            if not result.success:
                raise InputError(f"{service}: refused: {result.message}")
            return result.message
        finally:
            self._node.destroy_client(client)

    def _answer(self, client: Client, service: str, request: Any, timeout_s: float) -> Any:
        """The first answer. A server that has not found this client yet drops its answer without a word, so the request
        is repeated; a second call of any of these services does no harm.
        """
        futures: list[Future] = []
        for _ in range(math.ceil(timeout_s / REPEAT_S)):
            futures.append(client.call_async(request))
            if self.wait_for(lambda: any(future.done() for future in futures), REPEAT_S):
                return next(future.result() for future in futures if future.done())
        raise InputError(f"{service}: no answer within {timeout_s:g} s")

    def software_stop(self, timeout_s: float = 5.0) -> None:
        """Publishes the software stop until the executor has heard it; InputError where none listens."""
        if not self.wait_for(lambda: self._stop.get_subscription_count() > 0, timeout_s):
            raise InputError(f"software_stop: nobody listens in {self.where}")
        for _ in range(STOP_REPEATS):
            self._stop.publish(Bool(data=True))
            self.spin(0.02)

    @property
    def complaints(self) -> dict[str, str]:
        """What nodes of this robot say is wrong with themselves or with one of their sources, by its name."""
        now_s = time.monotonic()
        return {name: text for name, (said_s, text) in self._said.items() if now_s - said_s < SAID_S}

    def _on_outcome(self, msg: String) -> None:
        self.outcome = json.loads(msg.data)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self.diagnostics[status.name] = {item.key: item.value for item in status.values}
            if status.hardware_id != (self._prefix.rstrip("/") or "/"):
                continue
            if status.level == DiagnosticStatus.OK:
                self._said.pop(status.name, None)
            else:
                self._said[status.name] = time.monotonic(), status.message
