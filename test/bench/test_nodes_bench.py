from __future__ import annotations

import json

import pytest

from rdt_ros.bench import nodes
from rdt_ros.errors import InputError

DOMAIN = "69"


@pytest.mark.ros
def test_the_last_line_holds_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    code = nodes.main(["--chunks", "10", "--every", "2", "--domain", DOMAIN])
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (code, figures["policy"]) == (0, "hold")
    assert 0 < figures["chunks"] <= 10
    assert 0 < figures["nodes_ms_p50"] <= figures["nodes_ms_p99"]
    assert 0 < figures["step_ms_p50"] <= figures["step_ms_p99"]


@pytest.mark.ros
def test_a_figure_that_was_not_measured_is_null(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy")
    monkeypatch.setattr(nodes, "START_S", 0.0)
    assert nodes.main(["--domain", DOMAIN]) == 1
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert figures["nodes_ms_p99"] is None and figures["chunks"] is None


@pytest.mark.parametrize("options", [["--chunks", "0"], ["--every", "0"], ["--robot", "agilx"]])
def test_a_wrong_option_is_refused(options: list[str]) -> None:
    with pytest.raises(InputError):
        nodes.main(options)
