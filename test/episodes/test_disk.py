"""Room on the disk, in bytes and in minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdt_ros.episodes.disk import GB, Disk


def test_minutes_are_those_until_the_reserve_at_the_newest_rate():
    disk = Disk(Path("/data"), 1 * GB, lambda _folder: 7 * GB)
    assert (disk.free_bytes, disk.minutes(7 * GB)) == (7 * GB, None)
    disk.wrote(50_000_000, 1.0)  # too short to say anything
    assert disk.minutes(7 * GB) is None and disk.left(7 * GB) == "7.00 GB left on the disk"
    disk.wrote(50_000_000, 5.0)
    assert disk.minutes(7 * GB) == pytest.approx(10)
    assert disk.left(7 * GB) == "7.00 GB left on the disk, 10 minutes at 10.0 MB a second"
    disk.wrote(100_000_000, 5.0)
    assert disk.minutes(7 * GB) == pytest.approx(5)
    assert disk.minutes(GB // 2) == 0


def test_a_disk_that_is_gone_has_no_room():
    def gone(_folder: Path) -> int:
        raise OSError(5, "Input/output error")

    assert Disk(Path("/data"), 0, gone).free_bytes == 0
