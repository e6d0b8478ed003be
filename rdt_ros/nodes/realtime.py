"""What lets a thread of a Python process wake on time."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

SWITCH_S = 1e-4  # after which a thread that wants the interpreter gets it; by default 5 ms
_PR_SET_TIMERSLACK = 29


def calm_interpreter() -> None:
    """Lets threads take turns quickly, and takes all that exists now out of garbage collection (tens of ms a time)."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()


def fine_timers() -> None:
    """Linux: the calling thread's sleeps end when asked for, not up to 50 us later (prctl(2), PR_SET_TIMERSLACK)."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def schedule(priority: int) -> str:
    """Linux: SCHED_FIFO for the calling thread, 0 leaves it as it is; returns why not, empty if done."""
    if not priority:
        return ""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"no real-time priority {priority}: {error.strerror}"
    return ""
