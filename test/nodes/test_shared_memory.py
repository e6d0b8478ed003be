"""Shared memory that killed nodes have left behind."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from rdt_ros.nodes.shared_memory import AGE_S, remove_dead_segments


def make_dead(path):
    for each in (path, path.with_name(path.name + "_el")):
        each.write_bytes(b"x")
        os.utime(each, (0, time.time() - AGE_S - 1))


def test_what_another_user_left_is_left_alone(tmp_path, monkeypatch):
    """It may be read and locked, but /dev/shm lets nobody else remove it."""
    foreign, own = tmp_path / "fastdds_0123456789abcdef", tmp_path / "fastdds_ffffffffffffffff"
    make_dead(foreign)
    make_dead(own)
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path.name.startswith(foreign.name):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove_dead_segments(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {foreign.name, foreign.name + "_el"}


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
