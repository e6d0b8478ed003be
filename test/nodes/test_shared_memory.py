"""Shared memory that killed nodes have left behind."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rdt_ros.nodes import shared_memory
from rdt_ros.nodes.shared_memory import AGE_S, NOTICED_S, dead_ports_held, remove_dead_segments

START_S = 20.0


def make_dead(path):
    for each in (path, path.with_name(path.name + "_el")):
        each.write_bytes(b"x")
        os.utime(each, (0, time.time() - AGE_S - 1))


def test_what_another_user_left_is_left_alone(tmp_path, monkeypatch):
    """It may be read and locked, but /dev/shm lets nobody else remove it."""
    foreign, own = tmp_path / "fastdds_0123456789abcdef", tmp_path / "fastdds_ffffffffffffffff"
    make_dead(foreign)
    make_dead(own)
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path.name.startswith(foreign.name):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove_dead_segments(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {foreign.name, foreign.name + "_el"}


def test_only_segments_that_nobody_holds_are_removed(tmp_path):
    dead = ["fastdds_0123456789abcdef", "fastrtps_00000000000000ff"]
    held, new = "fastdds_1111111111111111", "fastdds_2222222222222222"
    others = ["fastdds_port7412", "fastdds_port7412_el", "fastdds_port7000_el", "sem.fastdds_port7412_mutex", "mine_el"]
    for name in [*others, *(name + end for name in [*dead, held, new] for end in ("", "_el"))]:
        (tmp_path / name).write_bytes(b"x")
        if not name.startswith(new):
            os.utime(tmp_path / name, (0, time.time() - AGE_S - 1))
    kept = {*others, held, held + "_el", new, new + "_el"}
    with (tmp_path / f"{held}_el").open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == 2
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert remove_dead_segments(tmp_path) == 1  # its owner is gone
    assert remove_dead_segments(tmp_path / "none") == 0


def is_held(lock):
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_dead_ports_that_somebody_still_maps_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "NOTICED_S", 0.0)
    dead, unmapped, alive, new = locks = [tmp_path / f"fastdds_port{number}_el" for number in (1, 2, 3, 4)]
    for lock in locks:
        lock.touch()
        lock.with_name(lock.name.removesuffix("_el")).write_bytes(b"port")
    alive.with_name("fastdds_port5_el").touch()  # of a segment that is gone
    with contextlib.ExitStack() as stack:
        for lock in (dead, alive):
            file = stack.enter_context(lock.with_name(lock.name.removesuffix("_el")).open("rb"))
            stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        owner = stack.enter_context(alive.open())
        fcntl.flock(owner, fcntl.LOCK_EX)
        replaced = unmapped.with_name("fastdds_port2")
        with replaced.open("rb") as old:
            stack.enter_context(mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ))
        replaced.unlink()
        replaced.write_bytes(b"new port")
        with dead_ports_held(tmp_path):
            assert [is_held(lock) for lock in locks] == [True, False, True, False]
            with dead_ports_held(tmp_path):  # by another node that starts
                assert is_held(dead)
            assert is_held(dead)
        assert [is_held(lock) for lock in locks] == [False, False, True, False]
        monkeypatch.setattr(shared_memory, "NOTICED_S", 60.0)
        with dead_ports_held(tmp_path):  # waits for none that was waited for before
            assert is_held(dead)
    with dead_ports_held(tmp_path):
        assert not any(map(is_held, locks))


def ports(process):
    """Those that a process listens to."""
    found = set()
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := re.search(r"(\w+_port\d+)_el$", os.readlink(link)):
                found.add(match[1])
    return found


def known(process):
    """Those that it has mapped."""
    return set(re.findall(r"/dev/shm/(\w+_port\d+)", Path(f"/proc/{process.pid}/maps").read_text()))


def test_a_death_that_is_noticed_meanwhile_is_waited_for(tmp_path):
    lock, port = tmp_path / "fastdds_port1_el", tmp_path / "fastdds_port1"
    lock.touch()
    port.write_bytes(b"port")
    with port.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        threading.Timer(0.3, port.unlink).start()
        start_s = time.monotonic()
        with dead_ports_held(tmp_path):
            assert 0.2 < time.monotonic() - start_s < NOTICED_S
            assert not port.exists() and not is_held(lock)


WRITER = """
import time
import rclpy
from sensor_msgs.msg import Image
rclpy.init()
publisher = rclpy.create_node("camera").create_publisher(Image, "/camera_f/color/image_raw", 1)
while True:
    publisher.publish(Image())
    time.sleep(0.1)
"""


@pytest.mark.ros
def test_a_node_after_a_killed_one_takes_no_port_that_a_writer_knows(monkeypatch):
    """The writer is frozen, so that it does not notice."""
    utilities = pytest.importorskip("rclpy.utilities")
    if "fastrtps" not in utilities.get_rmw_implementation_identifier():
        pytest.skip("these are ports of Fast DDS")
    monkeypatch.setenv("ROS_DOMAIN_ID", "63")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with contextlib.ExitStack() as stack:

        def started(*command):
            process = subprocess.Popen([sys.executable, *command])
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def settled(look):
            """What is seen twice in a row; a node that starts has other ports' locks open for a moment."""
            end_s, before = time.monotonic() + START_S, None
            while not ((now := look()) and now == before) and time.monotonic() < end_s:
                before = now
                time.sleep(0.5)
            return now

        writer = started("-c", WRITER)
        listener = started("-m", "rdt_ros.nodes", "camera_sync")
        killed = settled(lambda: known(writer) & ports(listener))
        assert killed
        writer.send_signal(signal.SIGSTOP)
        listener.kill()
        listener.wait()
        again = started("-m", "rdt_ros.nodes", "camera_sync")
        assert settled(lambda: ports(again) and not ports(again) & killed)
