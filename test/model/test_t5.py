from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

from rdt_ros.bench.encode import make_encoder, word_tokenizer
from rdt_ros.errors import InputError
from rdt_ros.model import t5
from rdt_ros.model.t5 import GIB, MODES, T5Encoder, choose_mode, device_bytes, fitting_mode, weight_bytes

SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 3, "num_heads": 4, "vocab_size": 128}
XXL = T5Config(
    d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128, feed_forward_proj="gated-gelu"
)
TEXTS = ["pick up the red cube", "open the drawer slowly then place the cup in it", "fold", "pour water"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("t5") / "small-t5"
    make_encoder(path, T5Config(**SMALL, feed_forward_proj="gated-gelu"))
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[torch.Tensor]:
    """What transformers alone gives for one sentence at a time."""
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [word_tokenizer()(text, return_tensors="pt").input_ids for text in TEXTS]
    with torch.inference_mode():
        return [model(row).last_hidden_state[0] for row in ids]


@pytest.mark.parametrize("mode", ["fp32", "host-fp32", "disk-fp32"])
def test_every_mode_gives_the_same_vectors(mode: str, folder: Path, expected: list[torch.Tensor]):
    encoder = T5Encoder.load(str(folder), mode)

    together = encoder.encode(TEXTS)
    alone = [encoder.tokens(text) for text in TEXTS]

    assert encoder.width == 64
    for found, single, right in zip(together, alone, expected, strict=True):
        assert found.shape == right.shape  # the end token is there, the padding is not
        torch.testing.assert_close(found, right, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(single, right, atol=TOLERANCE, rtol=0)


def test_bf16_modes_agree_with_each_other_to_the_bit(folder: Path, expected: list[torch.Tensor]):
    whole, host, disk = (T5Encoder.load(str(folder), mode).tokens(TEXTS[0]) for mode in ("bf16", "host", "disk"))

    assert whole.dtype == torch.bfloat16
    assert torch.equal(whole, host) and torch.equal(whole, disk)
    assert 1e-4 < float((whole.float() - expected[0]).norm() / expected[0].norm()) < 0.03


@pytest.mark.parametrize(("mode", "kept"), [("host-fp32", set()), ("disk-fp32", {"shared", "encoder"})])
def test_streamed_weights_are_not_kept_on_the_device(mode: str, kept: set[str], folder: Path):
    encoder = T5Encoder.load(str(folder), mode)
    encoder.tokens(TEXTS[0])

    present = {name for name, weight in encoder._model.named_parameters() if weight.device.type != "meta"}
    assert not [name for name in present if ".block." in name]
    assert {name.split(".")[0] for name in present} == kept


def test_the_encoder_of_a_whole_t5_in_a_torch_file_is_read(folder: Path, tmp_path: Path):
    torch.manual_seed(0)
    whole = T5ForConditionalGeneration(T5Config(**SMALL, num_decoder_layers=1))
    whole.config.save_pretrained(tmp_path)
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    word_tokenizer().save_pretrained(tmp_path)

    resident = T5Encoder.load(str(tmp_path), "fp32").tokens(TEXTS[0])
    streamed = T5Encoder.load(str(tmp_path), "disk-fp32", offload=tmp_path / "offload").tokens(TEXTS[0])

    assert torch.equal(resident, streamed)
    assert list((tmp_path / "offload").iterdir())
    with pytest.raises(InputError, match="found a torch file: give --offload a folder with room for a copy of"):
        T5Encoder.load(str(tmp_path), "disk-fp32")


def test_a_batch_is_cut_so_that_its_padding_stays_within_the_longest_instruction():
    lengths = [3, 1000, 20, 21, 500, 500, 4]

    batches = list(t5._batches(lengths))

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= t5.BATCH_TOKENS for batch in batches)
    assert len(batches) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cube " * 1024, "expected at most 1024 tokens, found 1025"),
        ("拿起 杯子", "knows none of its words"),
    ],
)
def test_an_instruction_that_cannot_be_encoded_is_refused(text: str, message: str, folder: Path):
    encoder = T5Encoder.load(str(folder), "fp32")

    assert len(encoder.tokens("cube " * 1023)) == 1024
    assert len(encoder.tokens(" \n")) == 1  # a hidden instruction is the end token alone
    with pytest.raises(InputError, match=message) as refusal:
        encoder.tokens(text)
    assert "\n" not in str(refusal.value)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def a_pickle_that_runs_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"shared.weight": Intruder()}, folder / "pytorch_model.bin")


