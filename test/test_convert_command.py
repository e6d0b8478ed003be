"""`rdt episodes convert` and `instruct` as a user meets them."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from rdt_ros import convert_command, jpeg
from rdt_ros.episodes.convert import FORMATS
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")


def command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    convert_command.add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    return args.run(args)


@pytest.fixture
def folder(tmp_path):
    """Two episodes of a few steps and one file that is none."""
    picture = jpeg.encode(np.full((24, 32, 3), 90, np.uint8))
    text = robot_path("sim_aloha").read_text()
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        writer = EpisodeWriter(tmp_path / "in" / f"{name}.hdf5", Header(ROBOT, text, "fold"))
        recording = Recording(ROBOT.period_ns, ROBOT.action_offset_steps)
        for tick in range(1, 7):
            ns = tick * ROBOT.period_ns
            joints = np.full(14, 0.1 * tick, np.float32)
            pictures = tuple(Picture(camera.name, ns, picture) for camera in ROBOT.cameras)
            observation = Observation(ns, ROBOT.name, pictures, ROBOT.joint_names, joints, command=joints)
            for step in recording.add(observation):
                writer.add(step)
        writer.finish()
    (tmp_path / "in" / "c.hdf5").write_bytes(b"none")
    return tmp_path / "in"


def test_every_format_of_the_converter_is_offered():
    assert set(convert_command.FORMATS) == {*FORMATS, "lerobot"}


def test_a_bad_episode_does_not_keep_the_others_from_being_converted(folder, tmp_path, capsys):
    with pytest.raises(InputError, match="convert: expected 3 sources that can be converted, 1 could not"):
        command("convert", folder, "--to", "aloha", "--out", tmp_path / "out")
    out, err = capsys.readouterr()
    assert f"{tmp_path}/out/a.hdf5: 4 steps" in out and (tmp_path / "out" / "b.hdf5").exists()
    assert "c.hdf5: no readable HDF5 episode" in err and "Traceback" not in err


def test_re_encoding_is_said(folder, tmp_path, capsys):
    command("convert", folder / "a.hdf5", "--to", "aloha", "--pictures", "padded", "--out", tmp_path / "out")
    assert "4 steps; pictures were decoded and encoded again" in capsys.readouterr().out


def test_lerobot_needs_its_environment(folder, tmp_path, capfd):
    (folder / "c.hdf5").unlink()
    assert command("convert", folder, "--to", "lerobot", "--out", tmp_path / "out") == 2
    assert "rdt: lerobot: expected an environment with lerobot[dataset]==" in capfd.readouterr().err
    with pytest.raises(InputError, match="--lerobot-python none: No such file"):
        command("convert", folder, "--to", "lerobot", "--out", tmp_path / "out", "--lerobot-python", "none")


def test_instructions_are_written_edited_and_shown(folder, capsys):
    episode = folder / "a.hdf5"
    command("instruct", episode)
    assert capsys.readouterr().out == f"{episode}:\n  original: fold\n"
    command("instruct", episode, "--simplified", "f", "--expanded", "fold it", "fold it well")
    command("instruct", episode, "--original", "Fold.", "--expanded", "fold it neatly")
    capsys.readouterr()
    command("instruct", episode)
    expected = "  original: Fold.\n  simplified: f\n  expanded: fold it neatly\n"
    assert capsys.readouterr().out == f"{folder / 'a.instructions.json'}:\n{expected}"
    command("instruct", folder, "--original", "all of them")
    assert (folder / "expanded_instruction_gpt-4-turbo.json").exists()
    with pytest.raises(InputError, match="no such episode or folder"):
        command("instruct", folder / "x.hdf5")
