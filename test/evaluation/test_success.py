"""Rates, intervals and paired tests, against an independent implementation."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rdt_ros.errors import InputError
from rdt_ros.evaluation.success import (
    EpisodeResult,
    append_result,
    compare,
    mcnemar,
    read_results,
    summary,
    wilson,
)


def result(seed: int, success: bool = True, stage: str = "touched", **others) -> EpisodeResult:
    values = {"dropped": False, "fault": "", "seconds": 8.4, "success_s": 7.9 if success else None, **others}
    return EpisodeResult(seed, "hand_over", "go", success, stage="success" if success else stage, **values)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(counts):
    successes, episodes = counts
    expected = stats.binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert wilson(successes, episodes) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_paired_test_is_the_exact_one_of_mcnemar(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_no_episodes_have_no_interval():
    with pytest.raises(InputError, match="expected episodes, found none"):
        wilson(0, 0)


def test_the_summary_counts_failures_by_how_they_failed():
    results = [
        result(1, step_ms=(10.0, 20.0)),
        result(2, False),
        result(3, False, dropped=True),
        result(4, False, fault="left_elbow is 0.6 rad away", step_ms=(30.0,)),
        result(5, False),
    ]
    found = summary(results)
    assert (found["episodes"], found["successes"], found["success_rate"]) == (5, 1, 0.2)
    assert found["interval_95"] == pytest.approx(wilson(1, 5), abs=1e-4)
    assert found["stages"] == {"touched": 2, "touched, dropped": 1, "touched, executor fault": 1}
    assert (found["step_ms_p50"], found["step_ms_p99"]) == (20.0, 29.8)
    assert summary([result(1)])["step_ms_p50"] is None


def test_results_are_read_as_they_were_written(tmp_path):
    results = [result(3, step_ms=(1.5, 2.5)), result(1, False)]
    for one in results:
        append_result(tmp_path / "r.jsonl", one)
    assert read_results(tmp_path / "r.jsonl") == {3: results[0], 1: results[1]}


def test_a_wrong_results_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(InputError, match="r.jsonl: No such file"):
        read_results(path)
    path.write_text("")
    with pytest.raises(InputError, match="expected results of episodes, found none"):
        read_results(path)
    append_result(path, result(1))
    append_result(path, result(1))
    with pytest.raises(InputError, match="line 2: expected each seed once, found 1 again"):
        read_results(path)
    for line in ("no json", "[]", json.dumps({"seed": 1})):
        path.write_text(line + "\n")
        with pytest.raises(InputError, match="line 1: expected the result of an episode"):
            read_results(path)


def test_two_results_are_compared_over_the_seeds_that_both_have(tmp_path):
    outcomes = ([True, True, True, False, True], [True, False, False, True, True])
    for name, successes, first_seed in (("a", outcomes[0], 0), ("b", outcomes[1], 0)):
        for i, success in enumerate(successes):
            append_result(tmp_path / name, result(first_seed + i, success))
    append_result(tmp_path / "b", result(99))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert (found["episodes"], found["success_rates"], found["difference"]) == (5, [0.8, 0.6], -0.2)
    assert (found["only_first"], found["only_second"], found["mcnemar_p"]) == (2, 1, 1.0)


def test_what_cannot_be_compared_is_said(tmp_path):
    append_result(tmp_path / "a", result(1))
    append_result(tmp_path / "b", result(2))
    append_result(tmp_path / "c", dataclasses.replace(result(1), task="lift"))
    with pytest.raises(InputError, match="expected seeds of .*a, found none of them"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match="expected task hand_over as .*a, found lift"):
        compare(tmp_path / "a", tmp_path / "c")
