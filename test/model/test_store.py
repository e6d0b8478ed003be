from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt_ros.errors import InputError
from rdt_ros.model.store import STORE_NAME, InstructionStore, read_instructions

WIDTH = 8
TEXTS = ["Pick up the cube.", "Grab the cube.", "Take the red cube from the table."]


def tokens(length: int, seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(length, width, generator=torch.Generator().manual_seed(seed)).bfloat16()


def a_store() -> InstructionStore:
    store = InstructionStore("small-t5", WIDTH)
    for i, text in enumerate(TEXTS):
        store.add(text, tokens(3 + i, i), "bf16")
    return store


@pytest.mark.parametrize("name", ["some.safetensors", "folder"])
def test_what_is_saved_reads_back_the_same(name: str, tmp_path: Path):
    a_store().save(tmp_path / "deep" / name)
    store = InstructionStore.open(tmp_path / "deep" / name)

    assert (store.model, store.width, store.texts) == ("small-t5", WIDTH, tuple(TEXTS))
    for i, text in enumerate(TEXTS):
        assert torch.equal(store.tokens(text), tokens(3 + i, i))
        assert store.tokens(text).dtype == torch.bfloat16
        assert store.precision(text) == "bf16"
    assert [path.suffix for path in (tmp_path / "deep").rglob("*") if path.is_file()] == [".safetensors"]


def test_white_space_does_not_matter_and_case_does():
    store = a_store()

    assert torch.equal(store.tokens("  Pick up\n the  cube. "), store.tokens(TEXTS[0]))
    assert "pick up the cube." not in store


def test_a_text_added_again_has_its_new_tokens():
    store = a_store()
    store.add(TEXTS[0], tokens(9)[None], "fp32")

    assert (len(store), len(store.tokens(TEXTS[0])), store.precision(TEXTS[0])) == (3, 9, "fp32")


def test_a_slice_of_a_batch_is_saved_alone(tmp_path: Path):
    batch = torch.zeros(100, 3, WIDTH)
    store = InstructionStore("small-t5", WIDTH)
    store.add("one", batch[0])
    store.add("two", batch[1])
    store.save(tmp_path / STORE_NAME)

    assert (tmp_path / STORE_NAME).stat().st_size < 1000


def test_a_miss_lists_the_nearest_first_and_the_command():
    with pytest.raises(InputError) as refusal:
        a_store().tokens("grab the cube")

    line = str(refusal.value)
    assert line.startswith("instruction 'grab the cube': not in new, which holds 'Grab the cube.', 'Pick up the cube.'")
    assert "rdt encode 'grab the cube' --store new" in line
    assert "\n" not in line


def test_a_long_list_is_cut():
    store = InstructionStore("small-t5", WIDTH)
    for i in range(20):
        store.add(f"text {i}", tokens(2))

    with pytest.raises(InputError, match=r"holds 'text \d+'(, 'text \d+'){4} and 15 more; add it"):
        store.tokens("another")


@pytest.mark.parametrize(
    ("text", "added", "message"),
    [
        ("a", tokens(3, width=4), "'a': expected width 8, found 4"),
        ("a", tokens(3)[0], r"expected floating numbers of shape \(L, width\) or .*, found bfloat16 of shape \(8,\)"),
        ("a", tokens(3)[:0], r"found bfloat16 of shape \(0, 8\)"),
        ("a", torch.zeros(3, WIDTH, dtype=torch.int8), "found int8 of shape"),
        ("a", tokens(3) * torch.nan, "'a': expected finite values, found NaN or infinity"),
    ],
)
def test_wrong_tokens_are_not_added(text: str, added: torch.Tensor, message: str):
    with pytest.raises(InputError, match=message):
        a_store().add(text, added)


@pytest.mark.parametrize(("model", "width"), [("other-t5", WIDTH), ("small-t5", 4)])
def test_other_models_and_widths_are_not_merged(model: str, width: int):
    with pytest.raises(InputError, match=f"expected small-t5 of width 8 as in new, found {model} of width {width}"):
        a_store().merge(InstructionStore(model, width))


def change_a_value(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_a_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Grab the", b"Drop the"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_value, "expected the content of its sha256, found another"),
        (change_a_text, "expected the content of its sha256, found another"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "expected a safetensors file, found something else"),
        (lambda path: path.write_bytes(b""), "expected a safetensors file, found something else"),
        (lambda path: save_file({"0": tokens(2)}, path, {"format": "pt"}), "expected format rdt_ros.instructions.1"),
        (Path.unlink, "No such file or directory; `rdt encode` makes one"),
    ],
)
def test_a_damaged_store_is_refused_in_one_line(damage, message: str, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    a_store().save(path)
    damage(path)

    with pytest.raises(InputError, match=message) as refusal:
        InstructionStore.open(path)
    assert "\n" not in str(refusal.value)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.safetensors"
    a_store().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    larger = a_store()
    larger.add("more", tokens(4))

    with pytest.raises(InputError, match="could not be written: disk full"):
        larger.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# What came before the store.


@pytest.mark.parametrize("stored", [tokens(5), tokens(5)[None]], ids=["bare", "batch of one"])
def test_a_tensor_is_named_by_its_file(stored: torch.Tensor, tmp_path: Path):
    torch.save(stored, tmp_path / "text_embed_PegInsertion-v1.pt")
    store = InstructionStore.open(tmp_path / "text_embed_PegInsertion-v1.pt")

    assert (store.texts, store.width, store.model) == (("text_embed_PegInsertion-v1",), WIDTH, "unknown")
    assert torch.equal(store.tokens("text_embed_PegInsertion-v1"), tokens(5))


def test_the_dict_of_the_single_sentence_script_says_its_text(tmp_path: Path):
    torch.save({"name": "task", "instruction": "Pour water.", "embeddings": tokens(5)[None]}, tmp_path / "task.pt")

    assert torch.equal(InstructionStore.open(tmp_path / "task.pt").tokens("Pour water."), tokens(5))
    assert InstructionStore.open(tmp_path).texts == ("Pour water.",)  # outs/, where the script writes


def test_a_safetensors_file_of_one_instruction_is_read(tmp_path: Path):
    save_file({"embeddings": tokens(5)}, tmp_path / "pour.safetensors")

    assert torch.equal(InstructionStore.open(tmp_path / "pour.safetensors").tokens("pour"), tokens(5))


def write_json(folder: Path) -> None:
    content = {"instruction": TEXTS[0], "simplified_instruction": [TEXTS[1]], "expanded_instruction": TEXTS[2]}
    (folder / "expanded_instruction_gpt-4-turbo.json").write_text(json.dumps(content))
    (folder / "config.json").write_text('{"rdt": {}}')  # another program's


@pytest.mark.parametrize("name", ["lang_embed_{}.pt", "lang_embeds_{}.pt"])
def test_numbered_files_get_the_texts_beside_them(name: str, tmp_path: Path):
    for i in range(3):
        torch.save(tokens(3 + i, i), tmp_path / name.format(i))
    torch.save({"module": {}}, tmp_path / "mp_rank_00_model_states.pt")  # a checkpoint, not an embedding
    write_json(tmp_path)
    store = InstructionStore.open(tmp_path)

    assert store.texts == tuple(TEXTS)
    assert all(torch.equal(store.tokens(text), tokens(3 + i, i)) for i, text in enumerate(TEXTS))


@pytest.mark.parametrize("name", ["lang_embeds.pt", "lang_embed.pt"])
def test_a_file_without_a_number_is_the_original_instruction(name: str, tmp_path: Path):
    torch.save(tokens(4), tmp_path / name)
    assert InstructionStore.open(tmp_path).texts == (name.removesuffix(".pt"),)

    write_json(tmp_path)
    assert torch.equal(InstructionStore.open(tmp_path).tokens(TEXTS[0]), tokens(4))


def test_numbers_count_as_numbers(tmp_path: Path):
    for i in range(11):
        torch.save(tokens(3, i), tmp_path / f"lang_embed_{i}.pt")

    assert InstructionStore.open(tmp_path).texts == tuple(f"lang_embed_{i}" for i in range(11))


def test_two_names_for_one_text_must_agree(tmp_path: Path):
    write_json(tmp_path)
    torch.save(tokens(4), tmp_path / "lang_embed_0.pt")
    torch.save(tokens(4), tmp_path / "lang_embeds_0.pt")
    assert InstructionStore.open(tmp_path).texts == (TEXTS[0],)

    torch.save(tokens(5), tmp_path / "lang_embeds_0.pt")
    with pytest.raises(InputError, match="lang_embeds_0.pt: expected 4 tokens as in another file for 'Pick up"):
        InstructionStore.open(tmp_path)


def test_a_folder_that_does_not_fit_together_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"expected instructions.safetensors or lang_embed_0.pt ..., found nothing"):
        InstructionStore.open(tmp_path)
    (tmp_path / "instruction.npy").touch()
    with pytest.raises(InputError, match="found instruction.npy"):
        InstructionStore.open(tmp_path)

    torch.save(tokens(4), tmp_path / "lang_embed_0.pt")
    torch.save(tokens(4, width=4), tmp_path / "lang_embed_1.pt")
    with pytest.raises(InputError, match="expected width 8, found 4"):
        InstructionStore.open(tmp_path)

    torch.save(tokens(4), tmp_path / "lang_embed_1.pt")
    torch.save(tokens(4), tmp_path / "lang_embed_7.pt")
    write_json(tmp_path)
    with pytest.raises(InputError, match="lang_embed_7.pt: expected a number below 3, .* found 7"):
        InstructionStore.open(tmp_path)

    (tmp_path / "second.json").write_text('{"instruction": "a"}')
    with pytest.raises(InputError, match="expected one instruction JSON, found expanded_.*, second.json"):
        InstructionStore.open(tmp_path)


