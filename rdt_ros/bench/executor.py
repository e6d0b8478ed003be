"""`rdt bench executor`: how chunks are joined under latency, and how regularly commands are sent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rdt_ros.bench import joining, period
from rdt_ros.bench.joining_picture import draw
from rdt_ros.control.executor import JOINING
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot, load_robot

DOMAIN = "79"
ROBOT = "sim_aloha"  # the scripted expert's
LATENCIES_MS = (0, 100, 300, 600)
SHOWN = ("standstill_ms", "max_step_rad", "seam_rad", "rms_acceleration_ratio", "rms_jerk_ratio", "lag_ms", "late_ms")


def main(argv: Sequence[str]) -> int:
    """Prints a line a case, then one JSON object; exit code 1 where the command period could not be measured."""
    parser = argparse.ArgumentParser(prog="rdt bench executor", description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="commands per second; default: %(default)s")
    parser.add_argument("--part", choices=("joining", "period", "both"), default="both", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="plans per case; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=20.0, help="time per command period; default: %(default)s")
    parser.add_argument("--joint-rate", type=float, default=200.0, help="measured joints per second and arm")
    parser.add_argument("--realtime-priority", type=int, default=0, help="of the executor; 0: none, the default")
    parser.add_argument("--robot", default="agilex", help="for the period: a robot file with cameras")
    parser.add_argument("--domain", default=DOMAIN, help="ROS_DOMAIN_ID of the processes; default: %(default)s")
    parser.add_argument("--pictures", type=Path, help="folder for one picture per latency; default: none is drawn")
    parser.add_argument("--quick", action="store_true", help="a few seconds: one short plan, two latencies")
    args = parser.parse_args(argv)
    robot = load_robot(ROBOT)
    _check(args, robot)
    figures: dict[str, Any] = {"rate_hz": args.rate, **dict.fromkeys(period.KEYS), "joining": None}
    if args.part != "period":
        figures |= _joining(args, robot)
    if args.part != "joining":
        seconds = 2.0 if args.quick else args.seconds
        setup = period.Setup(
            args.robot, args.rate, args.joint_rate, seconds, args.domain, realtime_priority=args.realtime_priority
        )
        figures |= period.measure(setup)
        for key in [key for key in figures if "period_error" in key]:
            print(f"{key:<36} {figures[key]}")
    print(json.dumps(figures))
    measured = args.part == "joining" or None not in [figures[key] for key in period.KEYS]
    return 0 if measured else 1


def _check(args: argparse.Namespace, robot: Robot) -> None:
    per_row = args.rate / robot.control_rate_hz
    if not 25 <= args.rate <= 500 or per_row != round(per_row):
        raise InputError(f"--rate: expected a multiple of {robot.control_rate_hz:g} Hz up to 500, found {args.rate:g}")
    for name, least in (("seeds", 1), ("seconds", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}: expected at least {least}, found {getattr(args, name):g}")
    if args.pictures is not None and not args.pictures.is_dir():
        raise InputError(f"--pictures: no such folder: {args.pictures}")
    load_robot(args.robot)


def _joining(args: argparse.Namespace, robot: Robot) -> dict[str, Any]:
    seeds, latencies, seconds = (1, (0, 300), 3.0) if args.quick else (args.seeds, LATENCIES_MS, None)
    plans = [joining.Plan(robot, seed, args.rate, seconds) for seed in range(seeds)]
    alone = joining.summary([joining.measure(joining.follow_plan(robot, plan), plan, robot) for plan in plans])
    _say("one chunk, all of the plan", alone)
    figures: dict[str, Any] = {
        "disagreement_rad": joining.Case.disagreement_rad,
        "one_chunk": _rounded(alone),
        "joining": [],  # a chunk every 32 rows
        "joining_eager": [],  # one as soon as the last one is there
    }
    for latency_ms in latencies:
        cases = [joining.Case(mode, latency_ms) for mode in (joining.REFERENCE, *JOINING)]
        cases += [joining.Case(mode, latency_ms, replan_rows=1) for mode in JOINING]
        for case in cases:
            found = _figures(robot, plans, case)
            eager = case.replan_rows == 1
            _say(f"{case.mode}{', eager' if eager else ''}, {latency_ms} ms", found)
            head = {"mode": case.mode, "latency_ms": latency_ms}
            figures["joining_eager" if eager else "joining"].append(head | _rounded(found))
        if args.pictures is not None:
            draw(robot, plans[0], latency_ms, args.pictures / f"joining_{latency_ms}ms.png")
    return figures


def _figures(robot: Robot, plans: Sequence[joining.Plan], case: joining.Case) -> joining.Figures | None:
    """Over all plans; None where the mode needs a sampler (`rdt bench prefix`), or a run did not get to the end."""
    if case.mode not in (joining.REFERENCE, *joining.MODES):
        return None
    found = []
    for seed, plan in enumerate(plans):
        run = joining.run(robot, plan, case, seed)
        if run is None:
            return None
        found.append(joining.measure(run, plan, robot))
    return joining.summary(found)


def _rounded(found: joining.Figures | None) -> dict[str, float | None]:
    if found is None:
        return {field.name: None for field in fields(joining.Figures)}
    return {name: round(value, 5) for name, value in asdict(found).items()}


def _say(what: str, found: joining.Figures | None) -> None:
    text = "not measured" if found is None else "  ".join(f"{key} {getattr(found, key):.4g}" for key in SHOWN)
    print(f"{what:<34} {text}")
