"""`rdt bench faults`: what the arms do when a real process dies, freezes or is cut off while they move."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt_ros import bringup
from rdt_ros.bench.stand import COMMAND_RATE_HZ, ROBOT, Stand
from rdt_ros.errors import InputError

if TYPE_CHECKING:
    from rdt_ros.nodes.bench_watch import BenchWatch, Said, Seen

DOMAIN = "69"
TICK_S = 1 / COMMAND_RATE_HZ
QUIET_S = 1.6  # without motion and without a new state: the outcome is there; a hold is final after 1 s
SETTLE_S = 15.0
AFTERWARDS_S = 1.0  # watched after the cause is gone, before `~/enable`
SILENT_S = 0.3  # without a command: commands have ceased
NETWORK = "network of policy cut"
NETWORK_S = 180.0


@dataclass(frozen=True)
class Fault:
    """What happens to a moving robot, and how the cause is taken away again."""

    name: str
    cause: Callable[[Stand], None]
    undo: Callable[[Stand], None]
    by_itself: bool = False  # whether it has to go on without `~/enable`


def _killed(node: str) -> Fault:
    return Fault(f"{node} killed", lambda stand: stand.kill(node), lambda stand: stand.start(node))


def _frozen(node: str) -> Fault:
    return Fault(
        f"{node} frozen",
        lambda stand: stand.send(node, signal.SIGSTOP),
        lambda stand: stand.send(node, signal.SIGCONT),
    )


def _freeze_until_hold(stand: Stand) -> None:
    stand.send("policy", signal.SIGSTOP)
    stand.watch.wait_for(lambda: stand.watch.state != "running", SETTLE_S)
    stand.send("policy", signal.SIGCONT)


def _reset_stop(stand: Stand) -> None:
    stand.watch.call("executor/reset_stop")


FAULTS = (
    _killed("policy"),
    _frozen("policy"),
    Fault("policy frozen, back at once", _freeze_until_hold, lambda _stand: None, by_itself=True),
    _killed("camera_sync"),
    _frozen("camera_sync"),
    dataclasses.replace(_killed("camera relay"), name="one camera cut"),
    dataclasses.replace(_killed("joints relay"), name="joints of one arm cut"),
    _frozen("sim"),
    _killed("sim"),
    _frozen("executor"),
    _killed("executor"),
    Fault("second publisher", lambda stand: stand.watch.intrude(), lambda stand: stand.watch.retire()),
    Fault("software stop", lambda stand: stand.watch.software_stop(), _reset_stop),
)
NETWORK_FAULT = Fault(NETWORK, lambda stand: stand.cable.cut(), lambda stand: stand.cable.mend())  # type: ignore[union-attr]


def run(stand: Stand, fault: Fault) -> dict[str, Any]:
    """Lets the arms move, causes the fault, waits for rest, takes the cause away, enables again; all that was seen."""
    watch = stand.watch
    stand.move()
    watch.forget()
    at_s, fault_s = time.monotonic(), time.time()
    fault.cause(stand)
    settled = watch.wait_for(stand.moves if fault.by_itself else lambda: _quiet(watch, at_s), SETTLE_S)
    result = {"fault": fault.name, "settled": settled, **_outcome(stand, at_s)}
    # a dead executor cannot answer
    result["enable_meanwhile"] = stand.enable() or "accepted" if watch.state and not fault.by_itself else None
    undone_s = time.monotonic()
    fault.undo(stand)
    watch.spin(AFTERWARDS_S)
    result |= _against_limits(stand, fault_s)
    first = {_kind(said): said for said in reversed(watch.warnings) if said.at_s > at_s}
    result["complaints"] = [[_after(at_s, said.at_s), f"{said.who}: {said.text}"] for said in reversed(first.values())]
    result["state_afterwards"] = watch.state
    refusals = stand.move()
    recovery = {"refusals": refusals, "recovery_s": round(time.monotonic() - undone_s, 2)}
    return result | ({"refusals": [], "recovery_s": None} if fault.by_itself else recovery)


def _quiet(watch: BenchWatch, at_s: float) -> bool:
    """Whether no plan is followed, and nothing has moved or changed for a while."""
    last_s = max(at_s, watch.command_moved_s, watch.measured_moved_s, watch.states[-1].at_s)
    return watch.state != "running" and time.monotonic() - last_s > QUIET_S


def _outcome(stand: Stand, at_s: float) -> dict[str, Any]:
    """How it ended: state, when that was named, when commands and arms came to rest, how far the arms went."""
    watch = stand.watch
    changes = [said for said in watch.states if said.at_s > at_s and said.who != "running"]
    last_command_s = max(seen[-1].at_s for seen in watch.commands.values())
    travel, error = [], []
    for group in stand.robot.groups:
        arm = ~stand.robot.is_gripper[group.columns]
        path = np.array([seen.position[arm] for seen in watch.measured[group.name]])
        travel.append(float(np.abs(path - path[0]).max()))
        error.append(float(np.abs(path[-1] - watch.commands[group.name][-1].position[arm]).max()))
    return {
        "state": watch.state or "silent",
        "reason": changes[-1].text if changes else "",
        "named_s": _after(at_s, changes[0].at_s) if changes else None,
        "commands_rest_s": _after(at_s, watch.command_moved_s),
        "arms_rest_s": _after(at_s, watch.measured_moved_s),
        "arms_travel_rad": round(max(travel), 3),
        "arms_peak_rad_s": round(watch.peak_speed, 2),
        "arms_from_command_rad": round(max(error), 3),
        "commands_go_on": time.monotonic() - last_command_s < SILENT_S,
    }


def _against_limits(stand: Stand, fault_s: float) -> dict[str, float]:
    """Largest velocity and acceleration of commands since the fault, as parts of the limits of the robot file.

    Two commands in a row count as one tick apart, also where time passed between them, so that a jump after a silence
    is seen. Only the silence after an accepted `~/enable` ends in a new start, at the measured pose. `fault_s` is
    system time, as the stamps of commands are: one may be sent before the fault and seen after it.
    """
    robot = stand.robot
    limit = robot.limits("acceleration")
    limit = np.where(robot.is_gripper, limit, np.maximum(limit, robot.stop_deceleration))
    velocity, acceleration = [0.0], [0.0]
    for group in robot.groups:
        columns = group.columns
        for part in _parts(stand.watch.commands[group.name], stand.enabled_s, fault_s):
            after = np.array([seen.stamp_s > fault_s for seen in part])
            speed = np.diff([seen.position for seen in part], axis=0) / TICK_S
            change = np.diff(speed, axis=0) / TICK_S
            velocity += (np.abs(speed) / robot.limits("velocity")[columns])[after[1:]].max(axis=1).tolist()
            acceleration += (np.abs(change) / limit[columns])[after[2:]].max(axis=1).tolist()
    return {"velocity_of_limit": round(max(velocity), 3), "acceleration_of_limit": round(max(acceleration), 3)}


def _parts(commands: list[Seen], enabled_s: list[float], fault_s: float) -> list[list[Seen]]:
    """The commands between two new starts, where there are three or more.

    Arms that were enabled before the fault move when it comes, so a silence that begins with it is no new start.
    """
    stamps_s = np.array([seen.stamp_s for seen in commands])
    gaps_s = np.diff(stamps_s, prepend=stamps_s[:1])
    starts = [0, len(commands)]
    for low, high in pairwise(sorted([*enabled_s, fault_s, np.inf])):
        if low == fault_s:
            continue
        after = np.flatnonzero((stamps_s > low) & (stamps_s <= high) & (gaps_s > 1.5 * TICK_S))
        if len(after):
            starts.append(int(after[np.argmax(gaps_s[after])]))
    starts.sort()
    return [commands[low:high] for low, high in pairwise(starts) if high - low > 2]


def _after(at_s: float, then_s: float) -> float:
    """Seconds from the fault to a moment, 0 where that was before."""
    return round(max(then_s - at_s, 0.0), 2)


def _kind(said: Said) -> str:
    """A complaint without its figures."""
    return re.sub(r"[\d.]+", "", f"{said.who}: {said.text}")


COLUMNS = {
    "fault": 29,
    "state": 9,
    "named_s": 9,
    "commands_rest_s": 17,
    "arms_rest_s": 13,
    "arms_travel_rad": 17,
    "velocity_of_limit": 19,
    "acceleration_of_limit": 23,
    "commands_go_on": 16,
    "recovery_s": 12,
    "reason": 0,
}


def main(argv: Sequence[str]) -> int:
    """Prints a line a fault, then one JSON object; exit code 1 where a command left the limits."""
    names = "; ".join(fault.name for fault in (*FAULTS, NETWORK_FAULT))
    parser = argparse.ArgumentParser(prog="rdt bench faults", description=__doc__)
    parser.add_argument("--only", default="", help=f"only the faults with this in their name: {names}")
    parser.add_argument("--domain", default=DOMAIN, help="ROS_DOMAIN_ID of the processes; default: %(default)s")
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        help="multiplies the time-outs of joints and pictures, for a busy computer",
    )
    parser.add_argument("--verbose", action="store_true", help="show what the nodes print")
    parser.add_argument("--network", action="store_true", help=f"only: {NETWORK}; takes the process out of the network")
    args = parser.parse_args(argv)
    chosen = [NETWORK_FAULT] if args.network else [fault for fault in FAULTS if args.only in fault.name]
    with_network = not args.network and args.only in NETWORK
    if not chosen and not with_network:
        raise InputError(f"--only: expected a part of one of {names}; found {args.only!r}")
    print("".join(f"{name:<{width}}" for name, width in COLUMNS.items()))
    rows = []
    if chosen:
        remote = "policy" if args.network else None
        with Stand(args.domain, _say(args.verbose), patience=args.patience, remote=remote) as stand:
            for fault in chosen:
                rows.append(run(stand, fault))
                _print(rows[-1])
    if with_network:
        rows.append(run_network(args.domain, args.patience))
        _print(rows[-1])
    print(json.dumps({"robot": ROBOT, "command_rate_hz": COMMAND_RATE_HZ, "load": os.getloadavg(), "faults": rows}))
    beyond = [row for row in rows if max(row.get("velocity_of_limit", 0), row.get("acceleration_of_limit", 0)) > 1.001]
    return 1 if beyond else 0


def run_network(domain: str, patience: float) -> dict[str, Any]:
    """The row of the cut network, from a process of its own, because that leaves the network of this computer."""
    command = [sys.executable, "-m", "rdt_ros.bench.faults", "--network", "--domain", domain]
    command += ["--patience", str(patience)]
    own = bringup.environment()  # of a deployment on this computer alone: not for this one
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=NETWORK_S)
    if done.returncode == 2:
        return {"fault": NETWORK, "reason": f"not measured: {done.stderr.strip().splitlines()[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])["faults"][0]


def _say(verbose: bool) -> Callable[[str], None]:
    return (lambda line: print(line, file=sys.stderr)) if verbose else (lambda _line: None)


def _print(row: dict[str, Any]) -> None:
    print("".join(f"{row.get(name)!s:<{width}}" for name, width in COLUMNS.items()), flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"rdt: {error}", file=sys.stderr)
        sys.exit(2)
