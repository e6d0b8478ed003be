"""When an episode begins on the simulator's clock."""

from __future__ import annotations

from rdt_ros.types import NS_PER_S

SLOT_NS = 100 * NS_PER_S  # longer than any episode
SLOTS = 10_000_000  # a ROS stamp counts seconds up to 2 ** 31


def episode_start_ns(seed: int, period_ns: int) -> int:
    """The first tick of the episode of a seed.

    A policy's noise is drawn from the stamps of its Observations, so every seed has noise of its own, whichever other
    seeds run before it; and nothing of the episode before is one period old.
    """
    return -(-(seed % SLOTS) * SLOT_NS // period_ns) * period_ns + period_ns
