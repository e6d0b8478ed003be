"""What many episodes say: success rates with their uncertainty, and where failures failed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdt_ros.errors import InputError

Z_95 = 1.959963984540054  # normal quantile of 97.5 %
FAULT = "executor fault"


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode went; a line of a results file."""

    seed: int
    task: str
    instruction: str
    success: bool
    success_s: float | None  # after the start
    stage: str  # the furthest that was reached
    dropped: bool
    fault: str  # why the executor stopped following, empty if it did not
    seconds: float  # simulated
    step_ms: tuple[float, ...] = ()  # of every plan; none where another process made them

    @property
    def how(self) -> str:
        """In a few words."""
        extras = [", dropped"] * self.dropped + [f", {FAULT}"] * bool(self.fault)
        return "success" if self.success else self.stage + "".join(extras)


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927); InputError where there are no episodes."""
    if not episodes:
        raise InputError("interval: expected episodes, found none")
    rate, weight = successes / episodes, Z_95**2 / episodes
    centre = (rate + weight / 2) / (1 + weight)
    half = Z_95 * math.sqrt(rate * (1 - rate) / episodes + weight / episodes / 4) / (1 + weight)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test (1947): discordant pairs fall to either side like a fair coin."""
    count, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    return min(2 * tail, 1.0)


def summary(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """What is reported of episodes of one task."""
    successes = sum(result.success for result in results)
    times = [ms for result in results for ms in result.step_ms]
    p50, p99 = np.percentile(times, (50, 99)).round(2).tolist() if times else (None, None)
    failures = Counter(result.how for result in results if not result.success)
    return {
        "episodes": len(results),
        "successes": successes,
        "success_rate": round(successes / len(results), 4) if results else None,
        "interval_95": [round(end, 4) for end in wilson(successes, len(results))] if results else None,
        "stages": dict(failures.most_common()),
        "step_ms_p50": p50,
        "step_ms_p99": p99,
    }


def append_result(path: Path, result: EpisodeResult) -> None:
    """Adds a line to a results file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path) -> dict[int, EpisodeResult]:
    """Seed -> result; InputError for a file that is none, or that has a seed twice."""
    results: dict[int, EpisodeResult] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            result = EpisodeResult(**{**values, "step_ms": tuple(values["step_ms"])})
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{path}: line {number}: expected the result of an episode, found {line[:40]!r}") from None
        if result.seed in results:
            raise InputError(f"{path}: line {number}: expected each seed once, found {result.seed} again")
        results[result.seed] = result
    if not results:
        raise InputError(f"{path}: expected results of episodes, found none")
    return results


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two results files over the seeds that both have; InputError where there are none, or the tasks differ."""
    one, other = read_results(first), read_results(second)
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise InputError(f"{second}: expected seeds of {first}, found none of them")
    tasks = [{results[seed].task for seed in seeds} for results in (one, other)]
    if tasks[0] != tasks[1]:
        raise InputError(f"{second}: expected task {', '.join(tasks[0])} as {first}, found {', '.join(tasks[1])}")
    pairs = [(one[seed].success, other[seed].success) for seed in seeds]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    rates = [sum(side) / len(seeds) for side in zip(*pairs, strict=True)]
    return {
        "episodes": len(seeds),
        "success_rates": [round(rate, 4) for rate in rates],
        "difference": round(rates[1] - rates[0], 4),
        "only_first": only_first,
        "only_second": only_second,
        "mcnemar_p": float(f"{mcnemar(only_first, only_second):.4g}"),
    }
