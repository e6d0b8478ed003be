"""One file: what is interrupted, being written, repaired; and whose severity counts."""

from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.episodes.check.episode import Task, check_episode
from rdt_ros.episodes.check.thresholds import Thresholds


def _kinds(verdict) -> list[tuple[str, str]]:
    return [(item.kind, item.severity) for item in verdict.findings]


def test_a_clean_episode_has_no_findings_and_gives_its_facts(clean, judged):
    verdict = judged(clean)
    assert _kinds(verdict) == [] and verdict.severity is None
    facts = verdict.facts
    assert (facts.robot, facts.steps, facts.colour_order) == ("agilex", len(clean.ticks), "rgb")
    assert facts.rate_hz == pytest.approx(25.0)
    assert set(facts.jpeg_qualities.values()) == {95}
    assert facts.picture_sizes == {camera: (160, 120) for camera in clean.jpegs}


def test_an_interrupted_recording_is_named_and_left_alone(clean, tmp_path):
    take = clean.copy()
    take.finished = False
    path = take.write(tmp_path / "e.hdf5")
    verdict = check_episode(Task(path, Thresholds()))
    assert _kinds(verdict) == [("interrupted", "error")]
    assert path.exists() and verdict.facts.steps == len(clean.ticks)


def test_repair_finishes_it_and_says_what_was_kept(clean, tmp_path):
    take = clean.copy()
    take.finished = False
    verdict = check_episode(Task(take.write(tmp_path / "e.hdf5"), Thresholds(), repair=True))
    assert _kinds(verdict) == [("repaired", "note")]
    steps = len(clean.ticks)
    assert verdict.findings[0].found == f"kept {steps} of {steps} durable steps, {(steps - 1) / 25:.1f} s, as e.hdf5"
    assert verdict.path == str(tmp_path / "e.hdf5") and [p.name for p in tmp_path.iterdir()] == ["e.hdf5"]
    again = check_episode(Task(tmp_path / "e.hdf5", Thresholds()))
    assert _kinds(again) == [("repaired", "note")]


def test_what_cannot_be_repaired_stays_and_says_why(tmp_path):
    path = tmp_path / "e.hdf5.partial"
    path.touch()
    verdict = check_episode(Task(path, Thresholds(), repair=True))
    assert _kinds(verdict) == [("interrupted", "error"), ("unreadable", "error")]
    assert "nothing to repair" in verdict.findings[0].found and path.exists()


def test_a_recording_in_progress_is_not_judged(maker, tmp_path):
    writer = maker.write(tmp_path / "e.hdf5", maker.observations(4), finish=False)
    verdict = check_episode(Task(writer.unfinished, Thresholds(), repair=True))
    assert _kinds(verdict) == [("being_written", "note")]
    writer.discard()


def test_a_lab_may_see_a_kind_differently(clean, judged):
    take = clean.copy()
    take.instruction = ""
    take.keep(np.arange(60))
    assert sorted(_kinds(judged(take))) == [("no_instruction", "error"), ("too_short", "error")]
    own = Thresholds(severity={"no_instruction": "note", "too_short": "off"})
    assert _kinds(judged(take, thresholds=own)) == [("no_instruction", "note")]


def test_no_file_and_no_episode_are_findings(tmp_path):
    (tmp_path / "text.hdf5").write_text("hello")
    for name, message in (("gone.hdf5", "no such file"), ("text.hdf5", "no readable HDF5 episode")):
        verdict = check_episode(Task(tmp_path / name, Thresholds()))
        assert _kinds(verdict) == [("unreadable", "error")] and message in verdict.findings[0].found
