"""A bag gives the Observations that its messages gave live; an episode survives the way into a bag and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rdt_ros.episodes import bag, bag_episode
from rdt_ros.episodes.bag import BagReader, robot_topics
from rdt_ros.episodes.bag_episode import BagObservations
from rdt_ros.episodes.convert import ConvertConfig, Source, convert
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import parse_robot
from rdt_ros.sensing.synchroniser import SyncConfig, Synchroniser
from rdt_ros.share import share_dir
from rdt_ros.types import Observation

MS = 1_000_000
TYPES = get_typestore(Stores.ROS2_HUMBLE)
WIDTH, HEIGHT = 32, 24
AGILEX = (share_dir() / "config" / "robots" / "agilex.yaml").read_text()
ROBOT_TEXT = f"""{AGILEX.replace("width: 640, height: 480", f"width: {WIDTH}, height: {HEIGHT}")}
base: {{odometry: odom_raw, command: cmd_vel, velocity: [0.3, 0, 0.5], acceleration: [0.5, 0, 1]}}
poses: [{{name: left, topic: left_pose, slots: left_eef}}]
"""
ROBOT = parse_robot(yaml.safe_load(ROBOT_TEXT), "robot")
JPEG, PNG = (
    cv2.imencode(suffix, np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))[1]
    for i, suffix in enumerate((".jpg", ".png"))
)


def make(kind: str, *values):
    return TYPES.types[kind](*values)


def header(ns: int):
    return make("std_msgs/msg/Header", make("builtin_interfaces/msg/Time", *divmod(ns, 10**9)), "frame")


def message(kind: str, source: str, ns: int, random: np.random.Generator):
    """A message of that type with values that tell the moment."""
    if kind == bag.COMPRESSED_IMAGE:  # one camera sends PNG, and now and then one sends nonsense
        data = PNG if source == "camera/cam_left_wrist" else JPEG
        return make(kind, header(ns), "jpeg", data if random.random() > 0.03 else data[:7])
    if kind == bag.IMAGE:
        pixels = random.integers(0, 256, HEIGHT * WIDTH * 3, np.uint8)
        return make(kind, header(ns), HEIGHT, WIDTH, "bgr8", 0, 3 * WIDTH, pixels)
    if kind == bag.JOINT_STATE:
        names = [f"joint{i}" for i in range(7)]
        return make(kind, header(ns), names, random.uniform(-1, 1, 7), random.uniform(-1, 1, 7), np.zeros(0))
    x, y, z = (make("geometry_msgs/msg/Vector3", *random.uniform(-1, 1, 3)) for _ in range(3))
    place = make("geometry_msgs/msg/Point", x.x, x.y, x.z)
    pose = make("geometry_msgs/msg/Pose", place, make("geometry_msgs/msg/Quaternion", y.x, y.y, y.z, 1.0))
    if kind == bag.POSE:
        return make(kind, header(ns), pose)
    unknown = np.zeros(36)
    with_covariance = make("geometry_msgs/msg/PoseWithCovariance", pose, unknown)
    twist = make("geometry_msgs/msg/TwistWithCovariance", make("geometry_msgs/msg/Twist", y, z), unknown)
    return make(kind, header(ns), "base", with_covariance, twist)


def drive(seed: int, leader: bool):
    """Messages of a second and a half as (arrival ns, topic, kind, bytes): jitter, losses, a camera that pauses."""
    random = np.random.default_rng(seed)
    sent, topics = [], {}
    for route in robot_topics(ROBOT):
        # one camera without a compressed topic
        if route.source.startswith("camera/") and (route.kind == bag.IMAGE) != (
            route.source == "camera/cam_right_wrist"
        ):
            continue
        if route.source.startswith("leader/" if not leader else "command/"):
            continue
        topics[route.topic] = route.kind
        period_ns = 33 * MS if route.source.startswith("camera/") else 40 * MS if "command" in route.source else 7 * MS
        for number in range(1500 * MS // period_ns):
            ns = 10**9 + number * period_ns + int(random.integers(0, 4 * MS))
            paused = route.source == "camera/cam_high" and 600 < (ns - 10**9) / MS < 800
            if paused or random.random() < 0.02:
                continue
            data = bytes(TYPES.serialize_cdr(message(route.kind, route.source, ns, random), route.kind))
            sent.append((ns + int(random.integers(1, 20)) * MS, ns, route.topic, data))
    for topic in topics:  # a topic keeps its order, topics overtake each other
        own = [i for i, m in enumerate(sent) if m[2] == topic]
        arrivals = sorted(sent[i][0] for i in own)
        for arrival, i in zip(arrivals, sorted(own, key=lambda i: sent[i][1]), strict=True):
            sent[i] = (arrival, *sent[i][1:])
    return sorted(sent), topics


def write_bag(path: Path, sent, topics, storage=StoragePlugin.MCAP) -> Path:
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {t: writer.add_connection(f"/{t}", kind, typestore=TYPES) for t, kind in topics.items()}
        for arrival_ns, _, topic, data in sent:
            writer.write(connections[topic], arrival_ns, data)
    return path


def live(sent, config: SyncConfig) -> list[Observation]:
    """What camera_sync publishes: its own reading of the messages, at the times at which they arrived."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message

    from rdt_ros.nodes import camera_sync, messages

    kinds = {
        bag.IMAGE: camera_sync.Image,
        bag.COMPRESSED_IMAGE: camera_sync.CompressedImage,
        bag.JOINT_STATE: camera_sync.JointState,
        bag.ODOMETRY: camera_sync.Odometry,
        bag.POSE: camera_sync.PoseStamped,
    }
    cameras, groups = {c.name: c for c in ROBOT.cameras}, {g.name: g for g in ROBOT.groups}

    def read(route, msg, stamp_ns):
        role, _, name = route.source.partition("/")
        if route.kind == bag.IMAGE:
            return camera_sync._read_raw(cameras[name], msg, stamp_ns)
        if route.kind == bag.COMPRESSED_IMAGE:
            return camera_sync._read_compressed(cameras[name], msg, stamp_ns)
        if route.kind == bag.JOINT_STATE:
            return messages.joint_sample(ROBOT, groups[name], role, msg)
        return (camera_sync._read_odometry if route.kind == bag.ODOMETRY else camera_sync._read_pose)(msg, stamp_ns)

    sync = Synchroniser(ROBOT, config)
    routes = [route for route in robot_topics(ROBOT) if route.source in sync.sources]
    events = []
    for arrival_ns, _, topic, data in sent:
        events += sync.poll(arrival_ns)
        for route in (r for r in routes if r.topic == topic):
            msg = deserialize_message(data, kinds[route.kind])
            stamp_ns = messages.stamp_ns(msg.header.stamp)
            try:
                payload = read(route, msg, stamp_ns)
            except InputError as error:
                sync.refuse(route.source, str(error), arrival_ns)
                continue
            events += sync.put(route.source, stamp_ns, payload, arrival_ns)
    events += sync.poll(sent[-1][0] + 10**10)
    return [event for event in events if isinstance(event, Observation)]


