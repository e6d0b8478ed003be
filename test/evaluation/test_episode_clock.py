"""Every seed has its own time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.evaluation.episode_clock import SLOT_NS, SLOTS, episode_start_ns
from rdt_ros.sim.task import TASKS
from rdt_ros.types import NS_PER_S


@given(st.integers(0, SLOTS - 2), st.sampled_from([40_000_000, 33_333_333, 20_000_000]))
def test_starts_are_ticks_and_further_apart_than_any_episode_lasts(seed, period_ns):
    start_ns, next_ns = (episode_start_ns(s, period_ns) for s in (seed, seed + 1))
    assert start_ns > 0 and start_ns % period_ns == 0
    assert next_ns - start_ns > 3 * max(task.episode_s for task in TASKS.values()) * NS_PER_S
    assert next_ns // NS_PER_S < 2**31


def test_the_first_seed_begins_with_the_first_tick_and_far_seeds_share_times_with_near_ones():
    assert episode_start_ns(0, 40_000_000) == 40_000_000
    assert episode_start_ns(3, 40_000_000) == 3 * SLOT_NS + 40_000_000 == episode_start_ns(SLOTS + 3, 40_000_000)
