"""Predicted against recorded joints, as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from rdt_ros.episodes.picture import SMALLEST_SPAN
from rdt_ros.robot.description import load_robot
from rdt_ros.training.sampling_error import Curves, draw_curves

ROBOT = load_robot("sim_aloha")


def test_a_joint_that_is_met_to_a_hair_looks_like_it(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_args, **_kwargs: figures.append(figure))
    recorded = np.zeros((64, len(ROBOT.joints)))
    recorded[:, 1] = np.linspace(0, 1, 64)
    samples = [Curves("day/e0.hdf5 step 3", ROBOT, recorded + 1e-5, recorded)] * 2
    draw_curves(samples, tmp_path / "curves.png", "held_out at step 7")
    (figure,) = figures
    spans = [float(np.ptp(axis.get_ylim())) for axis in figure.axes]
    assert len(spans) == 2 * len(ROBOT.joints) and figure.axes[0].get_title() == "e0.hdf5 step 3"
    expected = [1.1 if gripper or joint == 1 else SMALLEST_SPAN for joint, gripper in enumerate(ROBOT.is_gripper)]
    assert spans == pytest.approx([span for span in expected for _ in samples], abs=1e-3)
    assert [line.get_label() for line in figure.axes[0].lines] == ["recorded", "predicted"]
