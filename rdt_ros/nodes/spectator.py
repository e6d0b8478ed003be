"""Watches episodes in the simulator from outside, and puts the next one on."""

from __future__ import annotations

import json
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile
from rdt_msgs.msg import ActionChunk
from rdt_msgs.msg import Observation as ObservationMsg
from rdt_msgs.srv import SetInstruction
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.operator import Operator
from rdt_ros.types import NS_PER_S, Observation

DEPTH = 100  # Observations and outcomes that may wait while a film is written


class Spectator(Operator):
    """An operator that also keeps what the simulator says and what the robot sees, as a context.

    `keep_pictures` False receives no Observations.
    """

    def __init__(self, namespace: str = "", *, keep_pictures: bool = True) -> None:
        super().__init__(namespace)
        self._keep_pictures = keep_pictures
        self.outcomes: list[dict[str, Any]] = []  # of the simulator, since `forget`
        self.observations: list[Observation] = []  # since `forget`
        self.answered_ns: int | None = None  # stamp of the Observation that the policy has answered last

    def __enter__(self) -> Spectator:
        super().__enter__()
        self._node.create_subscription(String, self._prefix + "sim/outcome", self._on_every_outcome, DEPTH)
        self._node.create_subscription(ActionChunk, self._prefix + "action_chunk", self._on_answer, DEPTH)
        if self._keep_pictures:
            # latched, because the first one may have been sent before this node was there
            latched = QoSProfile(depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._node.create_subscription(ObservationMsg, self._prefix + "observation", self._on_observation, latched)
        self._reset = self._node.create_client(Trigger, self._prefix + "sim/reset")
        return self

    @property
    def tick_s(self) -> float:
        """Simulated time of the executor's newest tick, in s."""
        return 0.0 if self.executor_state is None else messages.stamp_ns(self.executor_state.header.stamp) / NS_PER_S

    def forget(self) -> None:
        """Begins anew with what it keeps."""
        self.outcomes, self.observations = [], []

    def reset_simulator(self, seed: int, timeout_s: float) -> None:
        """Asks for the next scene, once, because a second request would be one for the scene after it.

        The answer may get lost, the scene does not: InputError where its outcome is not that of `seed` in time.
        """
        if not self._reset.wait_for_service(timeout_sec=timeout_s):
            raise InputError(f"sim/reset: no such service within {timeout_s:g} s in {self.where}")
        self._reset.call_async(Trigger.Request())
        if not self.wait_for(lambda: self.outcome is not None and self.outcome["seed"] == seed, timeout_s):
            found = None if self.outcome is None else self.outcome["seed"]
            raise InputError(f"sim/reset: expected the scene of seed {seed} within {timeout_s:g} s, found {found}")

    def instruct_policy(self, instruction: str, timeout_s: float) -> None:
        """Tells the policy what to do from its next plan on; InputError where it has no tokens for the words."""
        self._call(SetInstruction, "policy/set_instruction", SetInstruction.Request(instruction=instruction), timeout_s)

    def _on_every_outcome(self, msg: String) -> None:
        self.outcomes.append(json.loads(msg.data))

    def _on_observation(self, msg: ObservationMsg) -> None:
        self.observations.append(messages.observation(msg))

    def _on_answer(self, msg: ActionChunk) -> None:
        self.answered_ns = messages.stamp_ns(msg.header.stamp)
