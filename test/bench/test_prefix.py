from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdt_ros.bench import prefix
from rdt_ros.bench.dataset import record
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError


def test_the_last_line_holds_the_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """After a training of a few steps; how good the seam becomes is a figure of the whole one."""
    monkeypatch.setattr(prefix, "TRAINING_SCENES", 2)
    monkeypatch.setattr(prefix, "HELD_OUT_SCENES", 1)

    assert prefix.main(["--steps", "30"]) == 0

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["prefix_max_error_rad"] == 0
    assert figures["pairs"] == 10
    assert figures["rms_training_error"] < 2
    for way in ("switch", "realtime_chunking"):
        assert all(0 < figures[way][key]["median"] <= figures[way][key]["max"] for key in ("jump_rad", "seam_rad"))
    assert figures["switch"]["change_rad"]["max"] == 0 < figures["realtime_chunking"]["change_rad"]["max"]
    assert figures["switch"]["own_step_rad"] == figures["realtime_chunking"]["own_step_rad"]


def test_a_trained_policy_answers_on_recorded_episodes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """An untrained one here, on the synthetic episode of another bench."""
    record(tmp_path)
    episode = tmp_path / "episode.hdf5"

    assert prefix.main(["--checkpoint", "random:tiny", "--episodes", str(episode)]) == 0

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["checkpoint"] == "random:tiny" and figures["prefix_max_error_rad"] == 0
    with EpisodeReader(episode) as read:
        assert figures["pairs"] == len(range(1, len(read) - prefix.NEW_AFTER, prefix.START_EVERY))
    assert 0 < figures["realtime_chunking"]["seam_rad"]["median"] < figures["switch"]["seam_rad"]["median"]


def test_without_episodes_it_says_so():
    with pytest.raises(InputError, match="episodes: expected at least one, found none"):
        prefix.main(["--checkpoint", "random:tiny"])
