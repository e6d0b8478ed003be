from __future__ import annotations

import pytest

from rdt_ros.sensing.health import Level, SourceHealth
from rdt_ros.types import NS_PER_S

MS = 1_000_000


def camera(**changes) -> SourceHealth:
    return SourceHealth("camera/cam_high", **{"rate_hz": 30.0, "frozen_after_s": 0.5, **changes})


def feed(health: SourceHealth, stamps_ms: list[float], content=None) -> None:
    """Messages that arrive at their stamps; `content(i)` is the picture."""
    for i, stamp in enumerate(stamps_ms):
        health.heard(round(stamp * MS), round(stamp * MS), content(i) if content else bytes([i % 256]))


def test_rate_comes_from_the_stamps() -> None:
    health = camera()
    feed(health, [i * 1000 / 30 for i in range(31)])
    status = health.status(NS_PER_S)
    assert status.rate_hz == pytest.approx(30, abs=0.01)
    assert (status.level, status.message, status.lost) == (Level.OK, "30.0 Hz", 0)


def test_loss_is_counted_from_gaps() -> None:
    health = camera()
    feed(health, [0, 33, 67, 167, 200, 267])  # two are missing at 100 and 133, one at 233
    status = health.status(267 * MS)
    assert (status.lost, status.received) == (3, 6)
    assert (status.level, status.message) == (Level.WARN, "lost 1 before stamp 0.267 s")


def test_a_slower_but_even_camera_loses_nothing() -> None:
    health = camera()
    feed(health, [i * 40 for i in range(20)])
    assert health.status(760 * MS).lost == 0


def test_an_old_fault_is_counted_but_no_longer_reported() -> None:
    health = camera()
    feed(health, [0, 100, *(100 + i * 1000 / 30 for i in range(1, 90))])
    status = health.status(3100 * MS)
    assert (status.lost, status.level) == (2, Level.OK)


def test_repeated_and_disordered_stamps() -> None:
    health = camera()
    feed(health, [0, 33, 33])
    assert health.status(33 * MS).level is Level.OK
    feed(health, [67, 50])
    status = health.status(67 * MS)
    assert (status.duplicates, status.disordered) == (1, 1)
    assert status.level is Level.WARN
    assert "17 ms older" in status.message


@pytest.mark.parametrize("stamps", [[0, 33, 67], [0, 33, 67, 67, 67]])
def test_a_stopped_camera_is_named_within_a_second_even_if_it_repeats_a_stamp(stamps: list[float]) -> None:
    health = camera()
    feed(health, stamps)
    for i in range(30):  # the same message again and again, as a driver that hangs may send it
        if len(stamps) > 3:
            health.heard(67 * MS, (67 + 33 * i) * MS, b"x")
    status = health.status(67 * MS + NS_PER_S)
    assert (status.level, status.message) == (Level.ERROR, "stopped: no new message for 1.0 s")


def test_silence_is_no_fault_where_the_clock_stands_or_nobody_must_speak() -> None:
    health = camera()
    feed(health, [0, 33])
    assert health.status(NS_PER_S, silent_ns=0).level is Level.OK
    command = SourceHealth("command/left_arm", watched=False)
    assert command.status(0).level is Level.OK
    command.heard(0, 0)
    assert command.status(NS_PER_S).level is Level.OK


def test_a_frozen_camera_is_named_within_a_second_and_cleared_by_a_new_picture() -> None:
    health = camera()
    feed(health, [i * 1000 / 30 for i in range(31)], lambda i: b"same")
    status = health.status(NS_PER_S)
    assert status.level is Level.ERROR
    assert status.message.startswith("frozen: the same picture for 1.0 s")
    health.heard(round(1033 * MS), 1033 * MS, b"new")
    assert health.status(1033 * MS).level is Level.OK


@pytest.mark.parametrize("repeats", [1, 10])
def test_a_picture_repeated_for_a_moment_is_not_frozen(repeats: int) -> None:
    health = camera()
    feed(health, [i * 1000 / 30 for i in range(60)], lambda i: bytes([i // (repeats + 1)]))
    assert health.status(1967 * MS).level is Level.OK


def test_without_a_bound_equal_pictures_are_no_fault() -> None:
    health = camera(frozen_after_s=None)
    feed(health, [i * 1000 / 30 for i in range(60)], lambda i: b"same")
    assert health.status(1967 * MS).level is Level.OK


def test_a_refused_message_is_an_error_while_it_is_recent() -> None:
    health = camera()
    feed(health, [0, 33])
    health.refuse("cam_high: expected 640x480 pixels, found 320x240", 40 * MS)
    status = health.status(50 * MS)
    assert (status.level, status.message, status.refused) == (
        Level.ERROR,
        "cam_high: expected 640x480 pixels, found 320x240",
        1,
    )
    feed(health, [33 + i * 1000 / 30 for i in range(1, 70)])
    assert health.status(2333 * MS).level is Level.OK


def test_after_the_clock_went_back_the_rate_starts_anew() -> None:
    health = camera()
    feed(health, [10_000, 10_033])
    health.clock_went_back()
    feed(health, [i * 1000 / 30 for i in range(10)])
    status = health.status(300 * MS)
    assert (status.lost, status.disordered) == (0, 0)
    assert status.rate_hz == pytest.approx(30, abs=0.01)