@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), leader=st.booleans(), storage=st.sampled_from(list(StoragePlugin)))
def test_live_sets_and_those_of_the_bag_are_identical(tmp_path_factory, seed, leader, storage):
    sent, topics = drive(seed, leader)
    config = SyncConfig(leader=leader)
    expected = live(sent, config)
    path = write_bag(tmp_path_factory.mktemp("b") / "bag", sent, topics, storage)
    with BagReader(path, ROBOT) as reader:
        found = list(BagObservations(reader, ROBOT, config))
    assert len(expected) > 15
    assert [o.stamp_ns for o in found] == [o.stamp_ns for o in expected]
    assert all(identical(a, b) for a, b in zip(found, expected, strict=True))
    assert leader == (expected[0].leader is not None) != any(o.command is not None for o in expected)
    assert all(o.base is not None and "left" in o.poses for o in found)


def identical(a, b) -> bool:
    """Bit by bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
    if dataclasses.is_dataclass(a):
        return all(identical(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if hasattr(a, "items"):
        return set(a) == set(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("leader", [False, True])
def test_an_episode_survives_the_way_into_a_bag_and_back(maker, tmp_path, storage, leader):
    observations = maker.observations(20, skew_ns=20 * MS, leader=leader, command=not leader)
    big = [cv2.imencode(".jpg", maker.random.integers(0, 256, (480, 640, 3), np.uint8))[1].tobytes() for _ in range(2)]
    observations = [
        dataclasses.replace(o, pictures=tuple(dataclasses.replace(p, jpeg=big[i % 2]) for p in o.pictures))
        for i, o in enumerate(observations)
    ]
    maker.write(tmp_path / "e.hdf5", observations)
    source = Source(tmp_path / "e.hdf5", Path("e"))
    there = convert(source, tmp_path / "there", ConvertConfig("rosbag2", storage=storage))
    config = ConvertConfig("rdt_ros", robot="sim_aloha", action_source="leader" if leader else "command")
    back = convert(Source(there.path, Path("e")), tmp_path / "back", config)
    with EpisodeReader(source.path) as before, EpisodeReader(back.path) as after:
        assert after.instruction == "stapel die Würfel"
        ticks = list(before.ticks)
        # nobody knows of an earlier sample for the first tick, and no Observation carries the last actions
        assert len(before) - 1 - (1 if leader else 2) <= len(after) < len(before)
        for step, observation in enumerate(after.observations()):
            then = ticks.index(observation.stamp_ns)
            original = before.observation(then)
            assert observation.pictures == original.pictures
            assert dict(observation.source_stamps_ns) == dict(original.source_stamps_ns)
            np.testing.assert_allclose(observation.measured, original.measured, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(observation.velocity, original.velocity, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(after.actions[step], before.actions[then], rtol=1e-6, atol=1e-7)


def test_actions_of_an_episode_without_leader_and_command_become_commands(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(12))
    aloha = convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / "aloha", ConvertConfig("aloha", pictures="raw"))
    source = Source(aloha.path, Path("e"))
    there = convert(source, tmp_path / "bag", ConvertConfig("rosbag2"))
    robot = maker.robot
    cameras = tuple(dataclasses.replace(c, width=32, height=24) for c in robot.cameras)
    small = dataclasses.replace(robot, cameras=cameras)
    with BagReader(there.path, small) as reader:
        head = Header(small, maker.robot_text)
        bag_episode.write_episode(reader, head, tmp_path / "back.hdf5", action_source="command")
    with EpisodeReader(tmp_path / "e.hdf5") as before, EpisodeReader(tmp_path / "back.hdf5") as after:
        assert len(after) == len(before) - 2
        np.testing.assert_allclose(after.actions, before.actions[: len(after)], rtol=1e-6, atol=1e-7)


def test_a_bag_without_what_the_robot_needs_is_refused(tmp_path):
    sent, topics = drive(0, leader=False)
    del topics["odom_raw"]
    path = write_bag(tmp_path / "bag", [m for m in sent if m[2] != "odom_raw"], topics)
    (tmp_path / "robot.yaml").write_text(ROBOT_TEXT)
    with pytest.raises(InputError, match="bag: expected the topics of base/odometry, found none"):
        convert(Source(path, Path("b")), tmp_path / "out", ConvertConfig("rdt_ros", robot=str(tmp_path / "robot.yaml")))
    with pytest.raises(InputError, match="bag: a bag does not say which robot it is of"):
        convert(Source(path, Path("b")), tmp_path / "out", ConvertConfig("rdt_ros"))


def test_what_was_given_up_and_refused_is_said(tmp_path):
    sent, topics = drive(3, leader=False)
    path = write_bag(tmp_path / "bag", sent, topics)
    (tmp_path / "robot.yaml").write_text(ROBOT_TEXT)
    config = ConvertConfig("rdt_ros", robot=str(tmp_path / "robot.yaml"), instruction="wave", action_source="command")
    result = convert(Source(path, Path("b")), tmp_path / "out", config)
    notes = "; ".join(result.notes)
    assert "ticks given up: late camera/cam_high" in notes and "refused" in notes
    assert "actions are those of the command topics" in notes
    with EpisodeReader(result.path) as episode:
        assert episode.instruction == "wave" and len(episode) == result.steps > 10
        assert episode.content.action_source == "command"
