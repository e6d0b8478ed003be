"""The thresholds' file."""

from __future__ import annotations

import re

import pytest

from rdt_ros.episodes.check import thresholds
from rdt_ros.episodes.check.findings import KINDS
from rdt_ros.episodes.check.thresholds import Thresholds, load_thresholds
from rdt_ros.errors import InputError
from rdt_ros.share import share_dir


def test_the_shipped_file_is_what_the_code_says():
    shipped = (share_dir() / thresholds.FILE).read_text()
    assert shipped == thresholds.text(), "run: python -m rdt_ros.episodes.check.thresholds > config/check.yaml"
    assert load_thresholds() == Thresholds()


def test_a_file_overrides_what_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("min_steps: 64\nmax_still_s: 5\nseverity: {no_instruction: warning, still_tail: off}\n")
    found = load_thresholds(path)
    assert (found.min_steps, found.max_still_s, found.rate_tolerance) == (64, 5, Thresholds().rate_tolerance)
    assert found.severity == {"no_instruction": "warning", "still_tail": "off"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_step: 64", "unknown key 'min_step', is 'min_steps' meant?"),
        ("min_steps: many", "min_steps: expected a whole number, found 'many'"),
        ("min_steps: 6.5", "min_steps: expected a whole number, found 6.5"),
        ("moved_rad: true", "moved_rad: expected a number, found True"),
        ("bad_light_share: 2", r"thresholds.bad_light_share: expected between 0 and 1, found 2"),
        ("severity: {no_instructions: note}", "severity: unknown key 'no_instructions', is 'no_instruction' meant?"),
        ("severity: {gaps: bad}", "severity.gaps: expected one of note, warning, error, off, found 'bad'"),
        ("severity: [gaps]", "severity: expected a mapping"),
        ("- 5", "expected a mapping, found list"),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_thresholds(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="gone.yaml: No such file"):
        load_thresholds(tmp_path / "gone.yaml")


def test_the_page_explains_every_kind_and_no_other():
    page = (share_dir() / "docs" / "check.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert dict(explained) == KINDS
