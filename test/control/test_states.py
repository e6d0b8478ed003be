from __future__ import annotations

from pathlib import Path

import pytest

from rdt_ros.control.states import TRANSITIONS, Event, State

PAGE = Path(__file__).parents[2] / "docs" / "executor.md"


def table(title: str) -> list[list[str]]:
    """Cells of the table under a heading of the page."""
    section = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_lists_exactly_the_transitions_of_the_code():
    listed = [(State[a.upper()], Event(event), State[b.upper()]) for a, event, b in table("Transitions")]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {(a, event, b) for (a, event), b in TRANSITIONS.items()}


def test_the_page_explains_every_state():
    assert sorted(row[0].strip("`") for row in table("States")) == sorted(state.name.lower() for state in State)


def test_states_have_the_numbers_of_the_message():
    lines = (PAGE.parents[1] / "msg" / "msg" / "ExecutorState.msg").read_text().splitlines()
    constants = dict(line.split()[1].split("=") for line in lines if line.startswith("uint8 ") and "=" in line)
    assert {name: int(value) for name, value in constants.items()} == {state.name: state for state in State}


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_stopped(state):
    assert TRANSITIONS[state, Event.SOFTWARE_STOP] == State.STOPPED
