"""`rdt bench recorder` at its shortest: the figures are there, and what they say holds."""

from __future__ import annotations

import json

import pytest

from rdt_ros.bench import recorder
from rdt_ros.errors import InputError

DOMAIN = "79"


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ros
def test_what_is_sent_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    recorder.main(["--seconds", "3", "--domain", DOMAIN, "--slow-disk"])
    figures = last_line(capsys)
    assert figures["stored"] > 30 and figures["sent"] == figures["stored"] + figures["lost"]
    assert figures["pictures"] == 3 * figures["stored"] and figures["pictures_damaged"] == figures["dropped"] == 0
    assert figures["vectors"] == ["measured", "velocity", "effort", "leader", "base", "left_eef"]
    assert figures["cpu_percent"] > 0 and figures["peak_mb"] > 50 and figures["fsyncs"] >= 8


@pytest.mark.slow
@pytest.mark.ros
def test_a_kill_leaves_a_file_that_can_be_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    assert recorder.main(["--kill", "2", "--domain", DOMAIN]) == 0
    figures = last_line(capsys)
    assert (figures["kills"], figures["not_repaired"]) == (2, 0)
    assert figures["loss_s_max"] > 0 and figures["fsyncs"] >= 6 and figures["lost"] is None


@pytest.mark.slow
@pytest.mark.ros
def test_a_full_disk_leaves_what_was_durable(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    assert recorder.main(["--full-disk", "--domain", DOMAIN]) == 0
    figures = last_line(capsys)
    assert figures["unwatched"]["state"] == "fault" and "could not write" in figures["unwatched"]["said"][0]
    assert figures["unwatched"]["steps"] > 20


@pytest.mark.slow
@pytest.mark.ros
def test_a_camera_that_fails_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy")
    assert recorder.main(["--camera-faults", "--domain", DOMAIN]) == 0
    figures = last_line(capsys)["cameras"]
    assert all(found["said"] and found["named_s"] is not None for found in figures.values())
    assert figures["unplugged"]["file"]["steps_since"] <= 2
    assert any("no observation for" in text for text in figures["unplugged"]["recorder_said"])
    assert figures["frozen"]["file"]["same_picture_steps"] > 50
    assert figures["slow"]["file"]["camera_rate_hz"] <= 11


@pytest.mark.parametrize("options", [["--seconds", "0"], ["--robot", "agilx"]])
def test_a_wrong_option_is_refused(options: list[str]) -> None:
    with pytest.raises(InputError):
        recorder.main(options)
