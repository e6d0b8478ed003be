"""`rdt bench nodes`: what the ROS nodes add to the policy's step, from an Observation's newest sample to its chunk.

Cameras, `camera_sync` and `policy` are processes of their own, as on a robot; the time that the policy's `step()` takes
is subtracted chunk by chunk.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from queue import SimpleQueue

from rdt_ros.bench.sync import first_line
from rdt_ros.bringup import NodeSpec, Plan, environment
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.supervisor import Supervisor
from rdt_ros.types import NS_PER_S

DOMAIN = "72"
START_S = 240.0  # until the policy is ready; kernels may have to be compiled
SLOWEST = 10  # times the time that the chunks should take
BEGIN = "[bench_answers] measuring"
RESULT = "[bench_answers] {"
KEYS = ("chunks", "step_ms_p50", "step_ms_p99", "nodes_ms_p50", "nodes_ms_p99")
ANY_INSTRUCTION = "hand the red cube over"


def main(argv: Sequence[str]) -> int:
    """Prints one JSON object; exit code 1 where the figures could not be measured."""
    parser = argparse.ArgumentParser(prog="rdt bench nodes", description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=200, help="that are measured; default: %(default)s")
    parser.add_argument("--every", type=int, default=5, help="Observations a chunk; default: %(default)s")
    parser.add_argument("--policy", choices=("hold", "rdt"), default="hold", help="default: %(default)s")
    parser.add_argument("--checkpoint", default="random:tiny", help="for rdt; default: %(default)s")
    parser.add_argument("--robot", default="agilex", help="robot file with cameras; default: %(default)s")
    parser.add_argument("--domain", default=DOMAIN, help="ROS_DOMAIN_ID of the processes; default: %(default)s")
    args = parser.parse_args(argv)
    for name in ("chunks", "every"):
        if (number := getattr(args, name)) < 1:
            raise InputError(f"--{name}: expected at least 1, found {number}")
    robot = load_robot(args.robot)
    found = _measure(args, SLOWEST * args.chunks * args.every * robot.period_ns / NS_PER_S)
    figures = dict.fromkeys(KEYS) if found is None else json.loads(found.removeprefix(RESULT[:-1]))
    print(json.dumps({"policy": args.policy, **figures}))
    return 0 if found is not None else 1


def _measure(args: argparse.Namespace, limit_s: float) -> str | None:
    """The line with the figures, None where it did not come."""
    policy = {"policy": args.policy, "checkpoint": args.checkpoint, "instruction": ANY_INSTRUCTION}
    nodes = (
        NodeSpec("bench_cameras", {"robot": args.robot}),
        NodeSpec("camera_sync", {"robot": args.robot}),
        NodeSpec("policy", {"robot": args.robot, "replan": "period", "replan_rows": args.every, **policy}),
        NodeSpec("bench_answers", {"chunks": args.chunks}),
    )
    lines: SimpleQueue[str] = SimpleQueue()
    with Supervisor(Plan(nodes, "", environment(args.domain), ()), lines.put) as supervisor:
        began = first_line(lines, BEGIN, START_S)
        if (ended := supervisor.ended()) is not None:
            raise InputError(f"bench nodes: {ended[0]} ended with exit code {ended[1]}: {ended[2]}")
        return first_line(lines, RESULT, limit_s) if began is not None else None
