"""`rdt episodes check` as a person and a script use it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from rdt_ros import check_command
from rdt_ros.episodes.check.findings import Facts, Verdict, finding
from rdt_ros.errors import InputError


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    check_command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["check", *map(str, arguments)])
    return args.run(args)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two files that are no episodes, and one that is none of ours."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.hdf5").write_text("hello")
    (tmp_path / "two.hdf5.partial").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def test_the_table_has_a_line_a_finding_and_one_that_counts(folder, capsys):
    assert run(folder) == 1
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["LEVEL", "FILE", "STEP", "TIME", "KIND", "SUBJECT", "FOUND", "EXPECTED"]
    assert [line.split()[0:3:2] for line in lines] == [
        ["error", "unreadable"],
        ["error", "interrupted"],
        ["error", "unreadable"],
    ]
    assert len({line.index("file") for line in lines}) == 1  # aligned
    assert last == "2 episodes, 0 fine: 3 errors, 0 warnings, 0 notes"


def test_json_is_one_object(folder, capsys):
    assert run(folder, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["errors"], found["warnings"], found["notes"]) == (3, 0, 0)
    assert [Path(item["path"]).name for item in found["files"]] == ["one.hdf5", "two.hdf5.partial"]
    first = found["files"][0]["findings"][0]
    assert set(first) == {"kind", "severity", "subject", "expected", "found", "step", "time_s"}


def test_facts_are_in_the_json_but_for_the_histograms():
    facts = Facts("agilex", ("j",), 25.0, 1, "leader", "rgb", 9, 0.32, 25.0, {"c": (8, 8)}, {"c": 95})
    found = json.loads(check_command.as_json([Verdict("e.hdf5", (), facts)]))
    assert found["files"][0]["facts"]["rate_hz"] == 25.0
    assert "colours" not in found["files"][0]["facts"]


def test_the_level_decides_the_exit_code(folder, capsys):
    own = folder / "own.yaml"
    own.write_text("severity: {unreadable: warning, interrupted: note}")
    assert run(folder, "--thresholds", own) == 0
    assert run(folder, "--thresholds", own, "--fail-on", "warning") == 1
    own.write_text("severity: {unreadable: off, interrupted: off}")
    assert run(folder, "--thresholds", own, "--fail-on", "note") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 episodes, 2 fine: 0 errors, 0 warnings, 0 notes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.hdf5",), "gone.hdf5: no such file"),
        ((".",), "expected episodes"),
        (("one.hdf5", "--robot", "agilx"), "is 'agilex' meant"),
        (("one.hdf5", "--jobs", "0"), "--jobs: expected at least 1"),
        (("one.hdf5", "--thresholds", "wrong.yaml"), "unknown key 'min_step', is 'min_steps' meant"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("min_step: 3")
    if arguments[0] == "one.hdf5":
        (tmp_path / "one.hdf5").write_text("hello")
    with pytest.raises(InputError, match=message) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


def test_several_files_at_a_time_keep_their_order(folder):
    files = check_command.episode_files([folder])
    assert [path.name for path in files] == ["one.hdf5", "two.hdf5.partial"]
    assert check_command.episode_files([files[1], folder]) == [files[1], files[0]]


def test_the_worst_comes_first_within_a_file():
    findings = (
        finding("repaired", "file", expected="a", found="b"),
        finding("gaps", "tick", expected="a", found="b", step=3, time_s=0.12),
        finding("nan", "action", expected="a", found="b", step=4, time_s=0.16),
    )
    lines = check_command.table([Verdict("folder/e.hdf5", findings)]).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["error", "warning", "note"]
    assert lines[1].split()[1:4] == ["folder/e.hdf5", "4", "0.16"]
