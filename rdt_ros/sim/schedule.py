"""When the simulated robot sends what, in real-time mode."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import count

from rdt_ros.types import NS_PER_S

STEP_NS = 2_000_000  # physics step, gym-aloha's own


def send_times(joint_rate_hz: float, camera_rates_hz: Mapping[str, float], start_ns: int) -> Iterator[tuple[int, str]]:
    """(simulated time, source) for ever, in order of time; the source is a camera's name, or "" for the joints.

    Cameras of equal rate are staggered evenly, as free-running cameras are: drawing all in one go would delay the next
    command by the time of three pictures. Times are rounded up to whole physics steps.
    """

    def times(source: str, rate_hz: float, phase: float) -> Iterator[tuple[int, str]]:
        for k in count():
            after_ns = round((k + phase) * NS_PER_S / rate_hz)
            yield start_ns - (-after_ns // STEP_NS) * STEP_NS, source

    cameras = [times(name, rate, i / len(camera_rates_hz)) for i, (name, rate) in enumerate(camera_rates_hz.items())]
    return heapq.merge(times("", joint_rate_hz, 0.0), *cameras)
