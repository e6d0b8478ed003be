"""What a check found: one line of a report, with its kind and severity. docs/check.md says what each kind means."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SEVERITIES = ("note", "warning", "error")  # from the mildest to the worst

KINDS: dict[str, str] = {  # kind -> how bad it is, where the check that finds it does not say otherwise
    "unreadable": "error",
    "crashed": "error",
    "interrupted": "error",
    "being_written": "note",
    "repaired": "note",
    "counts": "warning",
    "too_short": "error",
    "no_stamps": "note",
    "rate": "error",
    "gaps": "warning",
    "stamps": "error",
    "repeated_samples": "warning",
    "skew": "warning",
    "nan": "error",
    "missing_values": "warning",
    "gripper_units": "error",
    "limits": "error",
    "jump": "error",
    "leader_offset": "error",
    "motionless": "error",
    "still_head": "warning",
    "still_tail": "warning",
    "no_instruction": "error",
    "missing_camera": "error",
    "bad_picture": "error",
    "frozen": "error",
    "duplicates": "warning",
    "same_camera_twice": "error",
    "dark": "error",
    "overexposed": "error",
    "picture_size": "warning",
    "reencoded": "warning",
    "colour_order": "error",
    "colours": "warning",
    "mixed": "error",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str  # of KINDS
    severity: str  # of SEVERITIES
    subject: str  # joint, camera, source or attribute
    expected: str
    found: str
    step: int | None = None  # where it begins, None where it is about the whole file
    time_s: float | None = None  # the same, since the first step


def finding(
    kind: str,
    subject: str,
    *,
    expected: str,
    found: str,
    severity: str | None = None,
    step: int | None = None,
    time_s: float | None = None,
) -> Finding:
    """A finding, as bad as its kind is unless `severity` says otherwise."""
    return Finding(kind, severity or KINDS[kind], subject, expected, found, step, time_s)


@dataclass(frozen=True, eq=False)
class Facts:
    """What an episode is, for the comparison with the others of its set."""

    robot: str
    joint_names: tuple[str, ...]
    control_rate_hz: float
    action_offset_steps: int
    action_source: str
    colour_order: str  # "rgb", "bgr", or "unsaid"
    steps: int
    seconds: float
    rate_hz: float | None  # true rate; None where the file has no stamps
    picture_sizes: dict[str, tuple[int, int]]  # camera -> width, height
    jpeg_qualities: dict[str, int]  # camera -> 1..100, only where it can be told
    colours: dict[str, np.ndarray] = field(default_factory=dict)  # camera -> histogram (rdt_ros.episodes.check.colours)


@dataclass(frozen=True, eq=False)
class Verdict:
    """All that was found in one file."""

    path: str
    findings: tuple[Finding, ...]
    facts: Facts | None = None  # None where it cannot be read

    @property
    def severity(self) -> str | None:
        """Of its worst finding."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index, default=None)
