"""Batches: the same for every number of workers, from every place on, and one line where something is broken."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import h5py
import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.language import HashedWords
from rdt_ros.training.config import PLAIN, LoaderConfig, SampleConfig
from rdt_ros.training.dataset import open_dataset
from rdt_ros.training.language import training_tokens
from rdt_ros.training.loader import Batch, Mixture, Order, batches

SIZE, HORIZON, WIDTH = 32, 8, 16
HERE = LoaderConfig(workers=0)
RULES = SampleConfig()


def mixture(*datasets, config=RULES, seed=0, part="train") -> Mixture:
    tokens = training_tokens(datasets, longest=64, hidden=True, encoder=HashedWords(WIDTH))
    return Mixture(datasets, config, tokens, horizon=HORIZON, image_size=SIZE, seed=seed, part=part)


@pytest.fixture
def dataset(maker, agilex, tmp_path):
    return open_dataset(agilex(maker.folder(tmp_path / "set", (130, 132), height=12, width=16)), RULES)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Batch)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def all_same(first, second) -> bool:
    return all(same(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("workers", "start_method"),
    [(1, "fork"), (3, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow),
     pytest.param(2, "forkserver", marks=pytest.mark.slow)],
)  # fmt: skip
def test_batches_are_the_same_for_every_number_of_workers(dataset, workers, start_method):
    """Also after the parent has read the same files."""
    data = mixture(dataset)
    order = Order(batch_size=3, start=0, batches=4)
    alone = list(batches(data, order, HERE))
    assert all_same(alone, batches(data, order, LoaderConfig(workers=workers), start_method=start_method))
    assert all_same(alone, batches(data, order, HERE))


def test_a_run_goes_on_at_any_sample(dataset):
    """And the global generator, from which training draws its noise, stays as it was."""
    data = mixture(dataset)
    before = torch.get_rng_state()
    whole = [where for batch in batches(data, Order(4, 0, 3), HERE) for where in batch.where]
    rest = [where for batch in batches(data, Order(2, 5, 3), HERE) for where in batch.where]
    assert rest == whole[5:11] and len(set(whole)) > 6
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_the_samples_out(dataset):
    data = mixture(dataset)
    one = [where for batch in batches(data, Order(4, 3, 2), HERE) for where in batch.where]
    ranks = [list(batches(data, Order(2, 3, 2, rank, world=2), HERE)) for rank in range(2)]
    together = itertools.chain.from_iterable(zip(*ranks, strict=True))
    assert [where for batch in together for where in batch.where] == one
    assert len(Order(2, 3, 2)) == 2


def test_another_seed_gives_other_samples(dataset):
    first, second = (mixture(dataset, seed=seed)[0] for seed in (0, 1))
    assert first.where != second.where


def test_a_batch_has_the_shapes_and_masks_that_the_network_takes(dataset):
    (batch,) = batches(mixture(dataset, config=PLAIN), Order(8, 0, 1), HERE)
    assert len(batch) == 8 and batch.states.shape == batch.mask.shape == (8, 1, 128)
    assert batch.actions.shape == (8, HORIZON, 128) and batch.state_norms.shape == (8, 128)
    assert batch.pictures.shape == (8, 6, SIZE, SIZE, 3) and batch.pictures.dtype == torch.uint8
    assert batch.rates_hz.tolist() == [25.0] * 8 and set(batch.datasets) == {"set"}
    assert {t.dtype for t in (batch.states, batch.actions, batch.mask, batch.rates_hz)} == {torch.float32}
    lengths = batch.token_mask.sum(1)
    assert batch.tokens.shape == (8, int(lengths.max()), WIDTH) and len(set(lengths.tolist())) > 1
    assert not batch.tokens[~batch.token_mask].any() and batch.tokens[batch.token_mask].all(1).all()
    assert batch.mask.sum(2).unique().tolist() == [14]
    assert same(batch.to("cpu"), batch)


def test_sets_are_mixed_by_their_weights(maker, agilex, tmp_path):
    sets = []
    for name, weight, lengths in (("a", 3.0, (130,)), ("b", 1.0, (130, 130)), ("c", 0.0, (130,))):
        folder = maker.folder(tmp_path / name, lengths, height=12, width=16)
        rate = 12.5 if name == "b" else 0.0
        sets.append(open_dataset(agilex(folder, weight=weight, control_rate_hz=rate), RULES))
    with pytest.raises(InputError, match="expected data sets of different names, found a, a, b"):
        mixture(sets[0], sets[0], sets[1])
    data = mixture(*sets, config=PLAIN)
    drawn = [data[i] for i in range(120)]
    assert Counter(s.dataset for s in drawn)["a"] / 120 == pytest.approx(0.75, abs=0.12)
    assert {(s.dataset, s.rate_hz) for s in drawn} == {("a", 25.0), ("b", 12.5)}


def test_held_out_episodes_are_never_trained_on(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130, 130, 130), height=12, width=16)
    dataset = open_dataset(agilex(folder, held_out=("e1.hdf5",)), RULES)
    for part, expected in (("train", {"e0", "e2"}), ("held_out", {"e1"})):
        data = mixture(dataset, config=PLAIN, part=part)
        assert {data[i].where.split("/")[-1].split(".")[0] for i in range(20)} == expected
    with pytest.raises(InputError, match="expected held_out episodes in a data set of positive weight, found none"):
        mixture(open_dataset(agilex(folder), RULES), part="held_out")


def test_a_batch_larger_than_the_data_is_refused(dataset):
    data = mixture(dataset)
    assert data.steps == 262 - 2 * 9
    with pytest.raises(InputError, match="batch of 246 samples: expected at most 244"):
        next(batches(data, Order(123, 0, 1, world=2), HERE))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:skipped")
def test_a_broken_picture_is_one_line_with_file_and_step_or_skipped_as_told(maker, agilex, tmp_path, workers):
    folder = maker.folder(tmp_path / "set", (130, 130), height=12, width=16)
    with h5py.File(folder / "e0.hdf5", "a") as file:
        file["/observations/images/cam_high"][:] = np.array([b"\xff\xd8 no picture"] * 130)
    order, config = Order(8, 0, 1), LoaderConfig(workers=workers)
    refusing = mixture(open_dataset(agilex(folder), RULES), config=PLAIN)
    with pytest.raises(InputError, match=r"^.*e0.hdf5: step \d+: cam_high: no readable picture: .*$") as error:
        list(batches(refusing, order, config))
    assert "\n" not in str(error.value)
    skipping = mixture(open_dataset(agilex(folder, corrupt="skip"), RULES), config=PLAIN)
    (batch,) = batches(skipping, order, HERE)
    assert all("e1.hdf5" in where for where in batch.where)


@pytest.mark.filterwarnings("ignore:skipped")
def test_where_everything_is_broken_skipping_ends(maker, agilex, tmp_path):
    folder = maker.folder(tmp_path / "set", (130,), height=12, width=16)
    with h5py.File(folder / "e0.hdf5", "a") as file:
        file["/observations/images/cam_high"][:] = np.array([b"\xff\xd8 no picture"] * 130)
    data = mixture(open_dataset(agilex(folder, corrupt="skip"), RULES), config=PLAIN)
    with pytest.raises(InputError, match="no readable picture"):
        data[0]


def test_background_is_encoded_once_a_batch(dataset):
    for dropout, most in ((0.0, 24), (0.7, 16), (1.0, 8)):
        config = SampleConfig(condition_dropout=dropout, augment=False)
        batch = next(batches(mixture(dataset, config=config), Order(4, 0, 1), HERE))
        pictures = batch.pictures.flatten(0, 1)
        assert len(batch.distinct) <= most and len(batch.distinct) % 8 == 0
        assert torch.equal(pictures[batch.distinct][batch.encoded], pictures)
