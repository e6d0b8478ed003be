from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.sensing.source import Sample, Source


def filled(stamps: list[int], capacity: int = 100, reorder: int = 0) -> Source:
    source = Source("camera/a", capacity, reorder)
    for stamp in stamps:
        source.add(Sample(stamp, 0, stamp))
    return source


@given(st.lists(st.integers(0, 50)), st.integers(-5, 60))
def test_first_is_the_smallest_stamp_at_or_after(stamps: list[int], at: int) -> None:
    first = filled(stamps).first(at)
    assert (first.stamp_ns if first else None) == min((s for s in stamps if s >= at), default=None)


@given(st.lists(st.integers(0, 50)), st.integers(1, 10))
def test_it_keeps_the_newest_and_no_more_than_its_capacity(stamps: list[int], capacity: int) -> None:
    source = filled(stamps, capacity)
    assert len(source) <= capacity
    assert source.newest_ns == max(stamps, default=None)
    assert source.newest_ns is None or source.first(source.newest_ns) is not None


def test_a_stamp_is_held_once_and_the_first_copy_counts() -> None:
    source = filled([5])
    source.add(Sample(5, 9, "copy"))
    assert len(source) == 1
    assert source.first(5).payload == 5


def test_settled_waits_for_those_that_may_still_overtake() -> None:
    source = filled([10, 20], reorder=1)
    assert source.settled(10)
    assert not source.settled(20)


def test_dropping() -> None:
    source = filled([10, 20, 30])
    source.drop_before(20)
    assert source.oldest_ns == 20
    source.clear()
    assert (len(source), source.newest_ns, source.appeared) == (0, None, False)
