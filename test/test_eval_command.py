"""`rdt eval --closed-loop` and `--compare` as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from rdt_ros import cli
from rdt_ros.evaluation.success import EpisodeResult, append_result, read_results

KEYS = {
    "episodes", "successes", "success_rate", "interval_95", "task", "instruction", "seeds", "mode", "stages",
    "step_ms_p50", "step_ms_p99", "wall_s",
}  # fmt: skip
SCRIPTED = ("--closed-loop", "--in-process", "--policy", "scripted", "--robot", "sim_aloha_small")


def last_line(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def test_an_evaluation_leaves_results_a_sheet_and_films(tmp_path, capsys):
    pytest.importorskip("av")
    out = tmp_path / "out"
    assert cli.main(["eval", *SCRIPTED, "--seeds", "3-4", "--instruction", "give it", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = last_line(printed)
    assert found.keys() >= KEYS and "2 of 2 succeeded: 100.0%, 95 % interval 34.2% to 100.0%" in printed
    assert (found["episodes"], found["successes"], found["mode"], found["seeds"]) == (2, 2, "in-process", "3-4")
    assert (found["task"], found["instruction"], found["stages"]) == ("hand_over", "give it", {})
    results = read_results(out / "results.jsonl")
    assert list(results) == [3, 4] and all(result.instruction == "give it" for result in results.values())
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "sheet.png", "success_3.mp4"]
    assert cv2.imread(str(out / "sheet.png")).shape[1] > 1900


def test_failures_are_tabulated_and_pictures_are_not_made_where_none_are_wanted(tmp_path, capsys):
    untrained = ["random:tiny", "--closed-loop", "--in-process", "--device", "cpu", "--robot", "sim_aloha_small"]
    chosen = ["--seeds=3", "--noise-seed=1", "--replan-rows=64", "--videos=0"]
    arguments = [*untrained, *chosen, "--out", str(tmp_path)]
    assert cli.main(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    assert last_line(printed)["stages"] == {"never touched": 1} and "     1  never touched" in printed
    assert last_line(printed)["step_ms_p99"] >= last_line(printed)["step_ms_p50"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_without_ros_it_runs_within_one_process(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["rclpy", "rdt_msgs", "sensor_msgs", "torch"]))
from rdt_ros import cli
sys.exit(cli.main(["eval", *{SCRIPTED}, "--seeds", "3", "--videos", "0", "--out", {str(tmp_path)!r}]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert last_line(run.stdout)["successes"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--closed-loop"], "eval: expected a checkpoint, found none"),
        ([], "eval: expected a checkpoint, found none"),
        (["random:tiny"], "eval: expected episodes, or --closed-loop, found neither"),
        (["random:tiny", "e.hdf5", "--closed-loop"], "eval: expected no recorded episodes with --closed-loop"),
        ([*SCRIPTED, "--seeds", "9-3"], "seeds: expected A-B with A not above B, found '9-3'"),
        ([*SCRIPTED, "--seeds", "-3"], "seeds: expected A-B with A not above B, found '-3'"),
        ([*SCRIPTED, "--task", "juggle"], "task: expected one of hand_over, lift, found 'juggle'"),
        ([*SCRIPTED, "--realtime"], "eval: expected --in-process or --realtime, found both"),
        ([*SCRIPTED, "--joining", "realtime_chunking"], "joining: expected crossfade or switch in lock-step"),
        ([*SCRIPTED, "--replan-rows", "65"], "replan-rows: expected 1 to 64, found 65"),
        (["--closed-loop", "--policy", "scripted", "--jobs", "2"], "jobs: expected 1, or more with --in-process"),
        ([*SCRIPTED, "--latency-ms", "50"], "latency: expected a multiple of the control period"),
        (["--closed-loop", "--policy", "scripted", "--mask-history"], "eval: masks are made around the policy"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rdt: {message}") and len(error.splitlines()) == 1


def test_results_are_not_mixed_with_earlier_ones(tmp_path, capsys):
    (tmp_path / "results.jsonl").write_text("one\n")
    assert cli.main(["eval", *SCRIPTED, "--out", str(tmp_path)]) == 2
    assert "expected a folder without results, found" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["eval", *SCRIPTED, "--out", str(file / "below")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_two_results_are_compared(tmp_path, capsys):
    def write(name: str, successes: list[bool]) -> str:
        path: Path = tmp_path / name
        for seed, success in enumerate(successes):
            stage = "success" if success else "touched"
            append_result(path, EpisodeResult(seed, "lift", "", success, None, stage, False, "", 1.0))
        return str(path)

    first, second = write("a.jsonl", [True] * 9 + [False]), write("b.jsonl", [False] * 8 + [True] * 2)
    assert cli.main(["eval", "--compare", first, second]) == 0
    printed = capsys.readouterr().out
    assert "difference -70.0%; only the first succeeded 8 times, only the second 1 times: p = 0.0391" in printed
    assert last_line(printed)["mcnemar_p"] == pytest.approx(0.03906, abs=1e-5)
