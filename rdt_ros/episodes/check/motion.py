"""Joints: values that are none, limits, units, jumps, leader against follower, standing still."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdt_ros.episodes.check.evidence import Evidence, runs, still_windows
from rdt_ros.episodes.check.findings import Finding, finding
from rdt_ros.episodes.check.thresholds import Thresholds

STILL_WINDOW_S = 0.4
LEAST_STILL_S = 0.5  # of standing frames that a leader's offset is judged by
CONSISTENT = 10  # percentile of the offsets that must be on the same side
SMALLEST_MOTION = 0.008  # opening; below it a gripper that looks like metres is just one that stands
NOISE_FACTOR = 8


def judge(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Findings about joints."""
    content = evidence.content
    yield from _values(evidence, thresholds)
    if evidence.steps < 3:
        return
    measured, action = _filled(content.vectors["measured"]), _filled(content.action)
    yield from _small_grippers(evidence, {"measured": measured, "action": action}, thresholds)
    for name, values in (("measured", measured), ("action", action)):
        wrong_units = yield from _gripper_units(evidence, name, values, thresholds)
        for joint in range(len(evidence.robot.joints)):
            if joint not in wrong_units:
                yield from _limits(evidence, name, joint, values[:, joint], thresholds)
                yield from _jumps(evidence, name, joint, values[:, joint], thresholds)
    yield from _leader_offset(evidence, measured, action, thresholds)
    yield from _still_ends(evidence, measured, thresholds)


