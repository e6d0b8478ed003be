"""Episodes against each other."""

from __future__ import annotations

import dataclasses

import numpy as np

from rdt_ros.episodes.check import colours
from rdt_ros.episodes.check.findings import Facts, Verdict
from rdt_ros.episodes.check.sets import compare
from rdt_ros.episodes.check.thresholds import Thresholds

FACTS = Facts(
    "agilex", ("a", "b"), 25.0, 1, "leader", "rgb", 200, 8.0, 25.0, {"cam_high": (640, 480)}, {"cam_high": 95}
)


def _findings(*facts: Facts | None) -> list[list[tuple[str, str, str]]]:
    verdicts = compare([Verdict(f"{i}.hdf5", (), one) for i, one in enumerate(facts)], Thresholds())
    return [[(item.subject, item.severity, item.found) for item in verdict.findings] for verdict in verdicts]


def _unlike(**change) -> Facts:
    return dataclasses.replace(FACTS, **change)


def test_the_odd_one_out_is_named_and_the_others_are_not():
    odd = _unlike(robot="aloha", control_rate_hz=50.0, action_source="command")
    found = _findings(FACTS, odd, FACTS)
    assert found[0] == found[2] == []
    assert found[1] == [
        ("robot", "error", "aloha"),
        ("control rate", "error", "50"),
        ("action source", "warning", "command"),
    ]


def test_pictures_are_compared_camera_by_camera():
    other = _unlike(picture_sizes={"cam_high": (320, 240)}, jpeg_qualities={"cam_high": 60})
    fewer = _unlike(picture_sizes={}, jpeg_qualities={})
    assert _findings(FACTS, FACTS, fewer, other)[2:] == [
        [],
        [("cam_high: picture size", "warning", "320, 240"), ("cam_high: JPEG quality", "warning", "60")],
    ]


def test_one_alone_and_unreadable_ones_are_left_as_they_are():
    assert _findings(FACTS) == [[]]
    assert _findings(None, FACTS, None) == [[], [], []]


def test_exchanged_colours_are_told_by_the_others_of_the_set():
    random = np.random.default_rng(4)
    wood = [np.clip(random.normal((150, 110, 75), 12, (60, 80, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    seen = [_unlike(colours={"cam_high": colours.histogram([picture])}) for picture in wood[:3]]
    odd = _unlike(colours={"cam_high": colours.histogram([wood[3][:, :, ::-1]])})
    found = _findings(*seen, odd)
    assert found[:3] == [[], [], []]
    assert [(subject, severity) for subject, severity, _ in found[3]] == [("cam_high", "warning")]
    assert _findings(seen[0], odd) == [[], []]  # of two, nothing says which one is wrong
    far = dataclasses.replace(odd, robot="aloha")
    assert all(subject != "cam_high" for subject, _, _ in _findings(*seen, far)[3])  # another robot, another scene
