from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import T5Config

from rdt_ros import encode
from rdt_ros.bench.encode import main as bench
from rdt_ros.bench.encode import make_encoder
from rdt_ros.episodes.instructions import Instructions, path_for
from rdt_ros.episodes.instructions import save as save_instructions
from rdt_ros.errors import InputError
from rdt_ros.model import store, t5

WIDTH = 32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("t5") / "small-t5"
    make_encoder(path, T5Config(d_model=WIDTH, d_kv=16, d_ff=32, num_layers=1, num_heads=2, vocab_size=64))
    return str(path)


def rdt(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    encode.add_parser(parser.add_subparsers())
    args = parser.parse_args(["encode", *map(str, arguments)])
    return args.run(args)


def test_instructions_are_encoded_into_a_store(encoder: str, tmp_path: Path, capsys):
    path = tmp_path / "instructions.safetensors"
    (tmp_path / "tasks.txt").write_text("open the drawer\nfold\n")

    assert rdt("pick up the  cube", "fold", "--encoder", encoder, "--store", path, "--device", "cpu") == 0
    assert rdt("--file", tmp_path / "tasks.txt", "--encoder", encoder, "--store", path, "--device", "cpu") == 0

    made = store.InstructionStore.open(path)
    assert made.texts == ("pick up the cube", "fold", "open the drawer")
    assert (made.model, made.width, made.precision("fold")) == ("small-t5", WIDTH, "bf16")
    assert torch.equal(made.tokens("fold"), t5.T5Encoder.load(encoder, "bf16").tokens("fold"))
    output = capsys.readouterr().out
    assert "mode bf16: bf16, 0.0 GiB of weights on device, computed on cpu" in output
    assert output.count("tokens: fold") == 1  # it was there the second time
    assert output.endswith(f"{path}: 3 instructions, small-t5, width {WIDTH}\n")


def test_all_instructions_of_a_folder_of_episodes_are_encoded_beside_them(encoder: str, tmp_path: Path):
    own, told = tmp_path / "a.hdf5", tmp_path / "more" / "b.hdf5"
    for path, text in ((own, "fold the towel"), (told, "unknown")):
        path.parent.mkdir(exist_ok=True)
        with h5py.File(path, "w") as file:
            file["/observations/qpos"], file["/action"] = np.zeros((2, 14)), np.zeros((2, 14))
            file["/instruction"] = text
    save_instructions(path_for(told), Instructions("open the drawer", ("open it",)))

    assert rdt("--episodes", tmp_path, "--robot", "agilex", "--encoder", encoder, "--device", "cpu") == 0

    made = store.InstructionStore.open(tmp_path)
    assert set(made.texts) == {"fold the towel", "open the drawer", "open it"}
    with pytest.raises(InputError, match="expected episodes"):
        rdt("--episodes", tmp_path / "none", "--encoder", encoder)


def test_an_instruction_json_is_encoded_with_all_its_forms(encoder: str, tmp_path: Path):
    content = {"instruction": "fold", "simplified_instruction": ["fold it"], "expanded_instruction": ["then fold"]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    rdt("--file", tmp_path / "a.json", "--encoder", encoder, "--store", tmp_path / "s", "--mode", "disk")

    assert store.InstructionStore.open(tmp_path / "s").texts == ("fold", "fold it", "then fold")


def test_another_precision_takes_the_place_of_the_first(encoder: str, tmp_path: Path):
    for mode in ("bf16", "host", "fp32"):
        rdt("fold", "--encoder", encoder, "--store", tmp_path / "s", "--mode", mode)

    made = store.InstructionStore.open(tmp_path / "s")
    assert (len(made), made.precision("fold"), made.tokens("fold").dtype) == (1, "fp32", torch.float32)


def test_old_embeddings_are_converted(encoder: str, tmp_path: Path, capsys):
    torch.save({"name": "a", "instruction": "pour", "embeddings": torch.ones(1, 3, WIDTH)}, tmp_path / "a.pt")
    rdt("fold", "--convert", tmp_path / "a.pt", "--encoder", encoder, "--store", tmp_path / "s")

    made = store.InstructionStore.open(tmp_path / "s")
    assert (made.texts, made.model, made.precision("pour")) == (("pour", "fold"), "small-t5", "unknown")
    assert "3 tokens, as they were: pour" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected an instruction, --file, --episodes or --convert, found none"),
        ((" ",), "instruction: expected a text, found an empty one"),
        (("cube " * 1024,), "expected at most 1024 tokens, found 1025"),
        (("fold", "--vram", "6", "--device", "cpu"), "--vram: expected a GPU to compute on, found none"),
        (("fold", "--mode", "4bit", "--device", "cpu"), "mode 4bit: expected a GPU, found device cpu"),
        (("--convert", "none.pt"), "none.pt: No such file or directory"),
        (("--file", "none.txt"), "none.txt: No such file or directory"),
    ],
)
def test_bad_input_gives_one_line_and_no_store(arguments: tuple[str, ...], message: str, encoder: str, tmp_path: Path):
    with pytest.raises(InputError, match=message) as refusal:
        rdt(*arguments, "--encoder", encoder, "--store", tmp_path / "s")

    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "s").exists()


def test_models_are_not_mixed_in_a_store(encoder: str, tmp_path: Path):
    other = store.InstructionStore("other-t5", WIDTH)
    other.add("fold", torch.zeros(2, WIDTH))
    other.save(tmp_path)

    with pytest.raises(
        InputError, match="expected model small-t5 of width 32 as --encoder, found other-t5 of width 32"
    ):
        rdt("pour", "--encoder", encoder, "--store", tmp_path)


def test_an_encoder_that_is_not_there_gives_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="expected a folder with config.json and the weights of a T5, or a Hub id that"
    ):
        rdt("fold", "--encoder", "nobody/no-t5", "--store", tmp_path / "s")


def test_the_parser_needs_no_torch_and_knows_every_mode():
    code = "import sys, rdt_ros.encode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    assert ("auto", *t5.MODES) == encode.MODES
    assert encode.STORE == store.STORE_NAME


@pytest.mark.slow
def test_the_bench_ends_with_its_figures(capsys):
    assert bench(["--size", "tiny", "--modes", "fp32"]) == 0

    figures = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert figures["modes"]["fp32"]["relative_error"] == 0
    assert figures["modes"]["fp32"]["sentence_s"] > 0
    assert figures["modes"]["fp32"]["peak_allocated_gib"] is None  # not measured without a GPU
