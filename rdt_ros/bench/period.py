"""How regularly the executor's process sends commands, beside the cameras and with every core busy.

Beside it runs a bare loop that does nothing but sleep to absolute deadlines: what the machine itself allows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from rdt_ros.bringup import NodeSpec, Plan, environment
from rdt_ros.control.rhythm import Rhythm
from rdt_ros.errors import InputError
from rdt_ros.supervisor import Supervisor
from rdt_ros.types import NS_PER_S

START_S = 30.0  # for all processes to run and the executor to follow chunks
SETTLE_S = 2.0
FIGURES = "[bench_chunks] {"
KEYS = ("period_error_us_p50", "period_error_us_p99", "period_error_us_max")
# arms and policy of the bench starve on busy cores; that shall not end the measurement
EXECUTOR = {"enable_at_start": True, "stale_after_s": 10.0, "resume_within_s": 60.0}
BURN = "import os, sys\nparent = int(sys.argv[1])\nwhile os.getppid() == parent:\n    sum(range(100_000))"


@dataclass(frozen=True)
class Setup:
    """What runs, and for how long each of the two measurements takes."""

    robot: str
    rate_hz: float
    joint_rate_hz: float
    seconds: float
    domain: str
    realtime_priority: int = 0


def measure(setup: Setup) -> dict[str, float | None]:
    """Deviation of the time between two commands from the period, in us, as the executor itself measured it.

    The keys of the bare loop begin with `bare_`, those of the measurement on busy cores with `loaded_`.
    """
    keys = [load + bare + key for load in ("", "loaded_") for bare in ("", "bare_") for key in KEYS]
    figures: dict[str, float | None] = dict.fromkeys(keys)
    executor = {"robot": setup.robot, "command_rate_hz": setup.rate_hz, **EXECUTOR}
    executor["realtime_priority"] = setup.realtime_priority
    nodes = (
        NodeSpec("bench_cameras", {"robot": setup.robot, "joint_rate_hz": setup.joint_rate_hz}),
        NodeSpec("camera_sync", {"robot": setup.robot}),
        NodeSpec("bench_chunks", {"robot": setup.robot}),
        NodeSpec("executor", executor),
    )
    lines: SimpleQueue[str] = SimpleQueue()
    with Supervisor(Plan(nodes, "", environment(setup.domain), ()), lines.put) as supervisor:
        began = _newest(lines, START_S, once=True)
        if (ended := supervisor.ended()) is not None:
            raise InputError(f"bench executor: {ended[0]} ended with exit code {ended[1]}: {ended[2]}")
        if began:
            figures |= _watch(lines, setup, "")
            with _busy_cores():
                figures |= _watch(lines, setup, "loaded_")
    return figures


def _watch(lines: SimpleQueue[str], setup: Setup, prefix: str) -> dict[str, float | None]:
    command = [sys.executable, "-m", "rdt_ros.bench.period", str(setup.rate_hz), str(setup.seconds)]
    time.sleep(SETTLE_S)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bare_loop:
        ours = _newest(lines, setup.seconds)
        bare = json.loads(bare_loop.communicate()[0])
    result: dict[str, float | None] = {}
    for key in KEYS:
        result[prefix + key] = float(ours[key]) if key in ours else None
        result[f"{prefix}bare_{key}"] = bare[key]
    return result


def _newest(lines: SimpleQueue[str], seconds: float, *, once: bool = False) -> dict[str, str]:
    """The last figures of the executor that come in this time, or the first ones; its log is printed."""
    newest: dict[str, str] = {}
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0 and not (once and newest):
        try:
            line = lines.get(timeout=left_s)
        except Empty:
            break
        if line.startswith(FIGURES):
            newest = json.loads(line.removeprefix(FIGURES[:-1]))
        elif line.startswith("[executor]"):
            print(line)
    return newest


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Keeps every core that this process may use busy, at normal priority."""
    command = [sys.executable, "-c", BURN, str(os.getpid())]
    burners = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def bare_loop(rate_hz: float, seconds: float) -> dict[str, float]:
    """The same figures of a loop that only sleeps to absolute deadlines."""
    tick_ns = round(NS_PER_S / rate_hz)
    rhythm = Rhythm(tick_ns)
    due_ns = time.monotonic_ns() + tick_ns
    for _ in range(round(seconds * rate_hz)):
        time.sleep(max(due_ns - time.monotonic_ns(), 0) / NS_PER_S)
        now_ns = time.monotonic_ns()
        rhythm.add(now_ns, now_ns - due_ns)
        due_ns += tick_ns
    return rhythm.figures()


if __name__ == "__main__":
    print(json.dumps(bare_loop(float(sys.argv[1]), float(sys.argv[2]))))
