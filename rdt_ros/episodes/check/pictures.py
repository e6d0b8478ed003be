"""Cameras: missing, frozen, repeating, torn, dark, overexposed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from rdt_ros.episodes.check.evidence import UNREADABLE, CameraEvidence, Evidence, runs
from rdt_ros.episodes.check.findings import Finding, finding
from rdt_ros.episodes.check.thresholds import Thresholds

MOVING_RAD = 0.01  # of a joint in one step: a simulated picture must show it
LEAST_MOVING = 10  # steps, to judge repeating pictures by
SAME_CAMERA_SHARE = 0.9  # of the steps at which two cameras give the same bytes
SIDES = {"left_wrist": "left_", "right_wrist": "right_"}  # role of a camera -> prefix of the slots that move it


def judge(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Findings about pictures."""
    there = {camera.camera.name for camera in evidence.cameras}
    for camera in evidence.robot.cameras:
        if camera.name not in there:
            yield finding("missing_camera", camera.name, expected=f"pictures of the {camera.role} camera", found="none")
    for one, other in itertools.combinations(evidence.cameras, 2):
        yield from _same(one, other)
    for pictures in evidence.cameras:
        yield from _faults(evidence, pictures)
        yield from _standing(evidence, pictures, thresholds)
        yield from _light(evidence, pictures, thresholds)
        yield from _sizes(evidence, pictures)
    reencoded = evidence.attributes.get("pictures_reencoded", 0)
    if reencoded:
        yield finding(
            "reencoded", "pictures", expected="pictures as they came", found=f"{reencoded} made smaller to fit"
        )


def _same(one: CameraEvidence, other: CameraEvidence) -> Iterator[Finding]:
    same = (one.fingerprints == other.fingerprints) & (one.fingerprints != UNREADABLE)
    if len(same) and same.mean() > SAME_CAMERA_SHARE:
        yield finding(
            "same_camera_twice", other.camera.name, expected="a view of its own", found=f"that of {one.camera.name}"
        )


def _faults(evidence: Evidence, pictures: CameraEvidence) -> Iterator[Finding]:
    if pictures.faults:
        step, reason = next(iter(pictures.faults.items()))
        yield evidence.at(
            "bad_picture",
            pictures.camera.name,
            step,
            expected="whole JPEG pictures",
            found=f"{len(pictures.faults)} that are not: {reason}",
        )


def _standing(evidence: Evidence, pictures: CameraEvidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Equal pictures: a real camera's noise makes each one differ, a simulated one's only differ if something moves."""
    prints, camera = pictures.fingerprints, pictures.camera
    equal = (prints[1:] == prints[:-1]) & (prints[1:] != UNREADABLE)
    frozen = np.zeros(len(equal), bool)
    limit_s = camera.frozen_after_s or thresholds.frozen_s
    joints = _seen_by(evidence, pictures)
    for first, last in runs(equal):
        seconds = evidence.time_s(last + 1) - evidence.time_s(first)
        motion = float(np.nanmax(np.ptp(joints[first : last + 2], axis=0), initial=0.0))
        if seconds < limit_s or (camera.frozen_after_s is None and motion < thresholds.frozen_motion_rad):
            continue
        frozen[first : last + 1] = True
        yield evidence.at(
            "frozen",
            camera.name,
            first,
            expected=f"a new picture within {limit_s:g} s",
            found=f"{last - first + 2} equal ones, {seconds:.2f} s",
        )
    moving = ~frozen
    if camera.frozen_after_s is None:
        moving = moving & (np.abs(np.diff(joints, axis=0)) > MOVING_RAD).any(axis=1)
    repeated = np.flatnonzero(equal & moving)
    if moving.sum() >= LEAST_MOVING and len(repeated) > thresholds.duplicate_share * moving.sum():
        yield evidence.at(
            "duplicates",
            camera.name,
            int(repeated[0]) + 1,
            expected="a new picture at every step",
            found=f"{len(repeated)} of {moving.sum()} equal the one before",
        )


def _seen_by(evidence: Evidence, pictures: CameraEvidence) -> np.ndarray:
    """(N, some) the arm joints whose motion this camera cannot miss."""
    side = SIDES.get(pictures.camera.role, "")
    columns = [
        index
        for index, joint in enumerate(evidence.robot.joints)
        if joint.kind != "gripper" and joint.slot.startswith(side)
    ]
    return evidence.content.vectors["measured"][:, columns]


def _light(evidence: Evidence, pictures: CameraEvidence, thresholds: Thresholds) -> Iterator[Finding]:
    dark = np.array([picture.mean() < thresholds.dark_level for picture in pictures.thumbnails], bool)
    bright = np.array(
        [
            (picture.min(axis=2) >= thresholds.bright_level).mean() > thresholds.bright_share
            for picture in pictures.thumbnails
        ],
        bool,
    )
    for kind, flags in (("dark", dark), ("overexposed", bright)):
        if not flags.any():
            continue
        regular = flags[pictures.regular]
        step = pictures.samples[int(np.argmax(flags))]
        yield evidence.at(
            kind,
            pictures.camera.name,
            step,
            expected="pictures that show something",
            found=f"{flags.sum()} of {len(flags)} pictures looked at",
            severity="error" if regular.mean() > thresholds.bad_light_share else "warning",
        )


def _sizes(evidence: Evidence, pictures: CameraEvidence) -> Iterator[Finding]:
    counts = Counter(pictures.sizes)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        other = next(i for i, size in enumerate(pictures.sizes) if size != usual)
        width, height = pictures.sizes[other]
        yield evidence.at(
            "picture_size",
            pictures.camera.name,
            pictures.samples[other],
            expected=f"{usual[0]}x{usual[1]} throughout",
            found=f"{width}x{height}",
        )