class Intruder:
    """Would end the process when it is unpickled."""

    def __reduce__(self):
        return os._exit, (1,)


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["encoder.final_layer_norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "expected a folder with config.json and the weights of a T5, or a Hub id"),
        (cut, "expected a folder with config.json and the weights of a T5"),
        (without_weight, "1 weights missing, first encoder.block.1.layer.0.SelfAttention.q.weight"),
        (a_pickle_that_runs_code, "expected a folder with config.json and the weights of a T5"),
        (another_model, "expected a T5, found a model of type 'bert'"),
        (without_tokenizer, "knows none of its words|expected tokenizer.json"),
        (nan, "found NaN or infinity for 'pick up the red cube'"),
    ],
)
@pytest.mark.parametrize("mode", ["fp32", "disk-fp32"])
def test_a_damaged_encoder_is_refused_in_one_line(mode: str, damage, message: str, folder: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    broken = shutil.copytree(folder, tmp_path / "broken")
    damage(broken)

    with pytest.raises(InputError, match=message) as refusal:
        T5Encoder.load(str(broken), mode).tokens(TEXTS[0])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", ["8bit", "4bit"])
def test_quantised_modes_need_a_gpu_and_bitsandbytes(mode: str, folder: Path, monkeypatch):
    with pytest.raises(InputError, match=f"mode {mode}: expected a GPU, found device cpu"):
        T5Encoder.load(str(folder), mode)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"mode {mode}: needs bitsandbytes: pip install bitsandbytes"):
        T5Encoder.load(str(folder), mode, device="cuda:0")


def test_an_unknown_mode_is_refused(folder: Path):
    with pytest.raises(InputError, match="mode: expected one of fp32, bf16, .*, found 'int8'"):
        T5Encoder.load(str(folder), "int8")


@pytest.mark.parametrize(
    ("vram_gib", "host_gib", "quantised", "mode"),
    [
        (24, 64, True, "bf16"),
        (12, 64, True, "bf16"),
        (8, 64, True, "8bit"),
        (6, 64, True, "4bit"),
        (6, 64, False, "host"),
        (2, 64, True, "host"),
        (2, 4, True, "disk"),
    ],
)
def test_the_best_mode_that_fits_is_chosen_for_t5_xxl(vram_gib: float, host_gib: float, quantised: bool, mode: str):
    assert fitting_mode(XXL, int(vram_gib * GIB), int(host_gib * GIB), quantised=quantised) == mode


def test_too_little_memory_is_refused_with_what_is_needed():
    with pytest.raises(InputError, match=r"GPU memory: expected at least 1\.\d GiB, found 1\.0"):
        fitting_mode(XXL, GIB, 64 * GIB, quantised=True)


def test_without_a_gpu_the_host_memory_decides(monkeypatch):
    assert choose_mode(T5Config(**SMALL), torch.device("cpu")) == "bf16"
    monkeypatch.setattr(t5, "HOST_SHARE", 0.0)
    assert choose_mode(T5Config(**SMALL), torch.device("cpu")) == "disk"
    with pytest.raises(InputError, match="--vram: expected a GPU, found device cpu"):
        choose_mode(T5Config(**SMALL), torch.device("cpu"), 6.0)


def test_the_size_of_t5_xxl_is_known():
    assert weight_bytes(XXL, "fp32") == 4 * 4_762_310_656
    assert weight_bytes(XXL, "bf16") == 2 * 4_762_310_656
    assert all(device_bytes(XXL, mode) > weight_bytes(XXL, MODES[mode].precision) for mode in ("bf16", "8bit", "4bit"))
