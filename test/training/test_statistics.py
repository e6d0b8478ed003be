"""Statistics against the reference's script, and their file."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdt_ros.bench.dataset import reference_dataset, reference_folder
from rdt_ros.errors import InputError
from rdt_ros.robot.vector import VECTOR_SIZE
from rdt_ros.training.config import SampleConfig
from rdt_ros.training.dataset import open_dataset
from rdt_ros.training.statistics import (
    KEYS,
    StateAccumulator,
    read_statistics,
    statistics_from_json,
    write_statistics,
)


def test_they_are_those_of_the_references_script(maker, agilex, reference, tmp_path):
    """On the same episodes; it computes in float64, our episodes hold float32."""
    folder = maker.folder(tmp_path / "set", (130, 200, 141))
    ours = open_dataset(agilex(folder), SampleConfig()).statistics.to_json()
    with reference_folder(reference, folder, tmp_path / "cwd"):
        theirs = importlib.import_module("data.compute_dataset_stat_hdf5").process_hdf5_dataset(
            reference_dataset(reference, None).hdf5_dataset
        )
    assert set(ours) == set(theirs)
    for key in KEYS:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6, atol=2e-7, err_msg=key)
    assert ours["state_std"][53] < 1e-3 and ours["state_mean"][53] == 0.25  # the joint that never moves


def accumulated(episodes, name="towels"):
    states = StateAccumulator()
    for episode in episodes:
        states.add(episode)
    return states.result(name)


def vectors(column):
    return np.tile(np.asarray(column, float)[:, None], VECTOR_SIZE)


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.integers(2, 30), elements=st.floats(0.5, 3)), st.integers(1, 29))
def test_they_do_not_depend_on_how_steps_are_split_into_episodes(values, place):
    whole = accumulated([vectors(values)])
    place = min(place, len(values) - 1)
    parts = accumulated([vectors(values[:place]), vectors(values[place:])])
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.std, whole.std, atol=1e-6)
    assert (whole.mean[0], whole.low[0], whole.high[0]) == (pytest.approx(values.mean()), values.min(), values.max())
    assert whole.std[0] == pytest.approx(values.std(), abs=1e-6)


def test_zeros_count_as_absent_in_the_deviation():
    # of 0, 0, 1, 3: mean 1; sqrt((1 + 9) / 2 - 1 * 4 / 2)
    assert accumulated([vectors([0, 1e-9, 1, 3])]).std[0] == pytest.approx(3**0.5)


def test_a_file_keeps_what_it_has(tmp_path):
    path = tmp_path / "new" / "statistics.json"
    one, other = accumulated([vectors([1, 2])], "one"), accumulated([vectors([3, 4])], "other")
    write_statistics(path, [one])
    write_statistics(path, [other])
    assert list(read_statistics(path)) == ["one", "other"]
    back = statistics_from_json(read_statistics(path), "one", str(path))
    assert np.array_equal(back.mean, one.mean) and np.array_equal(back.std, one.std)
    assert [p.name for p in path.parent.iterdir()] == ["statistics.json"]


def test_the_references_own_file_is_read(reference):
    path = reference.folder / "configs" / "dataset_stat.json"
    assert statistics_from_json(read_statistics(path), "agilex", str(path)).mean[1] == pytest.approx(1.040518)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; `rdt stats` makes them"),
        ("{", "expected JSON"),
        ("[]", "expected an object with an entry a data set, found list"),
        ("{}", "expected statistics of towels, found those of nothing"),
        ('{"agilex": {}}', "expected statistics of towels, found those of agilex"),
        ('{"towels": {"state_mean": [1, 2]}}', r"towels.state_mean: expected 128 finite numbers, found \(2,\)"),
        ('{"towels": {"state_mean": "x"}}', "towels.state_mean: expected 128 numbers"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        statistics_from_json(read_statistics(path), "towels", f"statistics {path}")


def test_statistics_of_another_set_are_refused(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set")
    own = open_dataset(agilex(folder), SampleConfig()).statistics
    path = tmp_path / "s.json"
    write_statistics(path, [own])
    given = agilex(folder, statistics=str(path))
    assert np.array_equal(open_dataset(given, SampleConfig()).statistics.mean, own.mean)
    changed = {"set": {**own.to_json(), "state_max": [0.0] * VECTOR_SIZE}}
    path.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="statistics of set: expected those of this data, found another's: slot 0 "):
        open_dataset(given, SampleConfig())
