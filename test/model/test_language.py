from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdt_ros.errors import InputError
from rdt_ros.model.language import HashedWords, load_tokens

TOKENS = torch.linspace(-1, 1, 3 * 8).reshape(3, 8).bfloat16()


@pytest.mark.parametrize(
    "stored",
    [{"name": "task", "instruction": "pick", "embeddings": TOKENS[None]}, {"embeddings": TOKENS}, TOKENS, TOKENS[None]],
    ids=["single sentence", "dict", "bare", "batch of one"],
)
def test_every_form_of_the_reference_is_read(stored: object, tmp_path: Path):
    path = tmp_path / "lang.pt"
    torch.save(stored, path)

    assert torch.equal(load_tokens(path), TOKENS)


def test_safetensors_are_read(tmp_path: Path):
    path = tmp_path / "lang.safetensors"
    save_file({"embeddings": TOKENS}, path)

    assert torch.equal(load_tokens(path), TOKENS)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"name": "task"}, "expected a tensor or a dict with 'embeddings', found a dict of name"),
        (["pick"], "expected a tensor, found list"),
        (
            TOKENS[0],
            r"expected floating numbers of shape \(L, width\) or \(1, L, width\), found bfloat16 of shape \(8,\)",
        ),
        (torch.stack([TOKENS, TOKENS]), r"of shape \(2, 3, 8\)"),
        (TOKENS[:0], r"of shape \(0, 8\)"),
        (TOKENS * float("nan"), "expected finite values"),
    ],
)
def test_other_content_is_refused(stored: object, message: str, tmp_path: Path):
    path = tmp_path / "lang.pt"
    torch.save(stored, path)

    with pytest.raises(InputError, match=message):
        load_tokens(path)


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_a_pickle_that_runs_code_is_refused_unrun(write, tmp_path: Path):
    path, trace = tmp_path / "lang.pt", tmp_path / "ran"
    write({"embeddings": Intruder(f"touch {trace}")}, path)

    with pytest.raises(InputError, match="found a pickle that asks for posix.system; nothing was run"):
        load_tokens(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["lang.pt", "lang.safetensors"])
def test_absent_empty_and_cut_files_give_one_line(name: str, tmp_path: Path):
    path = tmp_path / name
    with pytest.raises(InputError, match="No such file"):
        load_tokens(path)

    path.write_bytes(b"")
    with pytest.raises(InputError, match="expected a (torch|safetensors) file"):
        load_tokens(path)

    torch.save(TOKENS, path) if name.endswith("pt") else save_file({"embeddings": TOKENS}, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="expected a (torch|safetensors) file"):
        load_tokens(path)


def test_the_stand_in_tells_texts_apart_and_repeats_itself():
    words = HashedWords(64)

    assert words.tokens("pick up the cube").shape == (5, 64)
    assert torch.equal(words.tokens("Pick  up the cube"), HashedWords(64).tokens("pick up the cube"))
    assert not torch.equal(words.tokens("pick up the cube"), words.tokens("pick up the ball"))
    assert torch.equal(words.tokens("pick")[-1], words.tokens("put it down")[-1])  # the end of the text
