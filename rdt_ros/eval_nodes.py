"""The episodes of an evaluation through the nodes: one bring-up, one reset of the simulator after the other."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rdt_ros import bringup
from rdt_ros.errors import InputError
from rdt_ros.evaluation.arena import SIM_ROBOT, UNTRAINED, Done, Job, done
from rdt_ros.evaluation.condition import Condition
from rdt_ros.evaluation.episode_clock import episode_start_ns
from rdt_ros.evaluation.success import EpisodeResult
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.sim.task import AFTER_SUCCESS_S, Task, find_task
from rdt_ros.supervisor import Supervisor
from rdt_ros.types import NS_PER_S, Observation

READY_S = 180.0  # for every node to be there: loading a large checkpoint takes long
STALL_S = 60.0  # steady time without progress after which the evaluation is given up
ANSWER_S = 30.0  # for a service
REST_S = 0.5  # in real time, for the arms to come to rest
SPIN_S = 0.05
SAME_S = 1e-3  # times closer than this are one tick
INACTIVE, RUNNING, FAULT = 0, 2, 5  # ExecutorState's


def plan(condition: Condition, robot: Robot, seed: int, *, realtime: bool, domain: str) -> bringup.Plan:
    """Which nodes run with which parameters, the first scene being that of `seed`."""
    if condition.mask_history or condition.without_cameras:
        raise InputError("eval: masks are made around the policy in this process: give --in-process")
    if realtime and condition.latency_ms:
        raise InputError("eval: latency is injected in lock-step only: leave out --realtime or --latency-ms")
    given = {
        "sim": "true",
        "lockstep": str(not realtime).lower(),
        "seed": str(seed),
        "domain": domain,
        "robot": condition.robot or robot.name,
        **{name: getattr(condition, name) for name in ("task", "policy", "checkpoint", "instruction", "instructions")},
        **{name: getattr(condition, name) for name in ("encoder", "vision", "device", "joining")},
        "max_yaw": repr(condition.max_yaw),
    }
    more: dict[str, dict[str, Any]] = {
        "policy": {
            "seed": condition.noise_seed,
            "replan_rows": condition.replan_rows,
            "backend": condition.backend,
        },
        "executor": {"latency_ticks": condition.latency_ticks(robot)},
    }
    if not realtime:
        # lock-step stamps every source with its tick: the one before a scene's first is not to be made of the same
        more["camera_sync"] = {"max_skew_ms": 0.0}
    planned = bringup.plan("inference", given)
    nodes = [dataclasses.replace(n, parameters={**n.parameters, **more.get(n.name, {})}) for n in planned.nodes]
    return dataclasses.replace(planned, nodes=tuple(nodes))


def robot_of(condition: Condition) -> Robot:
    """The robot of a condition: the one named, else that of its checkpoint."""
    if condition.robot or condition.policy != "rdt" or condition.checkpoint.startswith(UNTRAINED):
        return load_robot(condition.robot or SIM_ROBOT)
    from rdt_ros.model.checkpoint import open_checkpoint

    return open_checkpoint(condition.checkpoint).robot_for(None)


class NodeSession:
    """The nodes of one condition, as a context."""

    def __init__(self, condition: Condition, seed: int, log: TextIO, *, realtime: bool, domain: str, films: bool):
        self._condition, self._task = condition, find_task(condition.task)
        self._robot, self._realtime = robot_of(condition), realtime
        self._plan = plan(condition, self._robot, seed, realtime=realtime, domain=domain)
        os.environ.update(self._plan.environment)
        from rdt_ros.nodes.spectator import Spectator  # after the environment: ROS reads it once

        self._supervisor = Supervisor(self._plan, lambda line: print(line, file=log, flush=True))
        self._spectator = Spectator(self._plan.namespace, keep_pictures=films)
        self._first = True

    def __enter__(self) -> NodeSession:
        self._supervisor.__enter__()
        try:
            self._spectator.__enter__()
        except BaseException:
            self._supervisor.__exit__()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._spectator.__exit__(*exception)
        finally:
            self._supervisor.__exit__(*exception)

    @property
    def step_ms(self) -> Mapping[str, float | None]:
        """How long plans took, as the policy node says: step_ms_p50 and step_ms_p99 of its last 1000."""
        said = self._spectator.diagnostics.get("policy", {})
        return {
            f"step_ms_{name}": float(said[f"inference_ms_{name}"]) if f"inference_ms_{name}" in said else None
            for name in ("p50", "p99")
        }

    def run(self, seeds: Iterable[int], film_folder: Callable[[EpisodeResult], Path | None]) -> Iterator[Done]:
        """The episodes of rising seeds; `film_folder` says of each result whether and where it is filmed."""
        for seed in seeds:
            result, observations = self.play(seed)
            yield done(Job(seed, film_folder(result)), result, observations, self._robot)

    def play(self, seed: int, task: Task | None = None) -> tuple[EpisodeResult, list[Observation]]:
        """The episode of the seed that is next, with its Observations if films are wanted.

        `task` is another one than the condition's: the policy hears of it by its service alone, in the task's words.
        """
        spectator, instruction = self._spectator, task.instruction if task else self._condition.instruction
        task = task or self._task
        if self._first:
            self._wait("the simulator", lambda: spectator.outcome is not None)
            self._wait("the executor", lambda: spectator.executor_state is not None)
            self._wait("the policy", lambda: "policy" in spectator.diagnostics)
        else:
            spectator.forget()
            spectator.reset_simulator(seed, ANSWER_S)
        # asked for every episode: its answer says as well that the policy has heard of the scene
        spectator.instruct_policy(instruction, READY_S)
        start_s = self._begin(seed)
        self._first = False
        verdict = Verdict(start_s, task.episode_s)
        self._watch(verdict, task)
        spectator.call("executor/disable", ANSWER_S)
        self._rest()
        first_ns, last_ns = (round(s * NS_PER_S) for s in (start_s, start_s + verdict.last_s))
        seen = [o for o in spectator.observations if first_ns <= o.stamp_ns <= last_ns]
        return verdict.result(seed, task.name, instruction), seen

    def _begin(self, seed: int) -> float:
        """Enables the executor and returns the simulated time in s at which the episode began."""
        spectator, start_ns = self._spectator, episode_start_ns(seed, self._robot.period_ns)
        if self._realtime:
            spectator.spin(REST_S)  # so that the policy has nothing of the old scene left
        else:
            start_s, found_s = start_ns / NS_PER_S, spectator.outcome["sim_time"]
            if abs(found_s - start_s) > SAME_S:
                raise InputError(f"eval: seed {seed}: expected the simulator at {start_s:.2f} s, found {found_s:.2f} s")
            if not self._first:  # its answer to the very first Observation may have been given before anyone listened
                self._wait("the policy to see the scene", lambda: spectator.answered_ns == start_ns)
        self._wait("the executor to be enabled", self._enabled)
        self._wait("the arms to follow the policy", lambda: spectator.executor_state.state in (RUNNING, FAULT))
        return spectator.tick_s if self._realtime else start_s

    def _enabled(self) -> bool:
        """Tries to enable; refused where the executor has not heard of the joints or the clock yet."""
        try:
            self._spectator.call("executor/enable", ANSWER_S)
        except InputError as error:
            if "refused" not in str(error):
                raise
            self._spectator.spin(REST_S)
            return False
        return True

    def _watch(self, verdict: Verdict, task: Task) -> None:
        """Until the episode is over in simulated time."""
        spectator, heard = self._spectator, 0
        progressed_s, last_s = time.monotonic(), -1.0
        while not verdict.over:
            self._all_run()
            spectator.spin(SPIN_S)
            for outcome in spectator.outcomes[heard:]:
                verdict.hear({**outcome, **outcome["tasks"][task.name]})
            heard = len(spectator.outcomes)
            if spectator.executor_state.state == FAULT:
                verdict.fault = spectator.executor_state.reason
            now_s = time.monotonic()
            if heard and spectator.outcomes[-1]["sim_time"] > last_s:
                progressed_s, last_s = now_s, spectator.outcomes[-1]["sim_time"]
            elif now_s - progressed_s > STALL_S:
                raise InputError(f"eval: the simulation stood still for {STALL_S:g} s at {last_s:.2f} s")

    def _rest(self) -> None:
        """Waits until the arms are at rest, so that no command of this episode reaches the next scene."""
        spectator = self._spectator
        self._wait("the executor to be disabled", lambda: spectator.executor_state.state == INACTIVE)
        if self._realtime:
            spectator.spin(REST_S)
            return
        spectator.outcomes = []
        # in lock-step the simulator says a tick again where no command comes for a second
        self._wait(
            "the arms to come to rest",
            lambda: (
                len(spectator.outcomes) > 1 and spectator.outcomes[-1]["sim_time"] == spectator.outcomes[-2]["sim_time"]
            ),
        )

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        if not self._spectator.wait_for(lambda: self._all_run() and condition(), READY_S):
            raise InputError(f"eval: waited {READY_S:g} s in vain for {what}")

    def _all_run(self) -> bool:
        """True; InputError with the name of a node that has ended."""
        ended = self._supervisor.ended()
        if ended is not None:
            raise InputError(f"{ended[0]} ended with exit code {ended[1]}: {ended[2]}")
        return True


class Verdict:
    """What the simulator's outcomes say of one episode that began at `start_s` of simulated time."""

    def __init__(self, start_s: float, episode_s: float) -> None:
        self._start_s, self._episode_s = start_s, episode_s
        self._last: dict[str, Any] = {"stage": "", "dropped": False}
        self._success_s: float | None = None
        self.last_s = 0.0  # after the start
        self.over = False
        self.fault = ""

    def hear(self, outcome: Mapping[str, Any]) -> None:
        """Takes the next outcome; what comes after the end does not count."""
        elapsed_s = round(outcome["sim_time"] - self._start_s, 6)
        if elapsed_s < SAME_S or self.over:
            return
        if elapsed_s > self._episode_s + SAME_S:
            self.over = True
            return
        self._last, self.last_s = dict(outcome), elapsed_s
        if self._success_s is None and outcome["ever_success"]:
            self._success_s = elapsed_s
        ends_s = self._episode_s if self._success_s is None else self._success_s + AFTER_SUCCESS_S
        self.over = elapsed_s > min(ends_s, self._episode_s) - SAME_S

    def result(self, seed: int, task: str, instruction: str) -> EpisodeResult:
        """The episode's result."""
        return EpisodeResult(
            seed=seed,
            task=task,
            instruction=instruction,
            success=self._success_s is not None,
            success_s=self._success_s,
            stage=self._last["stage"],
            dropped=self._last["dropped"],
            fault=self.fault,
            seconds=self.last_s,
        )
