"""Finds the tokens of an instruction: in a file, in a store, or from an encoder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.language import FILE_SUFFIXES, LanguageEncoder, normalised
from rdt_ros.model.store import UNKNOWN, InstructionStore, missing


class Instructions:
    """A LanguageEncoder over stores, searched in order, and an encoder that is loaded at the first text they lack.

    Threads may share it: finding a text never waits for another one that is being encoded.
    """

    def __init__(
        self,
        stores: Sequence[InstructionStore],
        width: int,
        load_encoder: Callable[[], LanguageEncoder] | None = None,
    ) -> None:
        self.width = width
        self.instruction = ""  # what it was made for
        self._stores = [self._fitting(store) for store in stores]
        self._load_encoder = load_encoder
        self._encoder: LanguageEncoder | None = None
        self._encoded: dict[str, Tensor] = {}
        self._encoding = threading.Lock()

    def prepare(self, instruction: str) -> str:
        """Makes sure that `tokens` answers at once, and gives the text to ask it for; seconds where it must encode.

        A name that ends as embedding files do is one: its text is given. InputError where there are no tokens.
        """
        if Path(instruction.strip()).suffix in FILE_SUFFIXES:
            return self._add_file(instruction.strip())
        self.tokens(instruction)
        return normalised(instruction)

    def tokens(self, instruction: str) -> Tensor:
        """(L, width)."""
        text = normalised(instruction)
        found = self._find(text)
        if found is None and text and self._load_encoder is not None:
            with self._encoding:
                found = self._find(text)  # another thread may have encoded it meanwhile
                if found is None:
                    self._encoder = self._encoder or self._load_encoder()
                    found = self._encoded[text] = self._encoder.tokens(text)
        if found is None:
            raise missing(instruction, self._stores)
        return found

    def _find(self, text: str) -> Tensor | None:
        if text in self._encoded:
            return self._encoded[text]
        return next((store.tokens(text) for store in self._stores if text in store), None)

    def _add_file(self, path: str) -> str:
        store = self._fitting(InstructionStore.open(path))
        if len(store) != 1:
            raise InputError(f"language store {path}: expected one instruction to follow, found {len(store)}")
        self._stores = [store, *self._stores]  # a new list: other threads may be walking the old one
        return store.texts[0]

    def _fitting(self, store: InstructionStore) -> InstructionStore:
        if store.width != self.width:
            raise InputError(f"language store {store.where}: expected width {self.width}, found {store.width}")
        return store


def language_for(
    instruction: str = "",
    *,
    store: str | Path = "",
    file: str | Path = "",
    encoder: str = "",
    width: int | None = None,
    device: str | torch.device = "cpu",
    mode: str = "auto",
    vram_gib: float | None = None,
) -> Instructions:
    """What a policy asks for tokens, ready for `instruction`, whose text it keeps as `.instruction`.

    A text is looked up in `file`, then in `store` (each anything that InstructionStore.open reads), else encoded by
    `encoder`, a folder or a Hub id. The tokens of a file that names no text are those of `instruction`; without an
    `instruction` a file of one is followed. `width` is what the network takes.
    """
    stores = [InstructionStore.open(path) for path in (file, store) if str(path)]
    if file and instruction and stores[0].texts == (Path(file).stem,):
        stores[0].add(instruction, stores[0].tokens(Path(file).stem))
    if file and not instruction and len(stores[0]) == 1:
        instruction = stores[0].texts[0]
    load_encoder: Callable[[], LanguageEncoder] | None = None
    if encoder:
        found, load_encoder = _encoder(encoder, stores, device, mode, vram_gib)
        if width not in (None, found):
            raise InputError(f"language encoder {encoder}: expected width {width}, found {found}")
        width = found
    if width is None:
        if not stores:
            raise missing(instruction, stores)
        width = stores[0].width
    language = Instructions(stores, width, load_encoder)
    if instruction:
        language.instruction = language.prepare(instruction)
    return language


def _encoder(
    path_or_id: str, stores: Sequence[InstructionStore], device: str | torch.device, mode: str, vram_gib: float | None
) -> tuple[int, Callable[[], LanguageEncoder]]:
    """Its width, and what loads it; refused beside stores of another model."""
    from rdt_ros.model import bert, t5  # slow, and often not needed

    name = bert.model_name(path_or_id)
    for store in stores:
        if store.model not in (UNKNOWN, name):
            raise InputError(f"language store {store.where}: expected one of the encoder {name}, found {store.model}")
    if width := bert.bert_width(path_or_id):
        return width, lambda: bert.BertEncoder.load(path_or_id)
    config = t5.read_config(path_or_id)

    def load() -> LanguageEncoder:
        chosen = t5.choose_mode(config, torch.device(device), vram_gib) if mode == "auto" else mode
        return t5.T5Encoder.load(path_or_id, chosen, device=device)

    return config.d_model, load
