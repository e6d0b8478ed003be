"""What a person does from a terminal: call the nodes' services, watch their states."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rdt_msgs.msg import ExecutorState, RecorderState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from rdt_ros.errors import InputError

STOP_REPEATS = 5  # the topic is best effort


class Operator:
    """A small node of its own, as a context; `namespace` and `domain` say which robot is meant."""

    def __init__(self, namespace: str = "", domain: str = "") -> None:
        if domain:
            os.environ["ROS_DOMAIN_ID"] = domain
        self._prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self._where = f"namespace {self._prefix}, ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}"
        self.executor_state: ExecutorState | None = None
        self.recorder_state: RecorderState | None = None
        self.outcome: dict[str, Any] | None = None  # of the simulator
        self.diagnostics: dict[str, dict[str, str]] = {}  # node -> its newest values

    def __enter__(self) -> Operator:
        rclpy.init(args=[])
        self._node = rclpy.create_node(f"operator_{os.getpid()}")
        subscribe = self._node.create_subscription
        subscribe(ExecutorState, self._prefix + "executor/state", lambda m: setattr(self, "executor_state", m), 10)
        subscribe(RecorderState, self._prefix + "recorder/state", lambda m: setattr(self, "recorder_state", m), 10)
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

    def call(self, service: str, timeout_s: float = 5.0) -> str:
        """Calls a Trigger service such as `executor/enable`; returns its message.

        Raises InputError where the service is not there, does not answer, or refuses.
        """
        client = self._node.create_client(Trigger, self._prefix + service)
        try:
            if not client.wait_for_service(timeout_sec=timeout_s):
                raise InputError(f"{service}: no such service within {timeout_s:g} s in {self._where}")
            future = client.call_async(Trigger.Request())
            if not self.wait_for(future.done, timeout_s):
                raise InputError(f"{service}: no answer within {timeout_s:g} s")
            result = future.result()
            if not result.success:
                raise InputError(f"{service}: refused: {result.message}")
            return result.message
        finally:
            self._node.destroy_client(client)

    def software_stop(self, timeout_s: float = 5.0) -> None:
        """Publishes the software stop until the executor has heard it; InputError where none listens."""
        if not self.wait_for(lambda: self._stop.get_subscription_count() > 0, timeout_s):
            raise InputError(f"software_stop: nobody listens in {self._where}")
        for _ in range(STOP_REPEATS):
            self._stop.publish(Bool(data=True))
            self.spin(0.02)

    def _on_outcome(self, msg: String) -> None:
        self.outcome = json.loads(msg.data)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self.diagnostics[status.name] = {item.key: item.value for item in status.values}
