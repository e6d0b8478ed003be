"""Child processes are started, watched, and all gone afterwards, whatever happens. Uses nodes that need no robot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rdt_ros import bringup

pytestmark = pytest.mark.ros
DOMAIN = "61"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(text) for text in found.stdout.split()]


def up(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "rdt_ros.cli", "up", *arguments, f"domain:={DOMAIN}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_node_and_leaves_no_process(number, tmp_path):
    process = up("record", f"output:={tmp_path}", "robot:=sim_aloha")
    assert wait_for(lambda: len(children(process.pid)) == 2)
    time.sleep(2.0)  # so that the nodes are spinning, not starting
    nodes = children(process.pid)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, output + errors
    assert not any(alive(pid) for pid in nodes)
    assert "Traceback" not in output + errors


def test_a_required_node_that_dies_brings_the_rest_down_with_its_name_in_the_last_line(tmp_path):
    process = up("record", f"output:={tmp_path}", "robot:=sim_aloha")
    assert wait_for(lambda: len(children(process.pid)) == 2)
    time.sleep(1.0)
    nodes = children(process.pid)
    os.kill(nodes[1], signal.SIGKILL)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("recorder ended with exit code -9")
    assert not any(alive(pid) for pid in nodes)


def test_a_node_that_refuses_its_parameters_says_why_in_the_last_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    process = up("record", f"output:={file}/below", "robot:=sim_aloha")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(file) in errors.strip().splitlines()[-1]
    assert "Traceback" not in output + errors


def test_nodes_do_not_outlive_a_supervisor_that_was_killed(tmp_path):
    process = up("record", f"output:={tmp_path}", "robot:=sim_aloha")
    assert wait_for(lambda: len(children(process.pid)) == 2)
    time.sleep(2.0)
    nodes = children(process.pid)
    process.kill()
    process.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in nodes))


def test_wrong_arguments_end_at_once_with_one_line():
    process = subprocess.run(
        [sys.executable, "-m", "rdt_ros.cli", "up", "inference", "polcy:=hold"], capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stderr.strip() == "rdt: inference: unknown argument polcy, is policy meant?"


def test_the_plans_namespace_and_domain_are_what_the_note_says():
    plan = bringup.plan("inference", {"policy": "hold", "namespace": "two", "domain": "5"})
    assert plan.notes[0].endswith("rdt enable --domain 5 --namespace two")
