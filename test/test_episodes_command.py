"""`rdt episodes info|plot|video|trim` as a person types them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.episodes_command import add_parser
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()


def write_episode(path: Path, *, still: int = 25, moving: int = 10) -> Path:
    """Stands, moves, stands."""
    recording, home = Recording(ROBOT.period_ns, ROBOT.action_offset_steps), np.array(ROBOT.home[-1], np.float32)
    path.parent.mkdir(exist_ok=True)
    writer = EpisodeWriter(path, Header(ROBOT, ROBOT_TEXT, "fold the towel"))
    jpeg = cv2.imencode(".jpg", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()
    for i in range(2 * still + moving + 1):
        stamp_ns = (100 + i) * ROBOT.period_ns
        pose = home + np.float32(0.05) * np.clip(i - still, 0, moving)
        pictures = tuple(Picture(camera.name, stamp_ns, jpeg) for camera in ROBOT.cameras)
        sources = [f"camera/{p.camera}" for p in pictures]
        sources += [f"{kind}/{group.name}" for kind in ("measured", "leader") for group in ROBOT.groups]
        stamps = dict.fromkeys(sources, stamp_ns)
        observation = Observation(
            stamp_ns, ROBOT.name, pictures, ROBOT.joint_names, pose, leader=pose, source_stamps_ns=stamps
        )
        for step in recording.add(observation):
            writer.add(step)
    writer.finish(steps_lost=recording.lost, steps_without_action=recording.waiting)
    return path


def run(*argv: str | Path) -> int:
    """`rdt episodes` with these arguments."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["episodes", *map(str, argv)])
    return args.run(args)


def length(path: Path) -> int:
    with EpisodeReader(path) as episode:
        return len(episode)


def test_info_of_one_episode_is_a_sheet_and_of_a_folder_a_table(tmp_path, capsys):
    one = write_episode(tmp_path / "monday" / "e.hdf5")
    write_episode(tmp_path / "tuesday" / "e.hdf5")

    assert run("info", one) == 0
    sheet = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in ("steps 60 in 2.36 s", "instruction fold the towel", "cam_high 32x24, 25.00 Hz, JPEG quality 95"):
        assert line in sheet

    assert run("info", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["monday/e.hdf5", "tuesday/e.hdf5"]
    assert lines[-1].split()[:5] == ["fold", "the", "towel", "2", "120"]

    assert run("info", tmp_path, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [e["steps"] for e in result["episodes"]] == [60, 60] and result["instructions"][0]["episodes"] == 2


def test_a_file_that_cannot_be_read_is_one_line_and_does_not_hide_the_others(tmp_path, capsys):
    write_episode(tmp_path / "b.hdf5")
    (tmp_path / "a.hdf5").write_bytes(b"nothing")
    assert run("info", tmp_path) == 2
    printed = capsys.readouterr()
    assert "b.hdf5" in printed.out
    assert printed.err.startswith(f"rdt: {tmp_path / 'a.hdf5'}: no readable HDF5 episode")
    assert len(printed.err.splitlines()) == 1


def test_plot_and_video_stand_beside_the_episode_or_where_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rdt_ros.episodes.picture.draw_episode", lambda episode, path: path.write_text("new"))
    monkeypatch.setattr("rdt_ros.episodes.video.write_video", lambda episode, path, progress: path.write_text("film"))
    one, other = write_episode(tmp_path / "a" / "e.hdf5"), write_episode(tmp_path / "b" / "e.hdf5")

    assert run("plot", one) == 0 and (tmp_path / "a" / "e.png").read_text() == "new"
    (tmp_path / "a" / "e.png").write_text("old")
    assert run("plot", one) == 2 and (tmp_path / "a" / "e.png").read_text() == "old"
    assert "e.png: exists already: give --overwrite" in capsys.readouterr().err
    assert run("plot", one, "--overwrite") == 0 and (tmp_path / "a" / "e.png").read_text() == "new"

    assert run("video", one, other, "--out", tmp_path / "films") == 0
    assert sorted(p.name for p in (tmp_path / "films").iterdir()) == ["a_e.mp4", "b_e.mp4"]
    assert run("video", one, "--out", tmp_path / "films" / "one.mp4") == 0
    assert (tmp_path / "films" / "one.mp4").read_text() == "film"


def test_trim_only_tells_until_it_is_told_where_to(tmp_path, capsys):
    path = write_episode(tmp_path / "e.hdf5")
    before = path.read_bytes()

    assert run("trim", path) == 0
    # the leader moves at tick 26, so the action of step 25 does; step 34 is the last one before the final pose; 12
    # periods are within half a second
    told = f"{path}: 34 of 60 steps stay: 13 (0.5 s) cut off the head, 13 (0.5 s) off the tail"
    assert capsys.readouterr().out == f"{told}; nothing written: give --out or --in-place\n"
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

    assert run("trim", path, "--out", tmp_path / "cut.hdf5") == 0
    assert capsys.readouterr().out == f"{told}; {tmp_path / 'cut.hdf5'}\n"
    assert length(tmp_path / "cut.hdf5") == 34 and path.read_bytes() == before
    assert run("trim", path, "--out", tmp_path / "cut.hdf5") == 2  # exists

    assert run("trim", path, "--in-place", "--from", "0.4s", "--to", "50") == 0
    assert length(path) == 40
    capsys.readouterr()
    assert run("trim", path, "--in-place", "--margin", "9") == 0
    assert capsys.readouterr().out == f"{path}: nothing to cut off\n" and length(path) == 40


def test_trim_in_two_places_and_out_of_range_is_one_line(tmp_path):
    path = write_episode(tmp_path / "e.hdf5")
    with pytest.raises(InputError, match="expected --out or --in-place, found both"):
        run("trim", path, "--in-place", "--out", tmp_path / "x.hdf5")
    with pytest.raises(InputError, match=r"trim.margin_s: expected at least 0 s, found -1.0"):
        run("trim", path, "--margin", "-1")


def test_a_trimmed_still_episode_is_refused(tmp_path, capsys):
    path = write_episode(tmp_path / "e.hdf5", moving=0)
    assert run("trim", path) == 2
    assert capsys.readouterr().err == f"rdt: {path}: expected motion beyond 0.02 rad, found none: all of it is still\n"
