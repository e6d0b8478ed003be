"""The `executor` node as a process, between arms and a policy that this file plays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import Twist  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rdt_msgs.msg import ActionChunk as ActionChunkMsg  # noqa: E402
from rdt_msgs.msg import ExecutorState  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Bool, Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.robot.description import load_robot, robot_path  # noqa: E402
from rdt_ros.types import NS_PER_S, ActionChunk  # noqa: E402

pytestmark = pytest.mark.ros

ROBOT = load_robot("sim_aloha")
HOME = np.array(ROBOT.home[-1])
MEASURED_GRIPPER = 0.9  # far from any command in these tests
DOMAIN = 87


@pytest.fixture(autouse=True)
def own_network(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Bench:
    """The arms, the policy and the operator, in one node; arms follow their commands at once."""

    def __init__(self) -> None:
        rclpy.init(args=[])
        self.node = rclpy.create_node("bench")
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self.node)
        self.pose = np.where(ROBOT.is_gripper, MEASURED_GRIPPER, HOME)
        self.commands: dict[str, list[tuple[int, np.ndarray]]] = {group.name: [] for group in ROBOT.groups}
        self.state: ExecutorState | None = None
        self.stamp_ns: int | None = None  # fixed in lock-step, else the time of day
        self.arms = [(g, self.node.create_publisher(JointState, g.measured.topic, 10)) for g in ROBOT.groups]
        self.chunks = self.node.create_publisher(ActionChunkMsg, "action_chunk", 10)
        self.stop = self.node.create_publisher(Bool, "software_stop", 1)
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        for group in ROBOT.groups:
            self.node.create_subscription(
                JointState, group.command.topic, lambda msg, group=group: self.on_command(group, msg), 50
            )
        self.node.create_subscription(ExecutorState, "executor/state", lambda msg: setattr(self, "state", msg), 50)
        self.node.create_timer(0.01, self.measure)

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.try_shutdown()

    def now_ns(self) -> int:
        return time.time_ns() if self.stamp_ns is None else self.stamp_ns

    def on_command(self, group, msg) -> None:
        sample = messages.joint_sample(ROBOT, group, "command", msg)
        self.commands[group.name].append((sample.stamp_ns, sample.position))
        arms = ~ROBOT.is_gripper[group.columns]
        self.pose[group.columns][arms] = sample.position[arms]

    def measure(self) -> None:
        for group, publisher in self.arms:
            position = self.pose[group.columns]
            msg = messages.joint_state_msg(ROBOT, group, "measured", stamp_ns=self.now_ns(), position=position)
            publisher.publish(msg)

    def until(self, condition, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            self.spinner.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.spinner.spin_once(timeout_sec=0.02)

    def call(self, service: str) -> tuple[bool, str]:
        client = self.node.create_client(Trigger, f"executor/{service}")
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result().success, future.result().message

    def in_state(self, state: int) -> None:
        self.until(lambda: self.state is not None and self.state.state == state)

    def send(self, rows: np.ndarray, channels: tuple[str, ...] = ROBOT.channels) -> None:
        chunk = ActionChunk(
            stamp_ns=self.now_ns(),
            robot=ROBOT.name,
            period_s=ROBOT.period_ns / NS_PER_S,
            offset_steps=1,
            channels=channels,
            rows=rows.astype(np.float32),
            epoch=self.state.epoch,
            chunk_id=5,
        )
        self.chunks.publish(messages.action_chunk_msg(chunk))

    def sent(self, group: str) -> np.ndarray:
        return np.array([position for _, position in self.commands[group]])


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def start():
    """Starts an executor with parameters; all of them end with the test."""
    processes = []

    def begin(**parameters: object) -> subprocess.Popen:
        arguments = [f"{name}:={value}" for name, value in {"robot": "sim_aloha", **parameters}.items()]
        command = [sys.executable, "-m", "rdt_ros.nodes", "executor", "--ros-args"]
        for argument in arguments:
            command += ["-p", argument]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) in (0, 2)


def swing(rows: int = 64) -> np.ndarray:
    """The left waist turns by 0.4 rad in 2.5 s, grippers open a little."""
    u = (np.arange(1, rows + 1) / rows)[:, None]
    plan = np.tile(HOME, (rows, 1))
    plan[:, 0] += 0.4 * (u**3 * (10 - 15 * u + 6 * u**2))[:, 0]
    plan[:, ROBOT.is_gripper] = 0.3
    return plan


def test_from_start_to_a_latched_stop(bench, start):
    start(command_rate_hz=100.0)
    bench.in_state(ExecutorState.INACTIVE)
    bench.until(lambda: all(p.get_subscription_count() for _, p in bench.arms))
    bench.send(swing())
    bench.spin(0.5)
    assert bench.state.refused_reasons == ["not following"]
    assert bench.call("enable") == (True, "enabled, no chunk yet")
    bench.spin(0.3)
    assert bench.commands == {"left_arm": [], "right_arm": []}  # enabled, and nothing to follow yet

    bench.send(swing())
    bench.in_state(ExecutorState.RUNNING)
    assert bench.state.chunk_id == 5 and bench.state.epoch == 1
    bench.in_state(ExecutorState.HOLDING)
    left = bench.sent("left_arm")
    assert left[0][:6] == pytest.approx(HOME[:6], abs=1e-3) and left[0][6] == pytest.approx(0.3)
    assert left[-1] == pytest.approx(swing()[-1][:7], abs=1e-5)
    assert np.abs(np.diff(left, axis=0)).max() * 100 <= 0.4 * 1.875 / 2.5 * 1.1
    stamps = np.array([stamp for stamp, _ in bench.commands["left_arm"]])
    assert (stamps % 10_000_000 == 0).all() and len(stamps) > 240
    assert [stamp for stamp, _ in bench.commands["right_arm"]][: len(stamps) - 2] == list(stamps)[: len(stamps) - 2]

    bench.send(np.tile(HOME, (64, 1)))
    bench.in_state(ExecutorState.RUNNING)
    bench.stop.publish(Bool(data=True))
    bench.in_state(ExecutorState.STOPPED)
    bench.spin(0.3)
    held = bench.sent("left_arm")[-1]
    bench.send(swing())
    assert bench.call("enable") == (False, "stopped: software stop")
    bench.stop.publish(Bool(data=False))
    bench.spin(0.3)
    assert bench.state.state == ExecutorState.STOPPED
    assert bench.sent("left_arm")[-1] == pytest.approx(held)
    assert bench.call("reset_stop")[0] and bench.call("enable")[0]
    assert bench.state.epoch == 2
    assert bench.call("disable") == (True, "disabled")


def test_somebody_else_on_a_command_topic(bench, start):
    topic = ROBOT.groups[1].command.topic
    other = bench.node.create_publisher(JointState, topic, 10)
    start(enable_at_start=True)
    bench.in_state(ExecutorState.INACTIVE)
    bench.until(lambda: all(p.get_subscription_count() for _, p in bench.arms))
    bench.spin(1.0)
    assert bench.call("enable") == (False, f"/{topic} is also published by bench")
    bench.node.destroy_publisher(other)
    bench.spin(1.0)
    assert bench.state.state == ExecutorState.INACTIVE  # nobody plans yet
    bench.send(swing())
    bench.in_state(ExecutorState.HOLDING)  # at start means as soon as it is possible
    bench.until(lambda: bench.state.epoch == 1)
    bench.send(swing())
    bench.in_state(ExecutorState.RUNNING)
    bench.node.create_publisher(JointState, topic, 10)
    bench.in_state(ExecutorState.FAULT)
    assert bench.state.reason == f"/{topic} is also published by bench"
    bench.spin(0.3)
    count = len(bench.commands["left_arm"])
    bench.spin(0.3)
    assert len(bench.commands["left_arm"]) == count


def test_moves_only_while_the_deadman_switch_is_held(bench, start):
    start(require_deadman=True, deadman_timeout_s=0.5)
    switch = bench.node.create_publisher(Bool, "deadman", 1)
    bench.in_state(ExecutorState.INACTIVE)
    bench.until(lambda: all(p.get_subscription_count() for _, p in bench.arms))
    bench.spin(1.0)
    assert bench.call("enable") == (False, "the dead-man switch is not held")
    hand = bench.node.create_timer(0.05, lambda: switch.publish(Bool(data=True)))
    bench.until(lambda: bench.call("enable")[0])
    bench.send(swing())
    bench.in_state(ExecutorState.RUNNING)
    bench.until(lambda: len(bench.commands["left_arm"]) > 10)
    bench.node.destroy_timer(hand)
    bench.in_state(ExecutorState.FAULT)
    assert bench.state.reason == "the dead-man switch is not held"
    bench.spin(1.0)
    left = bench.sent("left_arm")
    assert (left[-1] == left[-5]).all() and left[-1, 0] < swing()[-1, 0] - 0.05


def test_a_dry_run_follows_and_sends_nothing(bench, start):
    start(dry_run=True, max_following_error=0.05)
    bench.in_state(ExecutorState.INACTIVE)
    bench.until(lambda: all(p.get_subscription_count() for _, p in bench.arms))
    bench.spin(1.0)
    assert bench.call("enable")[0]
    bench.until(lambda: bench.state.epoch == 1)
    bench.send(swing(25))
    bench.in_state(ExecutorState.RUNNING)
    bench.in_state(ExecutorState.HOLDING)
    topics = [group.command.topic for group in ROBOT.groups]
    assert [bench.node.count_publishers(topic) for topic in topics] == [0, 0]


def test_a_forward_controller_and_a_base(bench, start, tmp_path):
    text = robot_path("sim_aloha").read_text()
    old = ROBOT.groups[0].command.topic
    text = text.replace(f"command: {{topic: {old},", "command: {topic: forward/commands, message: float64_multi_array,")
    limits = "velocity: [0.3, 0, 0.5], acceleration: [0.5, 0, 1.0]"
    path = tmp_path / "mobile.yaml"
    path.write_text(text + f"\nbase: {{odometry: odom, command: cmd_vel, {limits}}}\n")
    start(robot=path)
    arrays: list[list[float]] = []
    twists: list[Twist] = []
    bench.node.create_subscription(Float64MultiArray, "forward/commands", lambda msg: arrays.append(list(msg.data)), 50)
    bench.node.create_subscription(Twist, "cmd_vel", twists.append, 50)
    bench.in_state(ExecutorState.INACTIVE)
    bench.until(lambda: all(p.get_subscription_count() for _, p in bench.arms))
    bench.spin(1.0)
    assert bench.call("enable")[0]
    bench.until(lambda: bench.state.epoch == 1)
    rows = np.hstack([swing(25), np.full((25, 1), 0.2)])
    channels = (*ROBOT.channels, "base_vel_x")
    bench.send(rows, channels)
    bench.in_state(ExecutorState.RUNNING)
    bench.until(lambda: len(arrays) > 5)
    bench.pose[:] = np.where(ROBOT.is_gripper, bench.pose, HOME)
    bench.in_state(ExecutorState.HOLDING)
    bench.until(lambda: twists and twists[-1].linear.x == 0)
    speeds = np.array([twist.linear.x for twist in twists])
    assert speeds.max() == pytest.approx(0.2) and np.abs(np.diff(speeds)).max() <= 0.5 / 25 + 1e-6
    wire = ROBOT.to_wire(ROBOT.groups[0], "command", swing(25)[-1, ROBOT.groups[0].columns])
    assert arrays[-1] == pytest.approx(wire, abs=1e-5)


def test_lockstep_answers_every_tick_of_the_clock(bench, start):
    start(lockstep=True, use_sim_time=True)
    bench.stamp_ns = 3 * ROBOT.period_ns
    bench.in_state(ExecutorState.INACTIVE)
    assert bench.call("enable") == (False, "no time on /clock yet")
    bench.until(lambda: bench.clock.get_subscription_count() >= 2)  # its own, and that of its ROS clock
    bench.clock.publish(Clock(clock=messages.stamp_msg(bench.stamp_ns)))
    bench.spin(0.3)
    assert bench.call("enable")[0]
    bench.until(lambda: bench.state.epoch == 1)
    rows = swing()
    for k in range(10):
        bench.spin(0.05)
        assert len(bench.commands["left_arm"]) == k  # no command before the answer
        bench.send(rows if k == 0 else rows[:0])
        bench.until(lambda k=k: len(bench.commands["left_arm"]) == len(bench.commands["right_arm"]) == k + 1)
        bench.stamp_ns += ROBOT.period_ns
        bench.measure()
        bench.clock.publish(Clock(clock=messages.stamp_msg(bench.stamp_ns)))
    assert [stamp for stamp, _ in bench.commands["left_arm"]] == [(3 + k) * ROBOT.period_ns for k in range(10)]
    assert bench.sent("left_arm")[1:] == pytest.approx(rows[:9, :7], abs=1e-5)


def test_lockstep_without_sim_time_is_one_line(start):
    process = start(lockstep=True)
    assert process.wait(20) == 2
    assert (
        process.stderr.read()
        .strip()
        .endswith("executor.lockstep: expected use_sim_time to be true as well, found false")
    )
