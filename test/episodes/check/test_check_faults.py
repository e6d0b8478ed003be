"""Every planted fault is found and named; clean episodes are not accused."""

from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.check_command import judge
from rdt_ros.episodes.check.episode import Task
from rdt_ros.episodes.check.findings import KINDS
from rdt_ros.episodes.check.sets import compare
from rdt_ros.episodes.check.thresholds import Thresholds

UNTESTED = {  # kinds that no spoilt take has; the tests named here plant them
    "still_head",  # test_check_motion
    "still_tail",
    "unreadable",  # test_check_corruption
    "crashed",  # test_check_worker
    "being_written",  # test_check_episode
    "repaired",
    "no_stamps",
}


def _named(verdict) -> set[str]:
    return {item.kind for item in verdict.findings if item.severity != "note"}


def _set(paths):
    thresholds = Thresholds()
    return compare(judge([Task(path, thresholds) for path in paths]), thresholds)


def test_every_kind_is_planted_somewhere(faults):
    assert set(faults.values()) | UNTESTED == set(KINDS)


def test_every_fault_is_found_once(lab, clean, faults, tmp_path):
    paths = [clean.write(tmp_path / "clean.hdf5"), lab.take(5.3).write(tmp_path / "clean_too.hdf5")]
    for spoil in faults:
        take = clean.copy()
        spoil(take, np.random.default_rng(5))
        paths.append(take.write(tmp_path / f"{spoil.__name__}.hdf5"))
    clean_ones, spoilt = (lambda verdicts: (verdicts[:2], verdicts[2:]))(_set(paths))
    assert [_named(verdict) for verdict in clean_ones] == [set(), set()]
    missed = [
        verdict.path for verdict, kind in zip(spoilt, faults.values(), strict=True) if kind not in _named(verdict)
    ]
    assert not missed


@pytest.mark.slow
def test_a_hundred_faults_and_a_hundred_clean_episodes(new_lab, faults, tmp_path):
    spoil, accused, missed = list(faults), [], []
    for number in range(10):
        lab, folder = new_lab(200 + number), tmp_path / str(number)
        folder.mkdir()
        paths = [lab.take().write(folder / f"clean_{i}.hdf5") for i in range(10)]
        planted = [spoil[(10 * number + i) % len(spoil)] for i in range(10)]
        for plant in planted:
            take = lab.take()
            plant(take, lab.random)
            paths.append(take.write(folder / f"{plant.__name__}.hdf5"))
        verdicts = _set(paths)
        accused += [(v.path, _named(v)) for v in verdicts[:10] if _named(v)]
        missed += [v.path for v, p in zip(verdicts[10:], planted, strict=True) if faults[p] not in _named(v)]
    assert not accused
    assert not missed
