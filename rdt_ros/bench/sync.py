"""`rdt bench sync`: how old the newest picture of a set is when its Observation arrives in another process."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from rdt_ros.bringup import NodeSpec, Plan, environment
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.supervisor import Supervisor

DOMAIN = "78"
TRANSPORTS = ("compressed", "raw")
PROCESSES = {"publisher": "bench_cameras", "camera_sync": "camera_sync", "receiver": "bench_listener"}
START_S = 30.0
BEGIN = "[bench_listener] measuring"
RESULT = "[bench_listener] {"


def main(argv: Sequence[str]) -> int:
    """Prints a line a transport, then one JSON object; exit code 1 where a figure could not be measured."""
    parser = argparse.ArgumentParser(prog="rdt bench sync", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time per transport; default: %(default)s")
    parser.add_argument("--transport", choices=(*TRANSPORTS, "both"), default="both", help="default: %(default)s")
    parser.add_argument("--robot", default="agilex", help="robot file with three cameras; default: %(default)s")
    parser.add_argument("--domain", default=DOMAIN, help="ROS_DOMAIN_ID of the processes; default: %(default)s")
    args = parser.parse_args(argv)
    if args.seconds < 1:
        raise InputError(f"--seconds: expected at least 1, found {args.seconds:g}")
    robot = load_robot(args.robot)
    transports = TRANSPORTS if args.transport == "both" else (args.transport,)
    results = {name: _measure(args, name) for name in transports}
    for name, figures in results.items():
        print(f"{name:<11}" + "  ".join(f"{key} {value}" for key, value in figures.items()))
    cameras = [f"{c.width}x{c.height} at {c.rate_hz:g} Hz" for c in robot.cameras]
    print(json.dumps({**results[transports[0]], "transport": transports[0], "cameras": cameras, **results}))
    return 0 if all(figures["received"] is not None for figures in results.values()) else 1


def _measure(args: argparse.Namespace, transport: str) -> dict[str, Any]:
    nodes = (
        NodeSpec("bench_cameras", {"robot": args.robot, "transport": transport}),
        NodeSpec("camera_sync", {"robot": args.robot}),
        NodeSpec("bench_listener", {"robot": args.robot, "seconds": args.seconds}),
    )
    lines: SimpleQueue[str] = SimpleQueue()
    with Supervisor(Plan(nodes, "", environment(args.domain), ()), lines.put) as supervisor:
        ids = {name: supervisor.pid(node) for name, node in PROCESSES.items()}
        began = first_line(lines, BEGIN, START_S) is not None
        if (ended := supervisor.ended()) is not None:
            raise InputError(f"bench sync: {ended[0]} ended with exit code {ended[1]}: {ended[2]}")
        before, start_s = {name: _cpu_s(pid) for name, pid in ids.items()}, time.monotonic()
        text = first_line(lines, RESULT, args.seconds + START_S) if began else None
        after, wall_s = {name: _cpu_s(pid) for name, pid in ids.items()}, time.monotonic() - start_s
    keys = ("rate_hz", "latency_ms_p50", "latency_ms_p99", "sent", "received", "lost")
    figures = dict.fromkeys(keys) if text is None else json.loads(text.removeprefix(RESULT[:-1]))
    for name in PROCESSES:
        figures[f"cpu_percent_{name}"] = None if text is None else round(100 * (after[name] - before[name]) / wall_s, 1)
    return figures


def first_line(lines: SimpleQueue[str], start: str, timeout_s: float) -> str | None:
    """The first line that starts so, None when time ran out. What the nodes complain about is passed on."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left_s)
        except Empty:
            return None
        if line.startswith(start):
            return line
        if "WARN" in line or "ERROR" in line:
            print(line)
    return None


def _cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