def test_a_pickle_of_agilex_is_refused_with_a_way_out(tmp_path: Path):
    path = tmp_path / "instruction.npy"
    np.save(path, np.array({"vector": np.ones((3, WIDTH), np.float32), "input_ids": [1, 2, 3]}, dtype=object))

    with pytest.raises(
        InputError, match="AgileX's tools keep a pickle; if you trust it, convert it: python3"
    ) as refusal:
        InstructionStore.open(path)
    code = str(refusal.value).split('python3 -c "')[1].removesuffix('"')
    exec(code)  # the way out works
    assert torch.equal(InstructionStore.open(path.with_suffix(".pt")).tokens("instruction"), torch.ones(3, WIDTH))


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_named_and_not_run(protocol: int, tmp_path: Path):
    trace = tmp_path / "ran"
    (tmp_path / "lang_embed_0.pt").write_bytes(pickle.dumps({"embeddings": Intruder(f"touch {trace}")}, protocol))

    with pytest.raises(InputError, match="found a pickle that asks for posix.system; nothing was run"):
        InstructionStore.open(tmp_path)
    assert not trace.exists()


def test_instructions_are_read_from_lines_and_from_json(tmp_path: Path):
    (tmp_path / "tasks.txt").write_text("Pick up the cube.\n\n  Grab the cube.  \n")
    write_json(tmp_path)

    assert [text.strip() for text in read_instructions(tmp_path / "tasks.txt")] == TEXTS[:2]
    assert read_instructions(tmp_path / "expanded_instruction_gpt-4-turbo.json") == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "expected at least one instruction, found none"),
        ("a.txt", b"\xff\xfe", "expected UTF-8 text"),
        ("a.json", b"{", "expected JSON"),
        ("a.json", b"[]", "expected an object with instruction, simplified_instruction, expanded_instruction"),
        ("a.json", b'{"instruction": "a", "expanded_instruction": [""]}', "expanded_instruction: expected a text or"),
        ("a.json", b'{"instruction": 3}', "instruction: expected a text or a list of texts"),
    ],
)
def test_a_wrong_instruction_file_is_refused(name: str, content: bytes, message: str, tmp_path: Path):
    with pytest.raises(InputError, match="No such file"):
        read_instructions(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_instructions(tmp_path / name)


def test_the_file_is_plain_safetensors_for_others(tmp_path: Path):
    a_store().save(tmp_path / STORE_NAME)

    assert sorted(load_file(tmp_path / STORE_NAME)) == ["0", "1", "2"]
