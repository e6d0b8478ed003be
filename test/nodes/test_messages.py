"""Dataclasses survive the trip through their messages, and through the wire, bit by bit."""

from __future__ import annotations

import array
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import rdt_msgs.msg
from rclpy.serialization import deserialize_message, serialize_message

from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import ActionChunk, Observation, Picture

RANDOM = np.random.default_rng(1)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def assert_same(a, b):
    for field in dataclasses.fields(a):
        assert same(getattr(a, field.name), getattr(b, field.name)), field.name


def over_the_wire(msg):
    return deserialize_message(serialize_message(msg), type(msg))


def vector(count: int = 3) -> np.ndarray:
    return RANDOM.normal(size=count).astype(np.float32)


FULL = Observation(
    stamp_ns=1_700_000_000_123_456_789,
    robot="r",
    pictures=(Picture("a", 5, bytes(range(256))), Picture("b", 6, b"\x00\xff")),
    joint_names=("x", "y", "z"),
    measured=vector(),
    velocity=vector(),
    effort=vector(),
    leader=vector(),
    command=vector(),
    base=vector(),
    poses={"left": vector(7), "right": vector(7)},
    source_stamps_ns={"camera/a": 5, "measured/arm": -1},
)
BARE = Observation(0, "r", (), ("x",), np.zeros(1, np.float32), poses={}, source_stamps_ns={})


@pytest.mark.parametrize("observation", [FULL, BARE])
def test_observation_goes_there_and_back(observation):
    assert_same(messages.observation(over_the_wire(messages.observation_msg(observation))), observation)


@pytest.mark.parametrize("rows", [0, 64])
def test_action_chunk_goes_there_and_back(rows):
    chunk = ActionChunk(
        stamp_ns=3, robot="r", period_s=0.04, offset_steps=1, channels=("a", "b"),
        rows=RANDOM.normal(size=(rows, 2)).astype(np.float32), epoch=7, chunk_id=2**40, committed_rows=3,
        instruction="näh", inference_s=0.5,
    )  # fmt: skip
    assert_same(messages.action_chunk(over_the_wire(messages.action_chunk_msg(chunk))), chunk)


def test_rows_that_do_not_fill_the_channels_are_refused():
    with pytest.raises(InputError, match="expected rows of 2 channels, found 3 values"):
        messages.action_chunk(rdt_msgs.msg.ActionChunk(channel_names=["a", "b"], rows=[1.0, 2.0, 3.0]))


def test_joints_leave_in_the_robots_units_and_come_back():
    robot = load_robot("agilex")
    group = robot.groups[1]
    position = RANDOM.uniform(0, 1, 7)
    msg = messages.joint_state_msg(robot, group, "command", stamp_ns=5, position=position)
    assert msg.position[6] == pytest.approx(position[6] * 13.9231)
    assert (list(msg.velocity), list(msg.effort)) == ([], [])
    assert list(msg.name) == [f"joint{i}" for i in range(7)]
    sample = messages.joint_sample(robot, group, "command", over_the_wire(msg))
    np.testing.assert_allclose(sample.position, position, rtol=1e-12)
    measured = messages.joint_state_msg(robot, group, "measured", stamp_ns=5, position=position, velocity=position)
    assert measured.velocity[6] == pytest.approx(position[6] * 4.7888)


def test_a_raw_picture_keeps_its_pixels():
    rgb = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    msg = over_the_wire(messages.image_msg("cam", 9, rgb[:, ::-1]))
    assert (msg.encoding, msg.step, messages.stamp_ns(msg.header.stamp)) == ("rgb8", 18, 9)
    np.testing.assert_array_equal(np.frombuffer(bytes(msg.data), np.uint8).reshape(4, 6, 3), rgb[:, ::-1])


def test_large_arrays_are_of_the_type_that_rclpy_moves_without_a_python_loop():
    """rclpy copies an array.array of the field's own type as a block and anything else element by element."""
    sent = messages.observation_msg(FULL)
    for msg in (sent, over_the_wire(sent)):
        assert all(isinstance(image.data, array.array) and image.data.typecode == "B" for image in msg.images)
        assert isinstance(msg.source_stamps_ns, array.array) and msg.source_stamps_ns.typecode == "q"
        for field in ("measured", "measured_velocity", "measured_effort", "leader", "command", "base", "poses"):
            values = getattr(msg, field)
            assert isinstance(values, array.array) and values.typecode == "f", field
    chunk = ActionChunk(3, "r", 0.04, 1, ("a", "b"), vector(128).reshape(64, 2))
    rows = over_the_wire(messages.action_chunk_msg(chunk)).rows
    assert isinstance(rows, array.array) and rows.typecode == "f"


@pytest.mark.parametrize("path", sorted((share_dir() / "msg").glob("*/*.*")), ids=lambda path: path.name)
def test_every_field_is_commented(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith(("#", "---"))]
    for line in lines:
        constant = "=" in line.split("#")[0]
        assert constant or line.partition("#")[2].strip(), f"{path.name}: {line} has no comment"


def test_without_the_messages_the_first_import_says_what_to_do():
    code = "import sys; sys.modules['rdt_msgs'] = None; import rdt_ros.nodes"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ln -s rdt_ros/msg src/rdt_msgs" in run.stderr.splitlines()[-1]
