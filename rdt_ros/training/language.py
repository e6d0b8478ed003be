"""Tokens of every instruction of the data, looked up once before training."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.language import LanguageEncoder
from rdt_ros.model.store import InstructionStore
from rdt_ros.training.dataset import Dataset

HIDDEN = ""  # the text whose tokens stand for a hidden instruction
LISTED = 5  # texts that a refusal names


def training_tokens(
    datasets: Sequence[Dataset], *, longest: int, hidden: bool, encoder: LanguageEncoder | None = None
) -> dict[str, Tensor]:
    """Tokens (L, width) by text, from each data set's store of `rdt encode`, or from `encoder` where one is given.

    `longest` is the most tokens that the network takes; `hidden` asks for those of the empty text too. InputError says
    which command makes what is missing.
    """
    tokens: dict[str, Tensor] = {}
    for dataset in datasets:
        source = encoder or InstructionStore.open(dataset.config.instructions or dataset.config.path)
        texts = list(dict.fromkeys(_texts(dataset))) + [HIDDEN] * hidden
        if isinstance(source, InstructionStore):
            _check_holds(source, texts, dataset)
        for text in texts:
            found = source.tokens(text)
            if len(found) > longest:
                raise InputError(f"instruction {text!r}: expected at most {longest} tokens, found {len(found)}")
            tokens[text] = found
    if len(widths := {found.shape[1] for found in tokens.values()}) > 1:
        raise InputError(f"language stores: expected one encoder for all data sets, found widths {sorted(widths)}")
    return tokens


def _texts(dataset: Dataset) -> list[str]:
    return [text for episode in dataset.train + dataset.held_out for wording in episode.wordings for text in wording]


def _check_holds(store: InstructionStore, texts: list[str], dataset: Dataset) -> None:
    missing = [text for text in texts if text not in store]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        quoted = " ".join(map(shlex.quote, missing[:LISTED]))
        raise InputError(
            f"data set {dataset.name}: expected tokens of its {len(texts)} instructions in {store.where}, missing "
            f"{len(missing)}: {quoted}{more}; add them: rdt encode {quoted} --store {shlex.quote(store.where)}"
        )
