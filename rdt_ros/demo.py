"""`rdt demo`: the whole pipeline on the simulated robot, one process a node, ending with a verdict."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt_ros import bringup
from rdt_ros.episodes.picture import draw_episode
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.sim.task import AFTER_SUCCESS_S, Task, find_task
from rdt_ros.supervisor import Supervisor

if TYPE_CHECKING:
    from rdt_ros.nodes.operator import Operator

READY_S = 90.0  # for every node to be there; the first import of torch on a slow disk is what takes long
STALL_S = 60.0  # steady time without progress after which the run is given up
RUNNING = 2  # ExecutorState.RUNNING
FIGURES = {  # what the verdict shows of each node's diagnostics
    "sim": ("real_time_factor", "worst_lateness_ms", "commands_ignored"),
    "camera_sync": ("sets", "given_up", "worst_wait_ms"),
    "policy": ("chunks", "inference_ms_p50", "inference_ms_p99", "observations_refused"),
    "executor": ("late_ticks", "worst_lateness_ms", "chunks_refused"),
    "recorder": ("steps", "lost", "dropped", "flushes"),
}
PERIOD_FIGURES = tuple(f"command_period_ms_{name}" for name in ("p50", "p99", "max"))


@dataclass(frozen=True)
class DemoConfig:
    """What the command line decides."""

    policy: str
    checkpoint: str
    task: str
    instruction: str
    seed: int
    out: str
    realtime: bool
    viewer: bool
    domain: str


def run(config: DemoConfig) -> int:
    """Runs the demo; 0 where the task was done (an untrained network: where the pipeline ran), else 1."""
    if config.viewer and not os.environ.get("DISPLAY"):
        raise InputError("viewer: expected a display (DISPLAY), found none")
    task, out = find_task(config.task), Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: cannot write to {out}: {error.strerror}") from None
    arguments = {
        "sim": "true",
        "policy": config.policy,
        "checkpoint": config.checkpoint if config.policy == "rdt" else "",
        "task": task.name,
        "instruction": config.instruction or task.instruction,
        "seed": str(config.seed),
        "record": str(out.resolve()),
        "lockstep": "false" if config.realtime or config.viewer else "true",
        "viewer": str(config.viewer).lower(),
        "domain": config.domain,
    }
    plan = bringup.plan("inference", arguments)
    os.environ.update(plan.environment)
    from rdt_ros.nodes.operator import Operator  # after the environment: ROS reads it once

    print(f"starting {', '.join(node.name for node in plan.nodes)}")
    began = time.monotonic()
    with (
        (out / "demo.log").open("w") as log,
        Supervisor(plan, _logger(log)) as supervisor,
        Operator(plan.namespace) as operator,
    ):
        result = _episode(operator, supervisor, task, lockstep=arguments["lockstep"] == "true")
    result |= {"seed": config.seed, "run_s": round(time.monotonic() - began, 1)}
    return _verdict(config, out, result)


def _logger(log: Any):
    """Writes every line to the log, and shows those that a person should see."""

    def say(line: str) -> None:
        print(line, file=log, flush=True)
        if "[WARN]" in line or "[ERROR]" in line or "Traceback" in line:
            print(line, file=sys.stderr)

    return say


def _episode(operator: Operator, supervisor: Supervisor, task: Task, *, lockstep: bool) -> dict[str, Any]:
    """One recorded run, from the moment that every node is there."""

    def wait(what: str, condition: Callable[[], bool]) -> None:
        if not operator.wait_for(lambda: _all_run(supervisor) and condition(), READY_S):
            raise InputError(f"demo: waited {READY_S:g} s in vain for {what}")

    wait("executor", lambda: operator.executor_state is not None)
    wait("recorder", lambda: operator.recorder_state is not None)
    wait("simulator", lambda: operator.outcome is not None)
    wait("a first plan", lambda: int(operator.diagnostics.get("policy", {}).get("chunks", 0)) > 0)
    operator.call("recorder/start")
    wait("the executor to be enabled", lambda: _enabled(operator))
    wait("the arms to follow the policy", lambda: operator.executor_state.state == RUNNING)
    began, start_s = time.monotonic(), operator.outcome["sim_time"]
    _watch(operator, supervisor, start_s, task.episode_s)
    wall_s, sim_s = time.monotonic() - began, operator.outcome["sim_time"] - start_s
    operator.call("recorder/stop", timeout_s=30.0)
    operator.spin(1.2)  # the last diagnostics, once a second
    outcome, recorder = operator.outcome, operator.recorder_state
    operator.call("executor/disable")
    return {
        "success": bool(outcome["ever_success"]),
        "stage": outcome["stage"],
        "steps": int(recorder.steps),
        "observations_lost": int(recorder.lost),
        "episode": recorder.episode,
        "lockstep": lockstep,
        "sim_s": round(sim_s, 2),
        "wall_s": round(wall_s, 2),
        "nodes": operator.diagnostics,
    }


def _all_run(supervisor: Supervisor) -> bool:
    """True; InputError with the name of a node that has ended."""
    ended = supervisor.ended()
    if ended is not None:
        raise InputError(f"{ended[0]} ended with exit code {ended[1]}: {ended[2]}")
    return True


def _watch(operator: Operator, supervisor: Supervisor, start_s: float, episode_s: float) -> None:
    """Shows the progress until the run is over in simulated time: soon after success, or when time is up."""
    last_s, end_s, shown = start_s, start_s + episode_s, time.monotonic()
    progressed = shown
    while last_s < end_s:
        _all_run(supervisor)
        operator.spin(0.05)
        now, sim_s = time.monotonic(), operator.outcome["sim_time"]
        if sim_s > last_s:
            last_s, progressed = sim_s, now
            if operator.outcome["ever_success"]:
                end_s = min(end_s, sim_s + AFTER_SUCCESS_S)
        elif now - progressed > STALL_S:
            raise InputError(f"demo: the simulation stood still for {STALL_S:g} s at {last_s:.2f} s")
        if now - shown > (0.5 if sys.stdout.isatty() else 3.0):
            shown = now
            _progress(last_s - start_s, episode_s, operator)
    _progress(last_s - start_s, episode_s, operator, end="\n")


def _enabled(operator: Operator) -> bool:
    """Tries to enable; refused where the executor has not heard of the joints or the clock yet."""
    try:
        operator.call("executor/enable", timeout_s=READY_S)
    except InputError as error:
        if "refused" not in str(error):
            raise
        operator.spin(0.5)
        return False
    return True


def _progress(sim_s: float, episode_s: float, operator: Operator, end: str = "\r") -> None:
    state, recorder, outcome = operator.executor_state, operator.recorder_state, operator.outcome
    line = (
        f"{sim_s:5.1f} s of {episode_s:g}  chunk {state.chunk_id:3d}  recorded {recorder.steps:4d}  "
        f"lost {recorder.lost}  {outcome['stage']}"
    )
    print(f"{line:<79}", end=end if sys.stdout.isatty() else "\n", flush=True)


def _verdict(config: DemoConfig, out: Path, result: dict[str, Any]) -> int:
    picture = out / (Path(result["episode"]).stem + ".png")
    with EpisodeReader(result["episode"]) as episode:
        draw_episode(episode, picture)
        period_ms = episode.robot.period_ns / 1e6
    nodes = result.pop("nodes")
    figures = FIGURES if result["lockstep"] else FIGURES | {"executor": FIGURES["executor"] + PERIOD_FIGURES}
    for name, keys in figures.items():
        print(f"  {name:<12}" + "  ".join(f"{key} {nodes[name][key]}" for key in keys if key in nodes.get(name, {})))
    rate = result["steps"] / result["wall_s"]
    print(
        f"  {result['steps']} steps of {period_ms:g} ms in {result['wall_s']} s: {rate:.1f} camera sets/s, "
        f"{result['sim_s'] / result['wall_s']:.2f} x real time, lost {result['observations_lost']}"
    )
    untrained = config.policy == "rdt" and config.checkpoint.startswith("random:")
    if result["success"]:
        verdict = f"SUCCESS: {find_task(config.task).done}"
    elif untrained:
        verdict = "the untrained network ran through every node; it cannot do the task"
    else:
        verdict = f"FAILURE: {result['stage']}"
    print(f"{verdict}\nepisode {result['episode']}\npicture {picture}")
    # lock-step has no period of its own: the commands come as fast as the simulator is
    executor = {} if result["lockstep"] else nodes.get("executor", {})
    periods = {key: float(executor[key]) if key in executor else None for key in PERIOD_FIGURES}
    print(json.dumps({**result, **periods, "sets_per_s": round(rate, 1), "picture": str(picture)}))
    return 0 if result["success"] or untrained else 1
