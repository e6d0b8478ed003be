"""`rdt stats` as it is typed."""

from __future__ import annotations

import argparse
import json

import h5py
import numpy as np
import pytest

from rdt_ros import stats_command
from rdt_ros.errors import InputError

STEPS = 130


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "towels").mkdir()
    with h5py.File(tmp_path / "towels" / "e.hdf5", "w") as file:
        file["/observations/qpos"] = np.tile(np.linspace(0, 1, STEPS, dtype=np.float32)[:, None], 14)
        file["/action"], file["/instruction"] = np.zeros((STEPS, 14)), "fold"
    return tmp_path / "towels"


def rdt(*arguments) -> int:
    parser = argparse.ArgumentParser()
    stats_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["stats", *map(str, arguments)])
    return args.run(args)


def test_statistics_are_printed_and_added_to_the_file(folder, tmp_path, capsys):
    out = tmp_path / "statistics.json"
    assert rdt(folder, f"again={folder}", "--robot", "agilex", "--out", out) == 0
    data = json.loads(out.read_text())
    assert list(data) == ["towels", "again"] and data["again"]["dataset_name"] == "again"
    assert data["towels"]["state_mean"][50] == pytest.approx(0.5, abs=0.01)  # the left arm's first joint
    assert data["towels"]["state_max"][60] == pytest.approx(1 / 4.7908)  # its gripper, from the robot's units
    printed = capsys.readouterr().out
    assert "towels: agilex, 1 episodes" in printed and "left_gripper" in printed


def test_mistakes_are_one_line(folder, tmp_path):
    with pytest.raises(InputError, match="e.hdf5: .*which robot"):
        rdt(folder)
    with pytest.raises(InputError, match="expected a usable episode among 1.*at least 200 steps, found 130"):
        rdt(folder, "--robot", "agilex", "--min-steps", "200")
    with pytest.raises(InputError, match="min_steps: expected at least 1, found 0"):
        rdt(folder, "--min-steps", "0")
    with pytest.raises(InputError, match="expected a folder of episodes, found none"):
        rdt(tmp_path / "nothing")
