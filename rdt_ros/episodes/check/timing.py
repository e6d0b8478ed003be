"""Length, rate, gaps, and the stamps of every source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdt_ros.episodes import layout
from rdt_ros.episodes.check.evidence import Evidence
from rdt_ros.episodes.check.findings import Finding, finding
from rdt_ros.episodes.check.thresholds import Thresholds

EARLY_MS = 1.0  # a source this long before its tick belongs to an older one
MOST = 95  # percentile of the skews


def judge(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Findings about time."""
    if evidence.steps < thresholds.min_steps:
        yield finding(
            "too_short", "file", expected=f"at least {thresholds.min_steps} steps", found=f"{evidence.steps} steps"
        )
    yield from _counts(evidence)
    if not evidence.stamped:
        yield finding(
            "no_stamps", "file", expected="a stamp for every source", found="none: rate, gaps and skew are unknown"
        )
        return
    if evidence.steps < 3:
        return
    intervals_ms = np.diff(evidence.content.ticks) / 1e6
    if (intervals_ms <= 0).any():
        yield _not_increasing(evidence, "tick", intervals_ms)
        return
    yield from _rate(evidence, intervals_ms, thresholds)
    yield from _gaps(evidence, intervals_ms, thresholds)
    for source, stamps in evidence.content.stamps.items():
        yield from _source(evidence, source, np.asarray(stamps), thresholds)


def true_rate_hz(evidence: Evidence, gap_periods: float) -> float | None:
    """Steps a second by their stamps, gaps apart; None where it is unknown."""
    intervals = np.diff(evidence.content.ticks)
    if not evidence.stamped or len(intervals) < 2 or (intervals <= 0).any():
        return None
    return float(1e9 / intervals[intervals <= gap_periods * np.median(intervals)].mean())


def _rate(evidence: Evidence, intervals_ms: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    nominal, rate = evidence.robot.control_rate_hz, true_rate_hz(evidence, thresholds.gap_periods)
    assert rate is not None
    if abs(rate - nominal) > thresholds.rate_tolerance * nominal:
        yield finding("rate", "tick", expected=f"{nominal:g} Hz", found=f"{rate:.2f} Hz by the stamps")


def _gaps(evidence: Evidence, intervals_ms: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    usual_ms = float(np.median(intervals_ms))
    gaps = np.flatnonzero(intervals_ms > thresholds.gap_periods * usual_ms)
    if not len(gaps):
        return
    longest = int(gaps[np.argmax(intervals_ms[gaps])])
    lost = int(np.round(intervals_ms[gaps] / usual_ms - 1).sum())
    share = lost / (evidence.steps + lost)
    severe = intervals_ms[longest] > 1e3 * thresholds.long_gap_s or share > thresholds.max_lost_share
    yield evidence.at(
        "gaps",
        "tick",
        longest,
        expected=f"a step every {usual_ms:.0f} ms",
        found=f"{len(gaps)} gaps, {lost} steps lost ({share:.1%}), the longest {intervals_ms[longest] / 1e3:.2f} s",
        severity="error" if severe else None,
    )


def _counts(evidence: Evidence) -> Iterator[Finding]:
    """What the attributes say against what is there."""
    if not evidence.ours or not evidence.content.complete or not evidence.steps:
        return
    ticks = evidence.content.ticks
    periods = round((int(ticks[-1]) - int(ticks[0])) / evidence.robot.period_ns) + 1
    for name, there in (("steps", evidence.steps), ("steps_lost", periods - evidence.steps)):
        said = evidence.attributes.get(name)
        if said != there:
            yield finding("counts", name, expected=f"{there}, by the stamps", found=f"{said} in the attributes")


def _source(evidence: Evidence, source: str, stamps: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    there = np.flatnonzero(stamps != layout.NO_STAMP)
    missing = evidence.steps - len(there)
    if missing > thresholds.missing_share * evidence.steps:
        step = int(np.flatnonzero(stamps == layout.NO_STAMP)[0])
        yield evidence.at("missing_values", source, step, expected="a value at every step", found=f"none at {missing}")
    if len(there) < 3:
        return
    steps_ms = np.diff(stamps[there]) / 1e6
    repeated = steps_ms == 0
    if (steps_ms < 0).any():
        yield _not_increasing(evidence, source, np.where(repeated, 1.0, steps_ms), there)
    if repeated.mean() > thresholds.repeated_share:
        yield evidence.at(
            "repeated_samples",
            source,
            int(there[1:][repeated][0]),
            expected="a new sample at every step",
            found=f"{repeated.sum()} for a second time: slower than the control rate",
        )
    yield from _skew(evidence, source, there, stamps, thresholds)


def _skew(
    evidence: Evidence, source: str, there: np.ndarray, stamps: np.ndarray, thresholds: Thresholds
) -> Iterator[Finding]:
    # a command is the one in force until the tick, so it belongs to the tick before
    due = evidence.content.ticks[there] - (evidence.robot.period_ns if source.startswith("command/") else 0)
    skew_ms = (stamps[there] - due) / 1e6
    most = float(np.percentile(skew_ms, MOST))
    if skew_ms.min() < -EARLY_MS:
        worst = int(np.argmin(skew_ms))
        yield evidence.at(
            "skew",
            source,
            int(there[worst]),
            expected="stamps at or after the tick",
            found=f"{-skew_ms[worst]:.0f} ms before it, {(skew_ms < -EARLY_MS).sum()} steps",
            severity="error",
        )
    elif most > thresholds.max_skew_ms:
        yield evidence.at(
            "skew",
            source,
            int(there[np.argmax(skew_ms)]),
            expected=f"within {thresholds.max_skew_ms:g} ms of the tick",
            found=f"median {np.median(skew_ms):.0f} ms, worst {skew_ms.max():.0f} ms",
        )


def _not_increasing(evidence: Evidence, source: str, steps_ms: np.ndarray, there: np.ndarray | None = None) -> Finding:
    back = np.flatnonzero(steps_ms <= 0)
    first = int(back[0]) + 1
    return evidence.at(
        "stamps",
        source,
        int(there[first]) if there is not None else first,
        expected="stamps that increase",
        found=f"{-steps_ms[back].min():.0f} ms back, {len(back)} times",
    )