def _values(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Values that are no numbers. In the vectors that may lack, a whole row of NaN means "not there at this step"."""
    content = evidence.content
    named = {"action": content.action, **content.vectors, **{f"pose {k}": v for k, v in content.poses.items()}}
    for name, values in named.items():
        bad = ~np.isfinite(values)
        gone = np.isnan(values).all(axis=1) & (name not in ("action", "measured"))
        bad &= ~gone[:, None]
        if bad.any():
            step, column = (int(i) for i in np.argwhere(bad)[0])
            joints = evidence.robot.joint_names
            joint = joints[column] if values.shape[1] == len(joints) else f"column {column}"
            yield evidence.at(
                "nan",
                f"{name}: {joint}",
                step,
                expected="finite values",
                found=f"{values[step, column]}, {bad.sum()} values in all",
            )
        if gone.mean() > thresholds.missing_share:
            step = int(np.flatnonzero(gone)[0])
            yield evidence.at(
                "missing_values", name, step, expected="a value at every step", found=f"none at {gone.sum()}"
            )


def _filled(values: np.ndarray) -> np.ndarray:
    """(N, J) float64 with the value before in the place of each that is none (0 at the start)."""
    values = np.array(values, float)
    finite = np.isfinite(values)
    last = np.maximum.accumulate(np.where(finite, np.arange(len(values))[:, None], 0), axis=0)
    filled = np.take_along_axis(values, last, axis=0)
    return np.where(np.isfinite(filled), filled, 0.0)


def _gripper_units(evidence: Evidence, name: str, values: np.ndarray, thresholds: Thresholds):
    """Yields findings; returns the joints that they are about."""
    margin, wrong = thresholds.gripper_unit_margin, set()
    for joint in np.flatnonzero(evidence.robot.is_gripper):
        column = values[:, joint]
        out = np.flatnonzero((column < -margin) | (column > 1 + margin))
        if len(out) > 1:  # a single one is a spike
            wrong.add(int(joint))
            yield evidence.at(
                "gripper_units",
                f"{name}: {evidence.robot.joint_names[joint]}",
                int(out[0]),
                expected="openings from 0 to 1",
                found=f"{column.min():.3g} to {column.max():.3g}",
            )
    return wrong


def _small_grippers(evidence: Evidence, named: dict[str, np.ndarray], thresholds: Thresholds) -> Iterator[Finding]:
    """Openings that move but stay near 0, as metres read with the scale of a motor do."""
    for name, values in named.items():
        grippers = values[:, evidence.robot.is_gripper]
        if not grippers.size or grippers.max() > thresholds.gripper_small_opening or grippers.min() < -0.05:
            continue
        noise = np.diff(grippers, n=2, axis=0).std(axis=0) / np.sqrt(6)  # of one value, where motion is slow
        spans = np.ptp(grippers, axis=0)
        if (spans > np.maximum(SMALLEST_MOTION, NOISE_FACTOR * noise)).any():
            yield finding(
                "gripper_units",
                f"{name}: grippers",
                expected="openings from 0 to 1",
                found=f"at most {grippers.max():.3f}: metres, or never opened",
                severity="warning",
            )


def _limits(evidence: Evidence, name: str, joint: int, values: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    limits = evidence.robot.joints[joint]
    gripper = limits.kind == "gripper"
    margin = thresholds.limit_margin_gripper if gripper else thresholds.limit_margin_rad
    excess = np.maximum(limits.lower - values, values - limits.upper)
    out = np.flatnonzero(excess > margin)
    if len(out):
        worst = int(np.argmax(excess))
        yield evidence.at(
            "limits",
            f"{name}: {limits.name}",
            int(out[0]),
            expected=f"{limits.lower:g} to {limits.upper:g} {'' if gripper else 'rad'}".rstrip(),
            found=f"{values[worst]:.3f}, {len(out)} steps",
            severity="error" if name == "measured" else "warning",
        )


def _jumps(evidence: Evidence, name: str, joint: int, values: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    limits, steps = evidence.robot.joints[joint], np.diff(values)
    periods = np.maximum(np.diff(evidence.content.ticks) / evidence.robot.period_ns, 1)
    if limits.kind == "gripper":
        allowed, spike, unit = thresholds.jump_gripper * periods, thresholds.jump_gripper, ""
    else:
        usual = limits.velocity / evidence.robot.control_rate_hz
        allowed, spike, unit = thresholds.jump_factor * usual * periods, thresholds.spike_rad, " rad"
    too_far = np.abs(steps) > allowed
    too_far[1:] |= (steps[:-1] * steps[1:] < 0) & (np.minimum(np.abs(steps[:-1]), np.abs(steps[1:])) > spike)
    if too_far.any():
        worst = int(np.argmax(np.where(too_far, np.abs(steps), 0)))
        yield evidence.at(
            "jump",
            f"{name}: {limits.name}",
            worst + 1,
            expected=f"at most {allowed[worst]:.2f}{unit} a step, no spikes above {spike:g}{unit}",
            found=f"{steps[worst]:+.3f}{unit}, {too_far.sum()} jumps",
        )


def _leader_offset(
    evidence: Evidence, measured: np.ndarray, action: np.ndarray, thresholds: Thresholds
) -> Iterator[Finding]:
    """Where both stand they must agree; an object in the hand or a table in the way shifts a part of it only."""
    width = round(STILL_WINDOW_S * evidence.robot.control_rate_hz)
    still = still_windows(measured, width, thresholds.still_rad) & still_windows(action, width, thresholds.still_rad)
    for joint in np.flatnonzero(~evidence.robot.is_gripper):
        steps = np.flatnonzero(still[:, joint])
        if len(steps) < LEAST_STILL_S * evidence.robot.control_rate_hz:
            continue
        offsets = action[steps, joint] - measured[steps, joint]
        middle = float(np.median(offsets))
        least = float(np.percentile(offsets * np.sign(middle), CONSISTENT))
        if abs(middle) > thresholds.leader_offset_rad and least > thresholds.leader_offset_rad / 2:
            yield evidence.at(
                "leader_offset",
                evidence.robot.joint_names[joint],
                int(steps[0]),
                expected=f"leader and follower within {thresholds.leader_offset_rad:g} rad while both stand",
                found=f"{middle:+.3f} rad, {len(steps)} standing steps",
            )


def _still_ends(evidence: Evidence, measured: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    def standing(values: np.ndarray) -> int:
        """Steps from the first on without motion."""
        moved = (np.abs(values - np.median(values[:3], axis=0)) > thresholds.moved_rad).any(axis=1)
        return next((first for first, _ in runs(moved)), len(values))

    head, tail = standing(measured), standing(measured[::-1])
    if head == evidence.steps:
        yield finding("motionless", "joints", expected="motion", found=f"all joints stand for {evidence.seconds:.1f} s")
        return
    last = evidence.steps - tail
    head_s, tail_s = evidence.time_s(head), evidence.seconds - evidence.time_s(last - 1)
    for kind, step, seconds in (("still_head", 0, head_s), ("still_tail", last, tail_s)):
        if seconds > thresholds.max_still_s:
            yield evidence.at(
                kind,
                "joints",
                step,
                expected=f"motion within {thresholds.max_still_s:g} s of the {'start' if step == 0 else 'end'}",
                found=f"all joints stand for {seconds:.1f} s",
            )
