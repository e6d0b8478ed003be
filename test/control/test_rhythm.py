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
