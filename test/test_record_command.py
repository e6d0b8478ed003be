"""The operator's view: what it shows of a state, what a key does, and that it leaves a terminal as it was."""

from __future__ import annotations

import os
import pty
import termios
from types import SimpleNamespace

import pytest

from rdt_ros.errors import InputError
from rdt_ros.record_command import HELP, KEYS, Keyboard, RecordView, Session, lines, summary

STATE = {
    "state": 1,
    "episode": "/data/towel/episode_0012.hdf5",
    "instruction": "fold the towel",
    "steps": 311,
    "seconds": 12.44,
    "max_seconds": 600.0,
    "rate_hz": 24.92,
    "lost": 2,
    "queued": 0,
    "free_bytes": 71_200_000_000,
    "free_minutes": 102.3,
    "instructions": ["fold the towel", "stack the cups"],
    "targets": [50, 0],
    "recorded": [12, 3],
    "selected": 0,
    "notice": "recording episode_0012.hdf5",
    "warnings": ["2 control ticks without a step"],
}
COMPLAINTS = {
    "camera_sync": "camera/cam_high: frozen: the same picture for 1.2 s",
    "camera_sync: camera/cam_high": "frozen: the same picture for 1.2 s",
    "recorder": "recording; 2 control ticks without a step",
}


def view(complaints=COMPLAINTS, answer="", **changed) -> RecordView:
    return RecordView.of(SimpleNamespace(**{**STATE, **changed}), complaints, "namespace /", answer)


def test_the_view_says_all_that_matters_once():
    assert [text for text, _ in lines(view(answer="recorder/next: refused"))] == [
        "RECORDING  episode_0012.hdf5   fold the towel",
        "12.4 of 600 s   311 steps   24.92 Hz   lost 2",
        "disk 71.2 GB left, 102 min",
        "",
        "> fold the towel: 12 of 50 episodes   [#####...............]",
        "  stack the cups: 3 episodes",
        "",
        "recording episode_0012.hdf5",
        "! 2 control ticks without a step",
        "! camera/cam_high: frozen: the same picture for 1.2 s",
        "recorder/next: refused",
        "",
        HELP,
    ]


def test_the_selected_instruction_and_the_backlog_are_shown():
    shown = [text for text, _ in lines(view(selected=1, queued=40, free_minutes=900.0))]
    assert "> stack the cups: 3 episodes" in shown and "  fold the towel: 12 of 50" in shown[4]
    assert shown[1].endswith("40 wait for the disk") and shown[2] == "disk 71.2 GB left, 15 h"
    assert view(free_minutes=-1.0).disk == "71.2 GB left"


def test_without_a_terminal_it_is_one_line():
    assert summary(view()) == (
        "recording episode_0012.hdf5 | 12.4 of 600 s   311 steps   24.92 Hz   lost 2 | 71.2 GB left, 102 min | "
        "fold the towel: 12 of 50 episodes | ! 2 control ticks without a step | "
        "! camera/cam_high: frozen: the same picture for 1.2 s"
    )


class FakeOperator:
    where = "namespace /, ROS_DOMAIN_ID 5"

    def __init__(self) -> None:
        self.recorder_state, self.complaints, self.called = None, {}, []

    def call(self, service: str, timeout_s: float) -> str:
        self.called.append(service)
        if service.endswith("redo"):
            raise InputError("recorder/redo: refused: nothing to discard")
        return ""


def test_a_recorder_that_falls_silent_is_absent():
    operator, now_s = FakeOperator(), 10.0
    session = Session(operator, lambda: now_s)
    assert lines(session.view())[0][0] == "no recorder is heard in namespace /, ROS_DOMAIN_ID 5"
    operator.recorder_state = SimpleNamespace(**STATE)
    assert session.view().state == "recording"
    now_s += 2
    operator.complaints = {"camera_sync": "waiting for camera/cam_high"}
    assert session.view().warnings[-1] == "camera_sync: waiting for camera/cam_high"
    now_s += 2
    assert session.view().state == "absent"
    assert summary(session.view()).startswith("no recorder is heard")


def test_every_key_calls_its_service_and_q_quits():
    operator = FakeOperator()
    session = Session(operator)
    assert all(session.press(key) for key in [*KEYS, "x", "\x1b"])
    assert operator.called == [f"recorder/{name}" for name in KEYS.values()]
    session.press("r")
    assert session.view().answer == "recorder/redo: refused: nothing to discard"
    session.press("s")
    assert session.view().answer == ""
    assert not session.press("q")


def test_a_terminal_is_left_as_it_was():
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with pytest.raises(RuntimeError), Keyboard(terminal) as keyboard:
        assert keyboard.pressed() == ""
        os.write(master, b"sk")
        assert keyboard.pressed() == "sk"  # without Enter
        raise RuntimeError
    assert termios.tcgetattr(terminal) == before
    os.close(master)
    os.close(terminal)
