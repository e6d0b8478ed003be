"""Tokens of the data's instructions."""

from __future__ import annotations

import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.language import HashedWords
from rdt_ros.model.store import InstructionStore
from rdt_ros.training.config import SampleConfig
from rdt_ros.training.dataset import open_dataset
from rdt_ros.training.language import training_tokens

TEXTS = ("fold the towel", "fold towel", "fold it", "take the towel and fold it twice")


@pytest.fixture
def dataset(maker, agilex, tmp_path):
    return open_dataset(agilex(maker.folder(tmp_path / "set", (130,))), SampleConfig())


def save(folder, texts):
    store = InstructionStore("t5", 8)
    for i, text in enumerate(texts):
        store.add(text, torch.full((i + 1, 8), float(i)))
    store.save(folder)
    return store


def test_tokens_come_from_the_store_in_the_folder(dataset, tmp_path):
    save(tmp_path / "set", TEXTS)
    tokens = training_tokens([dataset], longest=9, hidden=False)
    assert set(tokens) == set(TEXTS) and tokens["fold it"].shape == (3, 8)


def test_a_missing_store_or_text_says_which_command_makes_it(dataset, tmp_path):
    with pytest.raises(InputError, match="expected instructions.safetensors|rdt encode"):
        training_tokens([dataset], longest=9, hidden=False)
    save(tmp_path / "set", TEXTS[:2])
    with pytest.raises(InputError, match="missing 2: 'fold it' .*rdt encode 'fold it' 'take the .*' --store .*set"):
        training_tokens([dataset], longest=9, hidden=False)


def test_hidden_instructions_need_the_tokens_of_the_empty_text(dataset, tmp_path):
    tokens = training_tokens([dataset], longest=9, hidden=True, encoder=HashedWords(8))
    assert tokens[""].shape == (1, 8)
    save(tmp_path / "set", TEXTS)
    with pytest.raises(InputError, match="missing 1: ''; add them: rdt encode '' --store"):
        training_tokens([dataset], longest=9, hidden=True)


def test_instructions_that_are_too_long_are_refused(dataset):
    with pytest.raises(InputError, match="expected at most 7 tokens, found 8"):
        training_tokens([dataset], longest=7, hidden=False, encoder=HashedWords(8))
