"""The `policy` node as a process: it answers Observations, follows instructions, and says what is wrong in one line."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

rclpy = pytest.importorskip("rclpy")

import rdt_msgs.msg  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rdt_msgs.srv import SetInstruction  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from rdt_ros import jpeg  # noqa: E402
from rdt_ros.model.checkpoint import save_checkpoint  # noqa: E402
from rdt_ros.model.config import model_size  # noqa: E402
from rdt_ros.model.network import RdtNetwork  # noqa: E402
from rdt_ros.model.store import InstructionStore  # noqa: E402
from rdt_ros.model.vision import SiglipEncoder  # noqa: E402
from rdt_ros.nodes import messages  # noqa: E402
from rdt_ros.nodes.qos import OBSERVATIONS  # noqa: E402
from rdt_ros.robot.description import load_robot, robot_path  # noqa: E402
from rdt_ros.types import Observation, Picture  # noqa: E402

pytestmark = pytest.mark.ros

DOMAIN = 65
ASK_AGAIN_S = 5.0
ROBOT_RATE = 25  # ticks a second
ROBOT = load_robot("sim_aloha")
TEXTS = ("lift the cube", "hand the cube over")


@pytest.fixture(autouse=True, scope="module")
def own_domain():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> dict[str, str]:
    """Parameters that name a small checkpoint in our own form, with its robot and instructions, and its encoder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = model_size("tiny")
    torch.manual_seed(1)
    network = RdtNetwork(config)
    torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=0.02)
    store = InstructionStore("t5-made-up", config.lang_token_dim)
    for text in TEXTS:
        store.add(text, torch.randn(5, config.lang_token_dim))
    save_checkpoint(
        folder / "rdt",
        config,
        network.state_dict(),
        robot_text=robot_path("sim_aloha").read_text(),
        instructions=store,
    )
    SiglipEncoder.random(config.vision).tower.save(folder / "vision")
    return {"checkpoint": str(folder / "rdt"), "vision": str(folder / "vision")}


def command(**parameters) -> list[str]:
    given = {"robot": ROBOT.name, "replan_rows": 1, **parameters}
    arguments = [text for key, value in given.items() for text in ("-p", f"{key}:={json.dumps(value)}")]
    return [sys.executable, "-m", "rdt_ros.nodes", "policy", "--ros-args", *arguments]


class Robot:
    """Sends Observations and hears the chunks."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publisher = self.node.create_publisher(rdt_msgs.msg.Observation, "observation", OBSERVATIONS)
        self.states = self.node.create_publisher(rdt_msgs.msg.ExecutorState, "executor/state", 10)
        self.chunks: list = []
        keep = lambda msg: self.chunks.append(messages.action_chunk(msg))  # noqa: E731
        self.node.create_subscription(rdt_msgs.msg.ActionChunk, "action_chunk", keep, 100)
        self.tick = 0

    def wait(self, condition, timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(timeout_sec=0.05)

    def observation(self) -> rdt_msgs.msg.Observation:
        """That of the present tick."""
        picture = jpeg.encode(np.full((48, 64, 3), 100, np.uint8))
        observation = Observation(
            stamp_ns=self.tick * ROBOT.period_ns,
            robot=ROBOT.name,
            pictures=tuple(Picture(camera.name, self.tick * ROBOT.period_ns, picture) for camera in ROBOT.cameras),
            joint_names=ROBOT.joint_names,
            measured=np.zeros(len(ROBOT.joints), np.float32),
        )
        return messages.observation_msg(observation)

    def observe(self):
        """Sends one more Observation and returns the chunk that answers it."""
        self.tick += 1
        self.publisher.publish(self.observation())
        self.wait(lambda: self.chunks and self.chunks[-1].stamp_ns == self.tick * ROBOT.period_ns)
        return self.chunks[-1]

    def call(self, kind, service: str, request):
        """Asks again after a while: a server that has not found the client's reader yet drops its answer."""
        client = self.node.create_client(kind, service)
        self.wait(client.service_is_ready)
        futures: list = []
        asked_s = -math.inf

        def answered() -> bool:
            nonlocal asked_s
            if time.monotonic() - asked_s > ASK_AGAIN_S:
                futures.append(client.call_async(request))
                asked_s = time.monotonic()
            return any(future.done() for future in futures)

        self.wait(answered)
        return next(future.result() for future in futures if future.done())

    def instruct(self, text: str):
        return self.call(SetInstruction, "policy/set_instruction", SetInstruction.Request(instruction=text))


@pytest.fixture
def robot():
    robot = Robot()
    yield robot
    robot.executor.shutdown()
    robot.node.destroy_node()
    rclpy.shutdown(context=robot.context)


@pytest.fixture
def start(tmp_path):
    processes = []

    def run(**parameters) -> Path:
        log = tmp_path / "log"
        with log.open("w") as file:
            processes.append(subprocess.Popen(command(**parameters), stdout=file, stderr=subprocess.STDOUT))
        return log

    yield run
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_checkpoint_follows_its_instructions_and_refuses_others(robot, start, checkpoint):
    start(policy="rdt", instruction=TEXTS[0], **checkpoint)
    robot.wait(lambda: robot.publisher.get_subscription_count() == 1)
    first = robot.observe()
    assert first.instruction == TEXTS[0] and first.rows.shape == (64, 14) and np.isfinite(first.rows).all()

    refused = robot.instruct("fold the towel")
    assert not refused.success and TEXTS[0] in refused.message and "\n" not in refused.message
    assert not robot.instruct("  ").success
    assert robot.observe().instruction == TEXTS[0]

    assert robot.instruct(f" {TEXTS[1]} ").success
    changed = robot.observe()
    assert changed.instruction == TEXTS[1] and changed.chunk_id == 3
    assert not np.array_equal(changed.rows, first.rows)


