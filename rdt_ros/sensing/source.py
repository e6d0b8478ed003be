"""The samples of one topic that a coming tick may still need, in the order of their stamps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Sample:
    """One message: `stamp_ns` is ROS time, `arrival_ns` the steady clock."""

    stamp_ns: int
    arrival_ns: int
    payload: Any


class Source:
    """A bounded buffer. `reorder`: how many newer messages may arrive before an older one."""

    def __init__(self, name: str, capacity: int, reorder: int = 0) -> None:
        self.name = name
        self.newest_ns: int | None = None  # newest stamp so far, whether still held or not
        self._capacity = capacity
        self._reorder = reorder
        self._stamps: list[int] = []
        self._samples: list[Sample] = []

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def appeared(self) -> bool:
        """Whether its oldest sample is known."""
        return len(self) > self._reorder

    @property
    def oldest_ns(self) -> int:
        """The stamp from which on it holds everything; only where it has appeared."""
        return self._stamps[0]

    @property
    def full(self) -> bool:
        """Whether one sample more would drop the oldest."""
        return len(self) >= self._capacity

    def add(self, sample: Sample) -> None:
        """Sorts a sample in, once a stamp; drops the oldest where there is no room."""
        at = bisect_left(self._stamps, sample.stamp_ns)
        if self._stamps[at : at + 1] == [sample.stamp_ns]:
            return
        self._stamps.insert(at, sample.stamp_ns)
        self._samples.insert(at, sample)
        if len(self) > self._capacity:
            del self._stamps[0], self._samples[0]
        self.newest_ns = sample.stamp_ns if self.newest_ns is None else max(self.newest_ns, sample.stamp_ns)

    def first(self, stamp_ns: int) -> Sample | None:
        """The first sample at or after a stamp among those that have arrived."""
        at = bisect_left(self._stamps, stamp_ns)
        return self._samples[at] if at < len(self) else None

    def settled(self, stamp_ns: int) -> bool:
        """Whether `first` of that stamp can no longer change."""
        return len(self) - bisect_left(self._stamps, stamp_ns) > self._reorder

    def drop_before(self, stamp_ns: int) -> None:
        """Forgets the samples that no tick needs any more."""
        at = bisect_left(self._stamps, stamp_ns)
        del self._stamps[:at], self._samples[:at]

    def clear(self) -> None:
        """Forgets everything, for instance when its clock has gone back."""
        self._stamps.clear()
        self._samples.clear()
        self.newest_ns = None
