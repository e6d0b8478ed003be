"""Ctrl-C while training: the first one asks for a checkpoint and an end, the second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 2.0  # a signal to a whole group reaches a launched process twice: the launcher passes on what it got


class Interrupt:
    """A context in which SIGINT and SIGTERM set `asked`; processes forked within go on."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.asked = False
        self._clock_s = clock_s
        self._asked_s = 0.0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        now_s = self._clock_s()
        if not self.asked:
            self.asked, self._asked_s = True, now_s
        elif now_s - self._asked_s > ECHO_S:
            raise KeyboardInterrupt
