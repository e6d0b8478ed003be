"""The executor's states and every transition between them; docs/executor.md shows the same table."""

from __future__ import annotations

from enum import Enum, IntEnum


class State(IntEnum):
    """Numbers are those of rdt_msgs/ExecutorState."""

    INACTIVE = 0
    HOMING = 1
    RUNNING = 2
    HOLDING = 3
    STOPPED = 4
    FAULT = 5


class Event(Enum):
    """What can change the state."""

    ENABLE = "enable"
    DISABLE = "disable"
    HOME = "home"
    SOFTWARE_STOP = "software stop"
    RESET_STOP = "reset_stop"
    CHUNK = "chunk placed"
    END = "end of the plan"
    FAILURE = "failure"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.INACTIVE, Event.ENABLE): State.HOLDING,
    (State.FAULT, Event.ENABLE): State.HOLDING,
    (State.HOLDING, Event.ENABLE): State.HOLDING,  # after a hold that took too long
    (State.HOLDING, Event.CHUNK): State.RUNNING,
    (State.RUNNING, Event.CHUNK): State.RUNNING,
    (State.RUNNING, Event.END): State.HOLDING,
    (State.HOLDING, Event.HOME): State.HOMING,
    (State.RUNNING, Event.HOME): State.HOMING,
    (State.HOMING, Event.END): State.HOLDING,
    (State.HOLDING, Event.FAILURE): State.FAULT,
    (State.RUNNING, Event.FAILURE): State.FAULT,
    (State.HOMING, Event.FAILURE): State.FAULT,
    (State.HOLDING, Event.DISABLE): State.INACTIVE,
    (State.RUNNING, Event.DISABLE): State.INACTIVE,
    (State.HOMING, Event.DISABLE): State.INACTIVE,
    (State.FAULT, Event.DISABLE): State.INACTIVE,
    (State.STOPPED, Event.RESET_STOP): State.INACTIVE,
    **{(state, Event.SOFTWARE_STOP): State.STOPPED for state in State},
}
