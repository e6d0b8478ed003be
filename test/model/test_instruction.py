from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from transformers import T5Config

from rdt_ros.bench.encode import make_encoder
from rdt_ros.errors import InputError
from rdt_ros.model.instruction import Instructions, language_for
from rdt_ros.model.language import HashedWords
from rdt_ros.model.store import STORE_NAME, InstructionStore
from rdt_ros.model.t5 import T5Encoder

WIDTH = 64
CUBE, CUP = torch.full((3, WIDTH), 0.5), torch.full((4, WIDTH), 0.25)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = InstructionStore("small-t5", WIDTH)
    made.add("pick up the cube", CUBE)
    made.add("pick up the cup", CUP)
    made.save(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("t5") / "small-t5"
    make_encoder(path, T5Config(d_model=WIDTH, d_kv=16, d_ff=32, num_layers=1, num_heads=2, vocab_size=64))
    return str(path)


def test_a_text_is_looked_up_in_a_store(store: Path):
    language = language_for("pick up  the cube", store=store / STORE_NAME, width=WIDTH)

    assert language.instruction == "pick up the cube"
    assert torch.equal(language.tokens(language.instruction), CUBE)
    assert torch.equal(language.tokens(language.prepare("pick up the cup")), CUP)


def test_a_miss_lists_the_store_and_says_the_command(store: Path):
    with pytest.raises(
        InputError, match=r"'pick up a cup': not in .*, which holds 'pick up the cup', .* rdt encode 'p"
    ):
        language_for("pick up a cup", store=store)


def test_without_anything_the_command_is_said():
    with pytest.raises(InputError, match="'fold it': expected a language store, .* found none; .*rdt encode 'fold it'"):
        language_for("fold it")


def test_a_text_that_no_store_holds_is_encoded_once(store: Path, encoder: str):
    language = language_for("pick up the towel", store=store, encoder=encoder, mode="fp32")
    encoded = language.tokens("pick up the towel")

    assert torch.equal(encoded, T5Encoder.load(encoder, "fp32").tokens("pick up the towel"))
    assert language.tokens(" pick up  the towel") is encoded
    assert torch.equal(language.tokens("pick up the cube"), CUBE)  # what is stored is not encoded


def test_an_encoder_is_loaded_at_the_first_text_that_is_lacking(encoder: str):
    language = language_for(encoder=encoder)
    assert (language.width, language.instruction) == (WIDTH, "")
    assert language.tokens("cube").dtype == torch.bfloat16  # the best mode that fits, on the CPU


def test_a_file_without_a_text_holds_the_instruction(tmp_path: Path):
    torch.save(CUBE, tmp_path / "cube.pt")

    assert language_for(file=tmp_path / "cube.pt").instruction == "cube"
    assert torch.equal(language_for("pick up the cube", file=tmp_path / "cube.pt").tokens("pick up the cube"), CUBE)


def test_a_file_with_another_text_is_not_taken_for_the_instruction(tmp_path: Path):
    torch.save({"name": "cup", "instruction": "pick up the cup", "embeddings": CUP[None]}, tmp_path / "cup.pt")

    assert language_for(file=tmp_path / "cup.pt").instruction == "pick up the cup"
    with pytest.raises(InputError, match="'pick up the cube': not in .*cup.pt, which holds 'pick up the cup'"):
        language_for("pick up the cube", file=tmp_path / "cup.pt")


def test_an_instruction_may_name_a_file(store: Path):
    torch.save({"name": "cube", "instruction": "pick up the cube", "embeddings": CUP[None]}, store / "cube.pt")
    language = language_for("pick up the cup", store=store, width=WIDTH)

    assert language.prepare(str(store / "cube.pt")) == "pick up the cube"
    assert torch.equal(language.tokens("pick up the cube"), CUP)  # the file given last
    with pytest.raises(InputError, match="none.pt: No such file"):
        language.prepare("none.pt")
    with pytest.raises(InputError, match="expected one instruction to follow, found 2"):
        language.prepare(str(store / STORE_NAME))


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_instruction_is_refused(text: str, store: Path, encoder: str):
    for language in (language_for(store=store), language_for(encoder=encoder)):
        with pytest.raises(InputError, match="instruction: expected a text"):
            language.prepare(text)


def test_a_refused_instruction_leaves_the_others(store: Path):
    language = language_for("pick up the cube", store=store)
    with pytest.raises(InputError):
        language.prepare("fly")

    assert torch.equal(language.tokens(language.instruction), CUBE)


def test_other_widths_and_models_are_refused(store: Path, encoder: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"language store .*: expected width 4096, found 64"):
        language_for(store=store, width=4096)
    with pytest.raises(InputError, match=r"language encoder .*small-t5: expected width 4096, found 64"):
        language_for(encoder=encoder, width=4096)
    torch.save(torch.zeros(3, 8), tmp_path / "narrow.pt")
    with pytest.raises(InputError, match=r"narrow.pt: expected width 64, found 8"):
        language_for(store=store, width=WIDTH).prepare(str(tmp_path / "narrow.pt"))

    other = InstructionStore("other-t5", WIDTH)
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="expected one of the encoder small-t5, found other-t5"):
        language_for(store=tmp_path / "other", encoder=encoder)


class SlowWords(HashedWords):
    """Waits until it is let go, and counts."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.begun, self.go, self.calls = threading.Event(), threading.Event(), 0

    def tokens(self, instruction: str) -> torch.Tensor:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        return super().tokens(instruction)


def test_finding_a_text_does_not_wait_for_another_that_is_being_encoded(store: Path):
    slow = SlowWords()
    language = Instructions([InstructionStore.open(store)], WIDTH, lambda: slow)
    threads = [threading.Thread(target=language.prepare, args=("fold the towel",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert slow.begun.wait(10)

    assert torch.equal(language.tokens("pick up the cube"), CUBE)  # while the others still wait
    assert all(thread.is_alive() for thread in threads)
    slow.go.set()
    for thread in threads:
        thread.join(10)
    assert slow.calls == 1
    assert torch.equal(language.tokens("fold the towel"), HashedWords(WIDTH).tokens("fold the towel"))
