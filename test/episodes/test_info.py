"""What `rdt episodes info` says of an episode."""

from __future__ import annotations

import dataclasses
import json
import shutil

import h5py
import numpy as np
import pytest

from rdt_ros.episodes import info
from rdt_ros.episodes.repair import repair
from rdt_ros.errors import InputError


def test_an_episode_is_described_by_its_stamps_and_counts(maker, tmp_path):
    lost = (110, 111)
    observations = [o for o in maker.observations(30, leader=True) if o.stamp_ns // maker.period_ns not in lost]
    maker.write(tmp_path / "e.hdf5", observations)

    found = info.describe(tmp_path / "e.hdf5")

    # 29 ticks have an action; of those 110, 111 are not there, and 109 has none as its leader came with 110
    assert (found.state, found.steps, found.seconds) == ("complete", 26, 28 * 0.04)
    assert found.rate_hz == pytest.approx(25 / (28 * 0.04))
    assert found.counts["steps_lost"] == 3
    assert found.present == ("velocity", "leader", "command") and found.absent == ("effort", "base", "poses")
    assert (found.robot, found.action_source, found.colour_order) == ("sim_aloha", "leader", "rgb")
    camera = found.cameras["cam_high"]
    assert (camera.width, camera.height, camera.jpeg_quality) == (32, 24, 80)
    assert found.size_bytes == (tmp_path / "e.hdf5").stat().st_size
    assert found.instruction in info.sheet(found)


def test_interrupted_and_repaired_are_told_apart(maker, tmp_path):
    writer = maker.write(tmp_path / "e.hdf5", maker.observations(10), finish=False)
    assert info.describe(writer.unfinished).state == "interrupted"
    left = shutil.copy(writer.unfinished, tmp_path / "killed.hdf5.partial")  # nobody writes it any more
    assert info.describe(repair(left)).state == "repaired"


def test_a_file_without_stamps_has_no_rate(maker, tmp_path):
    joints = len(maker.robot.joints)
    with h5py.File(tmp_path / "e.hdf5", "w") as file:
        file["/observations/qpos"] = file["/action"] = np.full((20, joints), 0.03)

    found = info.describe(tmp_path / "e.hdf5", maker.robot)

    assert (found.format, found.steps, found.seconds, found.rate_hz) == (info.OTHER_FORMAT, 20, None, None)
    assert found.counts == {} and found.colour_order == "not recorded"
    with pytest.raises(InputError, match="say which robot"):
        info.describe(tmp_path / "e.hdf5")


def test_totals_are_per_instruction(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(12))
    one = info.describe(tmp_path / "e.hdf5")
    other = dataclasses.replace(one, instruction="fold", seconds=None)

    first, second = info.totals([other, one, one])

    assert (first.instruction, first.episodes, first.steps) == (one.instruction, 2, 20)
    assert first.seconds == pytest.approx(2 * 9 * 0.04)
    assert (second.instruction, second.seconds) == ("fold", 10 / 25)
    assert json.loads(json.dumps(info.as_json([one])))["instructions"][0]["episodes"] == 1
    lines = info.table([one, other]).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["episode", "e.hdf5", "e.hdf5"]
