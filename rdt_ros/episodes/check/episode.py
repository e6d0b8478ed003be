"""One file judged: everything that is found in it alone."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rdt_ros.episodes.check import colours, motion, pictures, timing
from rdt_ros.episodes.check.evidence import Evidence, gather
from rdt_ros.episodes.check.findings import Facts, Finding, Verdict, finding
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.repair import repair
from rdt_ros.episodes.writer import UNFINISHED, locked_by_writer
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot


@dataclass(frozen=True)
class Task:
    """A file to be judged, and how."""

    path: Path
    thresholds: Thresholds
    robot: Robot | None = None  # of files that do not say it
    colour_order: str | None = None  # the same
    repair: bool = False


def check_episode(task: Task) -> Verdict:
    """Judges one file; what it cannot read is a finding. An interrupted recording is repaired first where asked for."""
    path = task.path
    before: list[Finding] = []
    if path.suffix == UNFINISHED:
        if _being_written(path):
            writing = finding("being_written", "file", expected="a finished recording", found="a recorder at work")
            return Verdict(str(path), (writing,))
        if task.repair:
            path, before = _repaired(path)
    verdict = _judged(path, task)
    told = {item.kind for item in before}
    findings = [*before, *(item for item in verdict.findings if item.kind not in told)]
    return replace(verdict, findings=tuple(_rated(findings, task.thresholds)))


def _judged(path: Path, task: Task) -> Verdict:
    found: list[Finding] = []
    facts = None
    if path.suffix == UNFINISHED:
        found.append(finding("interrupted", "file", expected="a finished recording", found="repair it with --repair"))
    try:
        with EpisodeReader(path, task.robot, colour_order=task.colour_order) as episode:
            evidence = gather(episode, task.thresholds)
    except (InputError, OSError) as error:
        text = str(error).removeprefix(f"{path}: ")
        found.append(finding("unreadable", "file", expected="a readable episode", found=text))
    else:
        found += _all(evidence, task.thresholds)
        facts = _facts(evidence, task)
    return Verdict(str(path), tuple(found), facts)


def _all(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    if evidence.path.suffix != UNFINISHED and not evidence.content.complete:
        yield finding("interrupted", "complete", expected="true", found="false: the writer did not finish it")
    if evidence.attributes.get("repaired"):
        yield finding("repaired", "file", expected="a finished recording", found="an interrupted one, repaired")
    if not evidence.instruction.strip():
        yield finding("no_instruction", "instruction", expected="what is being done, in words", found="nothing")
    for check in (timing, motion, pictures, colours):
        yield from check.judge(evidence, thresholds)


def _facts(evidence: Evidence, task: Task) -> Facts:
    robot, content = evidence.robot, evidence.content
    qualities = {c.camera.name: Counter(c.qualities).most_common(1) for c in evidence.cameras}
    unsaid = "rgb" if evidence.ours else "unsaid"
    return Facts(
        robot=robot.name,
        joint_names=robot.joint_names,
        control_rate_hz=robot.control_rate_hz,
        action_offset_steps=robot.action_offset_steps,
        action_source=content.action_source,
        colour_order=str(evidence.attributes.get("colour_order", task.colour_order or unsaid)),
        steps=evidence.steps,
        seconds=evidence.seconds,
        rate_hz=timing.true_rate_hz(evidence, task.thresholds.gap_periods),
        picture_sizes={c.camera.name: Counter(c.sizes).most_common(1)[0][0] for c in evidence.cameras if c.sizes},
        jpeg_qualities={name: most[0][0] for name, most in qualities.items() if most and most[0][0] is not None},
        colours=colours.of(evidence),
    )


def _being_written(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return locked_by_writer(descriptor)
    finally:
        os.close(descriptor)


def _repaired(path: Path) -> tuple[Path, list[Finding]]:
    """The episode and what was kept, or the path as it is and why it stays."""
    durable = 0
    try:
        with contextlib.suppress(InputError), EpisodeReader(path) as episode:  # what is wrong, `repair` says better
            durable = len(episode)
        finished = repair(path)
        with EpisodeReader(finished) as episode:
            kept, seconds = len(episode), (int(episode.ticks[-1]) - int(episode.ticks[0])) / 1e9
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return path, [finding("interrupted", "file", expected="to be repaired", found=reason)]
    kept_text = f"kept {kept} of {durable} durable steps, {seconds:.1f} s, as {finished.name}"
    return finished, [finding("repaired", "file", expected="every durable step", found=kept_text)]


def _rated(findings: list[Finding], thresholds: Thresholds) -> Iterator[Finding]:
    """With the severities of the thresholds file."""
    for item in findings:
        severity = thresholds.severity.get(item.kind, item.severity)
        if severity != "off":
            yield replace(item, severity=severity)
