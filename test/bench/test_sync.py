from __future__ import annotations

import json

import pytest

from rdt_ros.bench import sync
from rdt_ros.errors import InputError

DOMAIN = "157"


@pytest.mark.ros
def test_the_last_line_holds_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    code = sync.main(["--seconds", "1", "--transport", "compressed", "--domain", DOMAIN])
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == 0
    assert (figures["sent"], figures["received"] + figures["lost"]) == (25, 25)
    assert figures["received"] > 12
    assert 0 < figures["latency_ms_p50"] <= figures["latency_ms_p99"] < 1000
    assert 110 < figures["kb_per_picture"] < 150
    assert all(figures[f"cpu_percent_{name}"] > 0 for name in ("publisher", "camera_sync", "receiver"))
    assert figures["compressed"]["sent"] == figures["sent"]


@pytest.mark.ros
def test_a_figure_that_was_not_measured_is_null(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "START_S", 0.0)
    assert sync.main(["--seconds", "1", "--transport", "raw", "--domain", DOMAIN]) == 1
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert figures["latency_ms_p99"] is None and figures["cpu_percent_camera_sync"] is None
    assert figures["lost"] is None


@pytest.mark.parametrize("options", [["--seconds", "0"], ["--robot", "agilx"]])
def test_a_wrong_option_is_refused(options: list[str]) -> None:
    with pytest.raises(InputError):
        sync.main(options)
