"""A robot's topics in a rosbag2: their order, their bytes, and what is refused."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rdt_ros.episodes import bag
from rdt_ros.episodes.bag import BagReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot

ROBOT = load_robot("sim_aloha")
TYPES = get_typestore(Stores.ROS2_HUMBLE)
CAMERAS = [f"{camera.topic}/compressed" for camera in ROBOT.cameras]
ARMS = [group.measured.topic for group in ROBOT.groups]
STORAGES = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]


def header(ns: int):
    time = TYPES.types["builtin_interfaces/msg/Time"]
    return TYPES.types["std_msgs/msg/Header"](time(ns // 10**9, ns % 10**9), "f")


def message(topic: str, ns: int):
    if topic in ARMS:
        empty = np.zeros(0)
        return TYPES.types[bag.JOINT_STATE](header(ns), ["j"], np.array([float(ns)]), empty, empty)
    data = np.frombuffer(b"\xff\xd8" + str(ns).encode() * 50, np.uint8)
    if topic.endswith("/compressed"):
        return TYPES.types[bag.COMPRESSED_IMAGE](header(ns), "jpeg", data)
    return TYPES.types[bag.IMAGE](header(ns), 1, len(data), "mono8", 0, len(data), data)


def kind(topic: str) -> str:
    if topic in ARMS:
        return bag.JOINT_STATE
    return bag.COMPRESSED_IMAGE if topic.endswith("/compressed") else bag.IMAGE


def write(path: Path, sent, *, storage=StoragePlugin.MCAP, topics=(*CAMERAS, *ARMS), namespace="", kinds=None):
    """A bag of (topic, stamp in ns, log time in ns)."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(f"{namespace}/{topic}", (kinds or {}).get(topic, kind(topic)), typestore=TYPES)
            for topic in topics
        }
        for topic, stamp_ns, log_ns in sent:
            data = TYPES.serialize_cdr(message(topic, stamp_ns), kind(topic))
            writer.write(connections[topic], log_ns, data)
    return path


def all_topics(*stamps: int):
    return [(topic, stamp, stamp + 5) for stamp in stamps for topic in (*CAMERAS, *ARMS)]


@pytest.mark.parametrize("storage", STORAGES)
def test_messages_come_by_stamp_and_as_they_were(tmp_path, storage):
    sent = all_topics(10**9, 2 * 10**9, 3 * 10**9)
    sent.append((CAMERAS[0], 10**9 + 7, 2 * 10**9 - 1))  # recorded late
    path = write(tmp_path / "bag", sorted(sent, key=lambda m: m[2]), storage=storage)
    with BagReader(path, ROBOT) as reader:
        messages = list(reader.messages())
        assert reader.topics == {topic: kind(topic) for topic in (*CAMERAS, *ARMS)}
    assert [m.stamp_ns for m in messages] == sorted(stamp for _, stamp, _ in sent)
    assert {(m.topic, m.stamp_ns) for m in messages} == {(topic, stamp) for topic, stamp, _ in sent}
    for m in messages:
        assert m.data == bytes(TYPES.serialize_cdr(message(m.topic, m.stamp_ns), kind(m.topic)))


def test_a_single_mcap_file_will_do(tmp_path):
    write(tmp_path / "bag", all_topics(10**9))
    (file,) = (tmp_path / "bag").glob("*.mcap")
    with BagReader(file, ROBOT) as reader:
        assert len(list(reader.messages())) == 5


def test_metadata_say_how_long_it_is_and_what_was_done(tmp_path):
    path = write(tmp_path / "bag", all_topics(10**9, 3 * 10**9))
    with BagReader(path, ROBOT) as reader:
        assert (reader.duration_ns, reader.instruction) == (2 * 10**9 + 1, "")
    with Writer(tmp_path / "named", version=8) as writer:
        writer.set_custom_data("instruction", "fold")
        for topic in (*CAMERAS, *ARMS):
            connection = writer.add_connection(f"/{topic}", kind(topic), typestore=TYPES)
            writer.write(connection, 10**9, TYPES.serialize_cdr(message(topic, 10**9), kind(topic)))
    with BagReader(tmp_path / "named", ROBOT) as reader:
        assert reader.instruction == "fold"


