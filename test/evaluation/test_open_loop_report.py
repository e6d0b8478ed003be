"""The table and the picture of an open-loop evaluation."""

from __future__ import annotations

import argparse
import json

import cv2
import numpy as np
import pytest

from rdt_ros import eval_command, jpeg
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.evaluation.open_loop_report import draw_report, open_loop_report
from rdt_ros.policy.interface import joint_chunk
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
SHIFT = np.linspace(0.01, 0.14, 14)


class Shifted:
    """Repeats the recorded actions, each joint off by a constant; the stamp says where it is."""

    robot = ROBOT

    def __init__(self, actions):
        self.actions = actions

    def reset(self):
        """Nothing to forget."""

    def step(self, history, *, instruction=None, committed=None):
        step = history[-1].stamp_ns // ROBOT.period_ns - 1
        rows = np.full((64, 14), 7.0, np.float32)
        known = self.actions[step : step + 64]
        rows[: len(known)] = known + SHIFT
        return joint_chunk(ROBOT, history[-1], rows, instruction)


@pytest.fixture
def episode(tmp_path):
    rng = np.random.default_rng(1)
    shown = jpeg.encode(np.zeros((12, 16, 3), np.uint8))
    recording = Recording(ROBOT.period_ns, ROBOT.action_offset_steps)
    path = tmp_path / "set" / "e0.hdf5"
    path.parent.mkdir()
    writer = EpisodeWriter(path, Header(ROBOT, robot_path("sim_aloha").read_text(), "hand it over"))
    actions = []
    for i, joints in enumerate(rng.normal(0, 0.05, (41, 14)).cumsum(0).astype(np.float32)):
        stamp_ns = (i + 1) * ROBOT.period_ns
        seen = tuple(Picture(camera.name, stamp_ns, shown) for camera in ROBOT.cameras)
        for step in recording.add(Observation(stamp_ns, ROBOT.name, seen, ROBOT.joint_names, joints, leader=joints)):
            writer.add(step)
            actions.append(step.action)
    writer.finish()
    return path, np.array(actions)


def test_errors_are_told_by_joint(episode, tmp_path):
    path, actions = episode
    report = open_loop_report(Shifted(actions), ROBOT, [path], instruction=None, chunks=3)
    for (name, values), shift in zip(report.figures.items(), SHIFT, strict=True):
        assert name in ROBOT.joint_names and values == pytest.approx((shift,) * 3, rel=1e-3)
    table = report.table().splitlines()
    assert len(table) == 1 + 14 + 1 and table[7].endswith("opening") and "e0.hdf5" in table[-1]
    draw_report(report, tmp_path / "picture.png")
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 5


def test_what_cannot_be_compared_is_refused(episode):
    path, actions = episode
    with pytest.raises(InputError, match="expected an episode of agilex, found one of sim_aloha"):
        other = load_robot("agilex")
        open_loop_report(Shifted(actions), other, [path], instruction=None, chunks=3)
    with pytest.raises(InputError, match="expected episodes, found none"):
        open_loop_report(Shifted(actions), ROBOT, [], instruction=None, chunks=3)


def test_the_command_takes_any_checkpoint(episode, tmp_path, capsys):
    path, _ = episode
    parser = argparse.ArgumentParser()
    eval_command.add_parser(parser.add_subparsers())
    picture = tmp_path / "p.png"
    words = ["eval", "random:tiny", str(path.parent), "--robot", "sim_aloha", "--chunks=2", f"--picture={picture}"]
    args = parser.parse_args([*words, "--device=cpu"])
    assert args.run(args) == 0 and picture.is_file()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["episodes"] == 1 and len(found["rms"]) == 14
    with pytest.raises(InputError, match="expected episodes"):
        (tmp_path / "empty").mkdir()
        args = parser.parse_args(["eval", "random:tiny", str(tmp_path / "empty")])
        args.run(args)
