from __future__ import annotations

import json

import pytest

from rdt_ros.bench import prefix


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
