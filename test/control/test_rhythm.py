from __future__ import annotations

from rdt_ros.control.rhythm import Rhythm

MS = 1_000_000


def test_counts_late_ticks_and_measures_periods():
    rhythm = Rhythm(10 * MS)
    assert rhythm.figures() == {"late_ticks": 0, "worst_lateness_ms": 0}
    for due_ms, late_ms in ((0, 0), (10, 1), (20, 4), (30, 0)):  # a tenth of the period is not late yet
        rhythm.add((due_ms + late_ms) * MS, late_ms * MS)
    figures = rhythm.figures()
    assert figures["late_ticks"] == 1 and figures["worst_lateness_ms"] == 4
    assert figures["command_period_ms_p50"] == 11 and figures["command_period_ms_max"] == 13


def test_the_deviation_of_the_last_twenty_seconds():
    rhythm, tick_ms = Rhythm(100 * MS), 100
    rhythm.add(0, 0)
    rhythm.add(170 * MS, 0)  # 70 ms too long, and long ago
    for tick in range(2, 300):
        rhythm.add((tick * tick_ms + 2 * (tick % 2)) * MS, 0)
    figures = rhythm.figures()
    assert figures["period_error_us_p50"] == figures["period_error_us_max"] == 2000
    assert figures["command_period_ms_max"] == 102
