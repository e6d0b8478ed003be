"""How one source is doing: rate and loss from its stamps, whether it stopped or repeats its last frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from rdt_ros.types import NS_PER_S

STOPPED_AFTER_NS = NS_PER_S // 2
RECENT_NS = 2 * NS_PER_S  # so long a fault that has passed is still reported
WINDOW = 64  # stamps that the rate is taken from, and that a repeated stamp is looked for in


class Level(IntEnum):
    """As diagnostic_msgs counts them."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class SourceStatus:
    """One source at one moment; counts are since the start."""

    name: str
    level: Level
    message: str
    rate_hz: float | None  # None before the second message
    received: int
    lost: int  # gaps between stamps, against the rate of the robot file; only where it names one
    duplicates: int
    disordered: int
    refused: int


class SourceHealth:
    """Counts the messages of one source. `rate_hz` None: loss is not known; `watched` False: it may be silent."""

    def __init__(
        self, name: str, *, rate_hz: float | None = None, frozen_after_s: float | None = None, watched: bool = True
    ) -> None:
        self.name = name
        self._rate_hz, self._frozen_after_s, self._watched = rate_hz, frozen_after_s, watched
        self._received = self._lost = self._duplicates = self._disordered = self._refused = 0
        self._stamps: deque[int] = deque(maxlen=WINDOW)
        self._arrival_ns = 0  # of the newest stamp
        self._trouble: tuple[int, Level, str] | None = None  # when, and what
        self._content: bytes | None = None
        self._same_since_ns = 0
        self._same_s = 0.0

    def heard(self, stamp_ns: int, now_ns: int, content: bytes | None = None) -> None:
        """Takes note of a message; `content` where a camera may freeze."""
        self._received += 1
        newest_ns = self._stamps[-1] if self._stamps else None
        if stamp_ns in self._stamps:
            self._duplicates += 1  # harmless to the sets; a source that does nothing else has stopped
            return
        if newest_ns is not None and stamp_ns < newest_ns:
            self._disordered += 1
            behind_ms = (newest_ns - stamp_ns) / 1e6
            self._note(now_ns, Level.WARN, f"a message {behind_ms:.0f} ms older than the one before it")
            return
        if newest_ns is not None and self._rate_hz is not None:
            gap = round((stamp_ns - newest_ns) / NS_PER_S * self._rate_hz) - 1
            if gap > 0:
                self._lost += gap
                self._note(now_ns, Level.WARN, f"lost {gap} before stamp {stamp_ns / NS_PER_S:.3f} s")
        self._stamps.append(stamp_ns)
        self._arrival_ns = now_ns
        self._compare(stamp_ns, content)

    def refuse(self, reason: str, now_ns: int) -> None:
        """Takes note of a message that cannot be used."""
        self._received += 1
        self._refused += 1
        self._note(now_ns, Level.ERROR, reason)

    def clock_went_back(self) -> None:
        """Forgets the stamps, not the counts."""
        self._stamps.clear()
        self._content, self._same_s = None, 0.0

    def status(self, now_ns: int, silent_ns: int | None = None) -> SourceStatus:
        """The source now; `silent_ns`: how long its silence counts as one, by default since its newest message."""
        level, message = self._verdict(now_ns, now_ns - self._arrival_ns if silent_ns is None else silent_ns)
        return SourceStatus(
            self.name,
            level,
            message,
            self._measured_rate_hz(),
            self._received,
            self._lost,
            self._duplicates,
            self._disordered,
            self._refused,
        )

    def _verdict(self, now_ns: int, silent_ns: int) -> tuple[Level, str]:
        recent = self._trouble if self._trouble and now_ns - self._trouble[0] < RECENT_NS else None
        if recent and recent[1] is Level.ERROR:
            return recent[1], recent[2]
        if not self._stamps:
            return (Level.ERROR, "nothing received yet") if self._watched else (Level.OK, "silent")
        if silent_ns > STOPPED_AFTER_NS:
            message = f"no new message for {silent_ns / NS_PER_S:.1f} s"
            return (Level.ERROR, f"stopped: {message}") if self._watched else (Level.OK, message)
        if self._frozen_after_s is not None and self._same_s > self._frozen_after_s:
            return Level.ERROR, f"frozen: the same picture for {self._same_s:.1f} s while its stamps advance"
        if recent:
            return recent[1], recent[2]
        rate_hz = self._measured_rate_hz()
        return Level.OK, "first message" if rate_hz is None else f"{rate_hz:.1f} Hz"

    def _compare(self, stamp_ns: int, content: bytes | None) -> None:
        if self._frozen_after_s is None or content is None:
            return
        if content != self._content:
            self._content, self._same_since_ns = content, stamp_ns
        self._same_s = (stamp_ns - self._same_since_ns) / NS_PER_S

    def _measured_rate_hz(self) -> float | None:
        if len(self._stamps) < 2:
            return None
        return (len(self._stamps) - 1) * NS_PER_S / (self._stamps[-1] - self._stamps[0])

    def _note(self, now_ns: int, level: Level, message: str) -> None:
        self._trouble = (now_ns, level, message)
