"""The `policy` node encodes what it does not plan from, but never before a chunk that is due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rdt_ros.errors import InputError  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.nodes import policy as policy_node  # noqa: E402
from rdt_ros.policy import deployed  # noqa: E402
from rdt_ros.policy.trajectory import HoldPolicy  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402
from rdt_ros.types import Observation  # noqa: E402

pytestmark = pytest.mark.ros

DOMAIN = 71
ROBOT = load_robot("sim_aloha")


class SeeingPolicy(HoldPolicy):
    """Holds, and writes down what it was asked for; a step waits until it may go on."""

    fast = object()

    def __init__(self) -> None:
        super().__init__(ROBOT)
        self.asked: list[tuple[str, int]] = []  # "step" or "see", tick
        self.go_on = threading.Event()
        self.go_on.set()
        self.refuses = False

    def step(self, history, **given):
        self.asked.append(("step", history[-1].stamp_ns // ROBOT.period_ns))
        self.go_on.wait()
        return super().step(history, **given)

    def see(self, observation: Observation) -> None:
        self.asked.append(("see", observation.stamp_ns // ROBOT.period_ns))
        if self.refuses:
            raise InputError("cam_high: expected JPEG data")


Make = Callable[..., tuple[policy_node.PolicyNode, SeeingPolicy]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A node in this process, with parameters, and its policy."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    nodes = []

    def start(**parameters: object) -> tuple[policy_node.PolicyNode, SeeingPolicy]:
        policy = SeeingPolicy()
        monkeypatch.setattr(deployed, "deploy", lambda *_, **__: deployed.Deployed(policy, None, ""))
        given = {"robot": ROBOT.name, "policy": "rdt", "replan_rows": 3, **parameters}
        arguments = [text for name, value in given.items() for text in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *arguments], domain_id=DOMAIN)
        nodes.append(policy_node.PolicyNode())
        return nodes[-1], policy

    yield start
    for node in nodes:
        node.close()
        node.destroy_node()
    rclpy.try_shutdown()


def send(node: policy_node.PolicyNode, tick: int) -> None:
    positions = np.zeros(len(ROBOT.joints), np.float32)
    observation = Observation(tick * ROBOT.period_ns, ROBOT.name, (), ROBOT.joint_names, positions)
    node._on_observation(messages.observation_msg(observation))


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def answered(node: policy_node.PolicyNode, tick: int) -> Callable[[], bool]:
    return lambda: node._answered == (tick * ROBOT.period_ns, 0)


def test_what_is_not_planned_from_is_seen(make: Make) -> None:
    node, policy = make()
    tick = 0

    def seen() -> bool:
        """Sends one more: on a machine that was busy for a moment a step may have taken longer than a period."""
        nonlocal tick
        tick += 1
        send(node, tick)
        wait(answered(node, tick))
        time.sleep(0.01)
        return sum(kind == "see" for kind, _ in policy.asked) >= 4

    wait(seen)
    assert {(tick - 1) % 3 for kind, tick in policy.asked if kind == "step"} == {0}
    both = [tick for _, tick in policy.asked]
    assert len(set(both)) == len(both)  # what was planned from is not encoded again


def test_a_chunk_that_is_due_comes_first(make: Make) -> None:
    node, policy = make()
    policy.go_on.clear()
    send(node, 1)
    wait(lambda: policy.asked == [("step", 1)])
    for tick in range(2, 5):  # receiving goes on meanwhile
        send(node, tick)
    policy.go_on.set()
    wait(lambda: len(policy.asked) > 1)
    assert policy.asked[:2] == [("step", 1), ("step", 4)]


def test_in_lock_step_nothing_is_seen(make: Make) -> None:
    node, policy = make(lockstep="true")
    for tick in range(1, 7):
        send(node, tick)
        wait(answered(node, tick))
    wait(lambda: policy.asked[-1:] == [("step", 4)])
    node.on_deactivate(None)
    assert [kind for kind, _ in policy.asked] == ["step", "step"]


def test_a_picture_that_cannot_be_used_stops_nothing(make: Make) -> None:
    node, policy = make()
    policy.refuses = True
    tick = 0

    def refused_and_planned() -> bool:
        nonlocal tick
        tick += 1
        send(node, tick)
        wait(answered(node, tick))
        time.sleep(0.01)
        kinds = [kind for kind, _ in policy.asked]
        return "see" in kinds and "step" in kinds[kinds.index("see") :]

    wait(refused_and_planned)
