"""From where on something is a finding: declared once, with prose; `config/check.yaml` is the same as a file."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rdt_ros.episodes.check.findings import KINDS, SEVERITIES
from rdt_ros.errors import InputError
from rdt_ros.options import check, option
from rdt_ros.share import share_dir

FILE = "config/check.yaml"
LEVELS = (*SEVERITIES, "off")
HEAD = """\
# From where on `rdt episodes check` calls something a finding. Copy this file, change the copy, and give it with
# --thresholds; keys that are left out keep the value they have here. docs/check.md says what each finding means.
"""
SEVERITY_HELP = f"""
# How bad a kind of finding is, where you see it differently: one of {", ".join(LEVELS)}.
severity: {{}}                      # for example {{no_instruction: warning, still_tail: off}}
"""


@dataclass(frozen=True)
class Thresholds:
    """Settings of the checks."""

    min_steps: int = option(128, unit="steps", low=2, doc="the reference's loader leaves shorter episodes out")
    rate_tolerance: float = option(
        0.03, low=0, high=1, doc="distance of the true rate from the nominal one, as a part of it"
    )
    gap_periods: float = option(
        1.5, unit="control periods", low=1, doc="an interval between two steps above this is a gap"
    )
    long_gap_s: float = option(0.3, unit="s", low=0, doc="a gap above this is an error, a shorter one a warning")
    max_lost_share: float = option(
        0.02, low=0, high=1, doc="part of the control ticks that may lack; above it gaps are an error"
    )
    max_skew_ms: float = option(
        50.0, unit="ms", low=0, doc="stamp of a source after its tick that 19 of 20 steps must keep"
    )
    repeated_share: float = option(
        0.1, low=0, high=1, doc="part of the steps at which a source may give a sample for a second time"
    )
    missing_share: float = option(0.02, low=0, high=1, doc="part of the steps at which a source may have no value")
    limit_margin_rad: float = option(
        0.05, unit="rad", low=0, doc="distance of an arm joint beyond the limits of the robot file"
    )
    limit_margin_gripper: float = option(0.1, unit="opening", low=0, doc="the same of a gripper")
    gripper_unit_margin: float = option(
        0.5, unit="opening", low=0, doc="a gripper further than this outside of 0 to 1 is in other units"
    )
    gripper_small_opening: float = option(
        0.1, unit="opening", low=0, high=1, doc="grippers that move and never open beyond this look like metres"
    )
    jump_factor: float = option(
        3.0, low=1, doc="speed of an arm joint between two steps, in velocity limits of the robot file"
    )
    jump_gripper: float = option(0.6, unit="opening", low=0, doc="change of a gripper between two steps")
    spike_rad: float = option(
        0.1, unit="rad", low=0, doc="distance of one step of an arm joint from both its neighbours, on the same side"
    )
    still_rad: float = option(
        0.02, unit="rad", low=0, doc="a joint that moves less than this within 0.4 s stands; openings too"
    )
    leader_offset_rad: float = option(
        0.15, unit="rad", low=0, doc="distance between leader and follower of an arm joint while both stand"
    )
    moved_rad: float = option(
        0.02, unit="rad", low=0, doc="distance from the first or last pose that counts as motion; openings too"
    )
    max_still_s: float = option(2.0, unit="s", low=0, doc="time without motion at the beginning, and at the end")
    frozen_s: float = option(
        0.5, unit="s", low=0, doc="time of equal pictures where the robot file gives no frozen_after_s and arms move"
    )
    frozen_motion_rad: float = option(
        0.1, unit="rad", low=0, doc="motion during equal pictures that a simulated camera should have shown"
    )
    duplicate_share: float = option(
        0.05, low=0, high=1, doc="part of a camera's pictures that may equal the one before while things move"
    )
    sample_period_s: float = option(1.0, unit="s", low=0.01, doc="one picture of each camera is decoded this often")
    dark_level: float = option(20.0, low=0, high=255, doc="mean brightness, of 255, below which a picture is dark")
    bright_level: float = option(250.0, low=0, high=255, doc="all colours of a pixel above this: overexposed")
    bright_share: float = option(0.5, low=0, high=1, doc="part of overexposed pixels that makes a picture overexposed")
    bad_light_share: float = option(
        0.1, low=0, high=1, doc="part of dark or overexposed pictures; above it an error, below a warning"
    )
    swap_margin: float = option(
        0.25,
        low=0,
        high=1,
        doc="how much better (0 to 1) colours must fit other pictures with red and blue exchanged",
    )
    swap_distance: float = option(
        0.4, low=0, high=1, doc="how far (0 to 1) they may then still be from those of the others"
    )
    timeout_s: float = option(120.0, unit="s", low=1, doc="a file that takes longer is given up")
    severity: Mapping[str, str] = field(default_factory=dict)  # kind -> of LEVELS


def load_thresholds(path: Path | None = None) -> Thresholds:
    """The shipped ones, with those of a file on top; InputError with the nearest name for a key that is unknown."""
    values = _values(share_dir() / FILE)
    if path is not None:
        values |= _values(path)
    thresholds = Thresholds(**values)
    check(thresholds, "thresholds")
    return thresholds


def text() -> str:
    """The shipped file."""
    lines = [HEAD]
    for item in dataclasses.fields(Thresholds):
        if item.name == "severity":
            continue
        meta = item.metadata
        unit = f" [{meta['unit']}]" if meta["unit"] else ""
        lines.append(f"{f'{item.name}: {item.default}':<34}# {meta['doc']}{unit}")
    return "\n".join(lines) + "\n" + SEVERITY_HELP


def _values(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InputError(f"thresholds {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"thresholds {path}: no YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(data, dict):
        raise InputError(f"thresholds {path}: expected a mapping, found {type(data).__name__}")
    defaults = {item.name: item.default for item in dataclasses.fields(Thresholds)}
    for key, value in data.items():
        _known(key, defaults, f"thresholds {path}")
        if key == "severity":
            data[key] = _severities(value, path)
        elif isinstance(value, bool) or not isinstance(value, int if isinstance(defaults[key], int) else int | float):
            kind = "a whole number" if isinstance(defaults[key], int) else "a number"
            raise InputError(f"thresholds {path}: {key}: expected {kind}, found {value!r}")
    return data


def _severities(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InputError(f"thresholds {path}: severity: expected a mapping, found {value!r}")
    levels = {}
    for kind, level in value.items():
        _known(kind, KINDS, f"thresholds {path}: severity")
        levels[kind] = "off" if level is False else level  # YAML reads a bare `off` as false
        if levels[kind] not in LEVELS:
            raise InputError(
                f"thresholds {path}: severity.{kind}: expected one of {', '.join(LEVELS)}, found {level!r}"
            )
    return levels


def _known(key: Any, names: Mapping[str, Any], where: str) -> None:
    if key not in names:
        near = difflib.get_close_matches(str(key), list(names), n=1)
        raise InputError(f"{where}: unknown key {key!r}" + (f", is {near[0]!r} meant?" if near else ""))


if __name__ == "__main__":
    print(text(), end="")
