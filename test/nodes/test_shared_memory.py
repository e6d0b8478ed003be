"""Shared memory that killed nodes have left behind."""

from __future__ import annotations

import fcntl
import os
import time

from rdt_ros.nodes.shared_memory import AGE_S, remove_dead_segments


def test_only_segments_that_nobody_holds_are_removed(tmp_path):
    dead = ["fastdds_0123456789abcdef", "fastrtps_00000000000000ff"]
    held, new = "fastdds_1111111111111111", "fastdds_2222222222222222"
    others = ["fastdds_port7412", "fastdds_port7412_el", "fastdds_port7000_el", "sem.fastdds_port7412_mutex", "mine_el"]
    for name in [*others, *(name + end for name in [*dead, held, new] for end in ("", "_el"))]:
        (tmp_path / name).write_bytes(b"x")
        if not name.startswith(new):
            os.utime(tmp_path / name, (0, time.time() - AGE_S - 1))
    kept = {*others, held, held + "_el", new, new + "_el"}
    with (tmp_path / f"{held}_el").open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == 2
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert remove_dead_segments(tmp_path) == 1  # its owner is gone
    assert remove_dead_segments(tmp_path / "none") == 0