def test_in_lock_step_every_observation_is_answered_and_a_new_epoch_at_once(robot, start):
    start(policy="hold", lockstep=True, replan_rows=3)
    robot.wait(lambda: robot.publisher.get_subscription_count() == 1 and robot.states.get_subscription_count() == 1)
    assert [len(robot.observe().rows) for _ in range(4)] == [64, 0, 0, 64]
    count = len(robot.chunks)
    robot.states.publish(rdt_msgs.msg.ExecutorState(epoch=5))
    robot.wait(lambda: len(robot.chunks) > count)
    assert (robot.chunks[-1].epoch, len(robot.chunks[-1].rows)) == (5, 64)
    assert robot.chunks[-1].stamp_ns == robot.tick * ROBOT.period_ns


def plan_state(tick: int) -> rdt_msgs.msg.ExecutorState:
    """Running at a tick: 64 rows to come, each a thousandth of its tick, of a chunk that was not sent here."""
    rows = np.repeat(np.arange(tick + 1, tick + 65) / 1000, len(ROBOT.joints))
    msg = rdt_msgs.msg.ExecutorState(
        state=rdt_msgs.msg.ExecutorState.RUNNING,
        chunk_id=10**6,
        rows_left=64,
        committed_stamp_ns=(tick + 1) * ROBOT.period_ns,
        committed_period_s=ROBOT.period_ns / 1e9,
        channel_names=list(ROBOT.channels),
        committed=rows.astype(np.float32).tolist(),
    )
    msg.header.stamp = messages.stamp_msg(tick * ROBOT.period_ns)
    return msg


def test_the_rows_that_are_executed_in_the_meantime_are_continued(robot, start):
    """Time is that of /clock here, so that a slow machine changes nothing."""
    start(
        policy="rdt",
        checkpoint="random:tiny",
        instruction="lift",
        replan="eager",
        realtime_chunking=True,
        use_sim_time=True,
    )
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    for publisher in (robot.publisher, robot.states, clock):
        robot.wait(lambda publisher=publisher: publisher.get_subscription_count() == 1)
    assert robot.observe().committed_rows == 0

    def continued() -> bool:
        """Tries until time and state came before the Observation. A second on, the chunk before counts as refused."""
        robot.tick += ROBOT_RATE
        clock.publish(Clock(clock=messages.stamp_msg((robot.tick + 1) * ROBOT.period_ns)))
        robot.states.publish(plan_state(robot.tick + 1))
        robot.executor.spin_once(timeout_sec=0.1)
        chunk = robot.observe()
        # the state is of the Observation's tick, the first row is due one tick later
        expected = (robot.tick + 1 + np.arange(chunk.committed_rows)) / 1000
        fixed = chunk.rows[: chunk.committed_rows]
        return chunk.committed_rows > 0 and np.allclose(fixed, expected[:, None], atol=1e-5)

    robot.wait(continued)


def test_eager_answers_every_observation_with_a_plan(robot, start):
    start(policy="hold", replan="eager")
    robot.wait(lambda: robot.publisher.get_subscription_count() == 1)
    assert [len(robot.observe().rows) for _ in range(3)] == [64, 64, 64]


def test_needed_waits_until_the_plan_is_nearly_done(robot, start):
    start(policy="hold", replan="needed")
    robot.wait(lambda: robot.publisher.get_subscription_count() == 1)
    robot.tick = time.time_ns() // ROBOT.period_ns
    first = robot.observe()

    def planned_anew() -> bool:
        robot.tick = max(robot.tick + 1, time.time_ns() // ROBOT.period_ns)
        robot.publisher.publish(robot.observation())
        return len(robot.chunks) > 1

    robot.wait(planned_anew)
    assert (robot.chunks[1].stamp_ns - first.stamp_ns) / ROBOT.period_ns > 32


def test_a_lifecycle_manager_may_start_it(robot, start):
    start(policy="hold", autostart=False)
    state = robot.call(GetState, "policy/get_state", GetState.Request())
    assert state.current_state.label == "unconfigured"


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"policy": "rtd"}, "policy.policy: expected one of rdt, scripted, replay, hold, found 'rtd'"),
        ({"policy": "rdt"}, "policy: checkpoint: expected a file, a folder, a Hub id or random:SIZE, found nothing"),
        ({"policy": "rdt", "checkpoint": "random:tini"}, "policy: model size: expected one of rdt-1b, "),
        ({"policy": "rdt", "checkpoint": "/nowhere"}, "policy: checkpoint /nowhere: no such file or folder"),
        ({"policy": "replay", "episode": "/nowhere.hdf5"}, "policy: /nowhere.hdf5: no such file"),
        (
            {"policy": "hold", "lockstep": True, "replan": "eager"},
            "policy.replan: expected period in lock-step, found 'eager'",
        ),
        (
            {"policy": "hold", "lockstep": True, "realtime_chunking": True},
            "policy.realtime_chunking: expected false in lock-step, found true",
        ),
        ({"policy": "hold", "robot": "agilx"}, "robot: expected one of agilex, "),
    ],
)
def test_what_cannot_work_ends_with_one_line_and_exit_code_2(parameters, line):
    run = subprocess.run(command(**parameters), capture_output=True, text=True, timeout=180)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(line)
    assert "Traceback" not in run.stderr


def test_an_instruction_without_embeddings_says_how_to_make_them(checkpoint):
    parameters = {"policy": "rdt", "instruction": "fold the towel", **checkpoint}
    run = subprocess.run(command(**parameters), capture_output=True, text=True, timeout=180)
    assert run.returncode == 2
    assert "rdt encode" in run.stderr.splitlines()[-1] and "Traceback" not in run.stderr
