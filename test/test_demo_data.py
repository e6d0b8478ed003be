"""`rdt demo-data` as a command: what it refuses, what it leaves alone, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rdt_ros import cli
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.robot.description import robot_path


@pytest.fixture
def robot(tmp_path):
    """The robot file with one small camera, which is drawn fast."""
    path = tmp_path / "sim_aloha_small.yaml"
    lines = robot_path("sim_aloha_small").read_text().replace("width: 320, height: 240", "width: 48, height: 36")
    path.write_text("".join(line for line in lines.splitlines(True) if "role: external" in line or "role:" not in line))
    return str(path)


def figures(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def stored(folder):
    """Name, instruction, actions and pictures of every episode."""
    found = {}
    for path in sorted(folder.glob("*.hdf5")):
        with EpisodeReader(path) as episode:
            pictures = [p.jpeg for o in episode.observations() for p in o.pictures]
            found[path.name] = (episode.instruction, episode.actions.tobytes(), pictures)
    return found


def test_an_episode_is_recorded_and_checked_and_what_is_there_stays(robot, tmp_path, capsys):
    out = tmp_path / "set"
    words = ["demo-data", "--episodes=1", f"--out={out}", f"--robot={robot}", "--seed=4", "--jobs=2"]
    words += ["--tasks", "lift", "--undisturbed"]
    assert cli.main(words) == 0
    made = figures(capsys)
    assert (made["episodes"], made["present"], made["tasks"], made["steps"]) == (1, 0, {"lift": 1}, 255)
    assert cli.main(["episodes", "check", str(out)]) == 0
    assert cli.main(["episodes", "info", str(out)]) == 0
    assert "complete" in capsys.readouterr().out
    (path,) = out.iterdir()
    written = path.stat()
    assert cli.main(words) == 0
    assert figures(capsys)["present"] == 1 and (path.name, path.stat()) == ("episode_000004.hdf5", written)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--episodes=0"], "rdt: --episodes: expected at least 1, found 0"),
        (["--episodes=1", "--jobs=0"], "rdt: --jobs: expected at least 1, found 0"),
        (["--episodes=1", "--seed=-1"], "rdt: --seed: expected at least 0, found -1"),
        (["--episodes=1", "--tasks", "fold"], "rdt: task: expected one of hand_over, lift, found 'fold'"),
        (["--episodes=1", "--task-share", "1"], "rdt: task share: expected 2 shares, none negative and not all 0"),
        (["--episodes=1", "--robot=nobody"], "rdt: robot: expected one of agilex"),
        (["--episodes=1", "--robot=agilex", "--jobs=1"], "rdt: robot agilex: the simulator has no joint"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_argument_is_one_line_and_code_2(words, line, tmp_path, capsys):
    assert cli.main(["demo-data", f"--out={tmp_path / 'set'}", *words]) == 2
    (error,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("rdt:")]
    assert error.startswith(line)
    assert not list(tmp_path.rglob("*.hdf5*"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["demo-data", "--episodes=1", f"--out={tmp_path / 'file' / 'set'}"]) == 2
    assert capsys.readouterr().err.startswith("rdt: out: cannot write to ")


@pytest.mark.slow
def test_any_number_of_jobs_makes_the_same_set(robot, tmp_path, capsys):
    words = ["demo-data", "--episodes=6", f"--robot={robot}", "--seed=20"]
    results = {}
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        assert cli.main([*words, f"--out={out}", f"--jobs={jobs}"]) == 0
        results[jobs] = {key: value for key, value in figures(capsys).items() if key != "wall_s"}
    assert results[1] == results[2] and results[1]["episodes"] == 6
    assert stored(tmp_path / "1") == stored(tmp_path / "2")
    assert cli.main(["episodes", "check", str(tmp_path / "1")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["terminal", "terminated"])
def test_it_ends_at_once_and_goes_on_with_the_same_command(number, robot, tmp_path):
    out = tmp_path / "set"
    command = [sys.executable, "-m", "rdt_ros.cli", "demo-data", f"--out={out}", f"--robot={robot}", "--jobs=2"]
    process = subprocess.Popen(
        [*command, "--episodes=100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("*.hdf5")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # a terminal signals the whole group
    text, _ = process.communicate(timeout=60)  # returns once nobody holds the pipe: no process is left
    assert process.returncode == 130 and "Traceback" not in text, text
    made = sorted(path.name for path in out.iterdir())
    assert made and all(name.endswith(".hdf5") for name in made)
    again = subprocess.run([*command, "--episodes=6"], capture_output=True, text=True, check=True)
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["episodes"] + result["present"] == 6 and result["present"] > 0