def test_raw_cameras_and_topics_of_others(tmp_path):
    raw = [camera.topic for camera in ROBOT.cameras]
    sent = [(topic, 10**9, 10**9) for topic in (*raw, *ARMS, "other/image")]
    path = write(tmp_path / "bag", sent, topics=(*raw, *ARMS, "other/image"), namespace="/robot")
    with BagReader(path, ROBOT, namespace="/robot/") as reader:
        assert {m.topic for m in reader.messages()} == {*raw, *ARMS}


def test_a_message_without_stamp_has_the_time_of_its_recording(tmp_path):
    path = write(tmp_path / "bag", [(t, 0, 10**9 + i) for i, t in enumerate((*CAMERAS, *ARMS))])
    with BagReader(path, ROBOT) as reader:
        assert [m.stamp_ns for m in reader.messages()] == [10**9 + i for i in range(5)]


def test_missing_topics_are_named(tmp_path):
    topics = (CAMERAS[0], ARMS[0])
    path = write(tmp_path / "bag", [(topic, 10**9, 10**9) for topic in topics], topics=topics)
    with pytest.raises(InputError) as error:
        BagReader(path, ROBOT)
    missing = "camera_l/color/image_raw[/compressed], camera_r/color/image_raw[/compressed], puppet/joint_right"
    assert str(error.value) == f"{path}: expected the topics of robot sim_aloha, missing {missing}"


def test_a_topic_of_another_type_is_named(tmp_path):
    path = write(tmp_path / "bag", all_topics(10**9), kinds={ARMS[0]: "nav_msgs/msg/Odometry"})
    expected = f"puppet/joint_left: expected {bag.JOINT_STATE}, found nav_msgs/msg/Odometry"
    with pytest.raises(InputError, match=expected):
        BagReader(path, ROBOT)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 0.99])
def test_a_truncated_bag_is_refused(tmp_path, storage, part):
    path = write(tmp_path / "bag", all_topics(*range(10**9, 2 * 10**9, 10**7)), storage=storage)
    (file,) = (f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match="bag: no whole rosbag2: ") as error, BagReader(path, ROBOT) as reader:
        list(reader.messages())
    assert "\n" not in str(error.value)


def test_what_is_no_bag_is_refused(tmp_path):
    with pytest.raises(InputError, match="none: no such bag"):
        BagReader(tmp_path / "none", ROBOT)
    path = write(tmp_path / "bag", all_topics(10**9))
    (path / "metadata.yaml").unlink()  # as an interrupted recording leaves it
    (tmp_path / "x.mcap").write_text("text")
    shutil.copy(tmp_path / "x.mcap", tmp_path / "x.txt")
    for wrong in (path, tmp_path / "x.mcap", tmp_path / "x.txt"):
        with pytest.raises(InputError, match="no whole rosbag2"):
            BagReader(wrong, ROBOT)


@given(st.integers(0, 2**31 * 10**9 - 1), st.sampled_from([b"\0\1\0\0", b"\0\0\0\0"]), st.binary(max_size=20))
def test_another_stamp_changes_nothing_else(stamp_ns, encapsulation, rest):
    data = encapsulation + struct.pack(">iI", 5, 6) + rest
    changed = bag.with_stamp(data, stamp_ns)
    assert changed[:4] == encapsulation and changed[12:] == rest
    assert bag.with_stamp(changed, 5 * 10**9 + 6) == bag.with_stamp(data, 5 * 10**9 + 6)
    order = "<iI" if encapsulation[1] else ">iI"
    seconds, nanoseconds = struct.unpack_from(order, changed, 4)
    assert seconds * 10**9 + nanoseconds == stamp_ns
