"""Episodes against each other: a set must be of one kind."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rdt_ros.episodes.check import colours
from rdt_ros.episodes.check.findings import Facts, Finding, Verdict, finding
from rdt_ros.episodes.check.thresholds import Thresholds

LEAST_OTHERS = 2  # episodes that the colours of one are compared with
SAME: tuple[tuple[str, str, Callable[[Facts], Any]], ...] = (  # what must be the same, and how bad it is if not
    ("robot", "error", lambda facts: facts.robot),
    ("joint names", "error", lambda facts: facts.joint_names),
    ("control rate", "error", lambda facts: facts.control_rate_hz),
    ("action offset", "error", lambda facts: facts.action_offset_steps),
    ("colour order", "error", lambda facts: facts.colour_order),
    ("action source", "warning", lambda facts: facts.action_source),
)
SAME_CAMERA: tuple[tuple[str, Callable[[Facts], Mapping[str, Any]]], ...] = (  # camera by camera; a warning if not
    ("picture size", lambda facts: facts.picture_sizes),
    ("JPEG quality", lambda facts: facts.jpeg_qualities),
)


def compare(verdicts: Sequence[Verdict], thresholds: Thresholds) -> list[Verdict]:
    """The same verdicts with what their episodes have unlike most others."""
    facts = [verdict.facts for verdict in verdicts if verdict.facts is not None]
    return [
        dataclasses.replace(verdict, findings=(*verdict.findings, *_unlike(verdict.facts, facts, thresholds)))
        if verdict.facts is not None
        else verdict
        for verdict in verdicts
    ]


def _unlike(own: Facts, everyone: Sequence[Facts], thresholds: Thresholds) -> Iterator[Finding]:
    for name, severity, value in SAME:
        yield from _unusual(name, severity, value(own), [value(facts) for facts in everyone])
    for name, by_camera in SAME_CAMERA:
        for camera, found in by_camera(own).items():
            values = [by_camera(facts)[camera] for facts in everyone if camera in by_camera(facts)]
            yield from _unusual(f"{camera}: {name}", "warning", found, values)
    for camera, own_colours in own.colours.items():
        others = [
            facts.colours[camera]
            for facts in everyone
            if facts is not own and facts.robot == own.robot and camera in facts.colours
        ]
        if len(others) < LEAST_OTHERS:
            continue
        gain = colours.exchange_gain(own_colours, others, thresholds)
        if gain is not None:
            yield finding(
                "colours",
                camera,
                expected=f"the colours of {len(others)} other episodes",
                found=f"red and blue look exchanged (fits {gain:.0%} better so)",
            )


def _unusual(name: str, severity: str, found: Any, values: list[Any]) -> Iterator[Finding]:
    """A finding where the value is not the one that most episodes have."""
    usual, times = Counter(values).most_common(1)[0]
    if found != usual:
        expected = f"{_show(usual)} as in {times} of {len(values)} episodes"
        yield finding("mixed", name, expected=expected, found=_show(found), severity=severity)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
