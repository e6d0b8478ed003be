"""`rdt demo` as a person runs it: one line of JSON at the end, an episode, a picture, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from rdt_ros.episodes.reader import EpisodeReader

pytestmark = pytest.mark.ros
DOMAIN = "72"
KEYS = {"success", "seed", "steps", "observations_lost", "command_period_ms_p99", "episode", "picture"}


def demo(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rdt_ros.cli", "demo", "--domain", DOMAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def check_artifacts(result: dict, instruction: str) -> None:
    assert result.keys() >= KEYS
    assert result["observations_lost"] == 0
    assert result["command_period_ms_p99"] is None  # lock-step has no period of its own
    with EpisodeReader(result["episode"]) as episode:
        assert episode.complete and len(episode) == result["steps"]
        assert result["steps"] == pytest.approx(result["sim_s"] * episode.robot.control_rate_hz, abs=10)
        assert episode.instruction == instruction
        assert [p.camera for p in episode.observation(0).pictures] == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    picture = cv2.imread(result["picture"])
    assert picture is not None and min(picture.shape[:2]) > 800


def test_the_expert_hands_the_cube_over_through_all_nodes(tmp_path):
    run = demo("--policy", "scripted", "--seed", "5", "--out", str(tmp_path / "out"), "--instruction", "give it")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["success"] is True and result["seed"] == 5
    assert 5 < result["sim_s"] < 12  # it ends soon after success, not when the task's time is up
    check_artifacts(result, "give it")


def test_the_shipped_policy_does_what_it_is_told(tmp_path):
    run = demo("--task", "lift", "--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["success"] is True
    assert "the right arm has lifted the cube and put it back" in run.stdout


@pytest.mark.slow
def test_the_untrained_network_runs_through_the_same_nodes(tmp_path):
    run = demo("--checkpoint", "random:tiny", "--out", str(tmp_path), "--instruction", "give it")
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["success"] is False and result["sim_s"] == pytest.approx(14, abs=0.1)
    check_artifacts(result, "give it")


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    run = demo("--out", str(file / "below"))
    assert run.returncode == 2
    assert run.stderr.startswith("rdt: out: cannot write to ") and len(run.stderr.splitlines()) == 1


def test_a_viewer_without_a_display_is_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    run = demo("--viewer", "--out", str(tmp_path))
    assert (run.returncode, run.stderr) == (2, "rdt: viewer: expected a display (DISPLAY), found none\n")
    assert not list(Path(tmp_path).iterdir())
