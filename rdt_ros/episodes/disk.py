"""How much room an episode has, in bytes and in minutes at the rate at which it is being written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

GB = 1_000_000_000
MB = 1_000_000
SETTLED_S = 2.0  # of an episode, before its rate says something: a new file begins with empty tables


def disk_free_bytes(folder: Path) -> int:
    """Bytes left on the disk of a folder."""
    return shutil.disk_usage(folder).free


class Disk:
    """Watches one folder. `min_free_bytes` are never touched: the minutes are those until then."""

    def __init__(self, folder: Path, min_free_bytes: float, free_bytes: Callable[[Path], int]) -> None:
        self._folder, self._min_free_bytes, self._free_bytes = folder, min_free_bytes, free_bytes
        self.bytes_per_s: float | None = None  # of the newest episode; None before the first one has settled

    @property
    def free_bytes(self) -> int:
        """Bytes left; none on a disk that is gone."""
        try:
            return self._free_bytes(self._folder)
        except OSError:
            return 0

    def wrote(self, size_bytes: int, seconds: float) -> None:
        """Takes note of how large the file of an episode of so many seconds is."""
        if seconds >= SETTLED_S:
            self.bytes_per_s = size_bytes / seconds

    def minutes(self, free_bytes: int) -> float | None:
        """How long it may go on like this; None while the rate is not known."""
        if not self.bytes_per_s:
            return None
        return max(free_bytes - self._min_free_bytes, 0) / self.bytes_per_s / 60

    def left(self, free_bytes: int) -> str:
        """What is left, in words."""
        minutes = self.minutes(free_bytes)
        if minutes is None or not self.bytes_per_s:
            return f"{free_bytes / GB:.2f} GB left on the disk"
        rate = f"{self.bytes_per_s / MB:.1f} MB a second"
        return f"{free_bytes / GB:.2f} GB left on the disk, {minutes:.0f} minutes at {rate}"
