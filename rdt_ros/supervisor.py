"""Runs the nodes of a plan as child processes and leaves none behind, for machines without `ros2 launch`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import yaml

import rdt_ros
from rdt_ros.bringup import NodeSpec, Plan

GRACE_S = 10.0  # for a node to finish its work after a signal, before a harder one
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Child processes of one plan, as a context: leaving it stops them all.

    `say` gets each line that a node prints, with the node's name in front.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None] = print) -> None:
        self._plan, self._say = plan, say
        self._folder = tempfile.TemporaryDirectory(prefix="rdt_")
        self._processes: dict[str, subprocess.Popen] = {}
        self._readers: list[threading.Thread] = []
        self._last_lines: dict[str, deque[str]] = {}

    def __enter__(self) -> Supervisor:
        for node in self._plan.nodes:
            self._start(node)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for process in self._processes.values():
                if process.poll() is None:
                    process.send_signal(number)
            if self._wait_all(GRACE_S):
                break
        for reader in self._readers:
            reader.join(timeout=1.0)
        self._folder.cleanup()

    def ended(self) -> tuple[str, int, str] | None:
        """Name, exit code and last line of the first required node that has ended, None while all run."""
        for node in self._plan.nodes:
            code = self._processes[node.name].poll()
            if node.required and code is not None:
                lines = self._last_lines[node.name]
                return node.name, code, lines[-1] if lines else ""
        return None

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._processes[name].pid

    def _start(self, node: NodeSpec) -> None:
        file = Path(self._folder.name) / f"{node.name}.yaml"
        # "/**" so that it holds in any namespace
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(node.parameters)}}))
        command = [sys.executable, "-m", "rdt_ros.nodes", node.name, "--ros-args", "-r", f"__node:={node.name}"]
        if self._plan.namespace:
            command += ["-r", f"__ns:=/{self._plan.namespace}"]
        for path in (*self._plan.parameter_files, str(file)):
            command += ["--params-file", path]
        package_root = str(Path(rdt_ros.__file__).resolve().parent.parent)
        python_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command,
            env={**os.environ, **self._plan.environment, "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops each node once
            preexec_fn=_die_with_parent,
        )
        self._processes[node.name] = process
        self._last_lines[node.name] = deque(maxlen=20)
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(node.name, process.stdout), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, name: str, output: TextIO) -> None:
        for line in output:
            self._last_lines[name].append(line.rstrip())
            self._say(f"[{name}] {line.rstrip()}")

    def _wait_all(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while any(process.poll() is None for process in self._processes.values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _die_with_parent() -> None:
    """Linux: a child whose supervisor was killed outright gets SIGTERM."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(plan: Plan) -> int:
    """Runs a plan until Ctrl-C (exit code 0) or until a required node ends, whose name is then in the last line.

    The exit code is the node's; a node that finished its work (a replay) ends the run with 0.
    """
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    ended = None
    try:
        with Supervisor(plan) as supervisor:
            for note in plan.notes:
                print(note, flush=True)
            while ended is None and not stop.wait(0.1):
                ended = supervisor.ended()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if ended is None:
        return 0
    name, code, line = ended
    if code == 0:
        print(f"{name} has finished")
        return 0
    print(f"{name} ended with exit code {code}, everything else was stopped: {line}", file=sys.stderr)
    return code if code > 0 else 1
