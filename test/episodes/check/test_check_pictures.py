"""Cameras: real ones and simulated ones, and colours."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import yaml

from rdt_ros.episodes.check import colours
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.robot.description import parse_robot


def _of(verdict, kind: str):
    return [item for item in verdict.findings if item.kind == kind]


@pytest.fixture
def simulated(clean):
    """The same robot with cameras whose pictures of a still scene are equal."""
    text = clean.text.replace(", frozen_after_s: 0.5", "")
    return dataclasses.replace(clean.copy(), text=text, robot=parse_robot(yaml.safe_load(text), "robot.yaml"))


def test_a_frozen_camera_is_named_with_its_time(clean, judged):
    take = clean.copy()
    take.jpegs["cam_high"][50:80] = [take.jpegs["cam_high"][50]] * 30
    (found,) = _of(judged(take), "frozen")
    assert (found.subject, found.step, found.severity) == ("cam_high", 50, "error")
    assert found.found == "30 equal ones, 1.16 s"


def test_a_simulated_camera_may_show_a_still_scene_twice(simulated, judged):
    standing = slice(40, 70)
    simulated.measured[standing] = simulated.measured[40]
    for frames in simulated.jpegs.values():
        frames[standing] = [frames[40]] * 30
    verdict = judged(simulated)
    assert not _of(verdict, "frozen") and not _of(verdict, "duplicates")


def test_a_simulated_camera_that_misses_motion_is_frozen(simulated, judged):
    simulated.measured[40:70, 1] = simulated.measured[40, 1] + np.linspace(0, 0.3, 30)
    frames = simulated.jpegs["cam_left_wrist"]
    frames[40:70] = [frames[40]] * 30
    assert [item.subject for item in _of(judged(simulated), "frozen")] == ["cam_left_wrist"]


def test_a_wrist_camera_need_not_show_the_other_arm(simulated, judged):
    left = slice(0, 7)
    simulated.measured[:, left] = simulated.measured[40, left]
    simulated.measured[40:70, 8] = simulated.measured[40, 8] + np.linspace(0, 0.3, 30)
    frames = simulated.jpegs["cam_left_wrist"]
    frames[40:70] = [frames[40]] * 30
    assert not _of(judged(simulated), "frozen")


def test_one_black_picture_is_a_warning(clean, judged):
    take = clean.copy()
    black = take.jpegs["cam_high"]
    black[33] = cv2.imencode(".jpg", np.zeros((120, 160, 3), np.uint8))[1].tobytes()
    (found,) = _of(judged(take), "dark")
    assert (found.subject, found.step, found.severity) == ("cam_high", 33, "warning")


def test_histograms_of_exchanged_colours_are_transposed():
    picture = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    picture[:, :, 0] |= 128
    one, other = colours.histogram([picture]), colours.histogram([picture[:, :, ::-1]])
    assert np.allclose(one.T, other, atol=1e-6)
    assert colours.exchange_gain(other, [one, one], Thresholds()) > 0.3
    assert colours.exchange_gain(one, [one, one], Thresholds()) is None


def test_gray_pictures_have_no_colours():
    assert colours.histogram([np.full((30, 40, 3), 90, np.uint8)]) is None
    assert colours.histogram([]) is None


def test_a_view_of_its_own_is_not_called_exchanged():
    random = np.random.default_rng(6)
    wood = [np.clip(random.normal((150, 110, 75), 10, (60, 80, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    blue = np.clip(random.normal((20, 40, 200), 10, (60, 80, 3)), 0, 255).astype(np.uint8)
    others = [colours.histogram([picture]) for picture in wood]
    assert colours.exchange_gain(colours.histogram([blue]), others, Thresholds()) is None
    assert colours.exchange_gain(colours.histogram([wood[0][:, :, ::-1]]), others[1:], Thresholds()) > 0.5
