"""`rdt bench encode`: GPU memory and time of a T5 encoder with random weights, in each mode.

Every mode runs in a process of its own under the memory limit that it is made for. Without a GPU it runs on the CPU
and has no memory figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from rdt_ros.errors import InputError
from rdt_ros.model import t5

SIZES: dict[str, dict[str, Any]] = {
    "xxl": {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128},
    "tiny": {"d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 3, "num_heads": 4, "vocab_size": 128},
}
MEASURED = ("fp32", "bf16", "8bit", "4bit", "host", "disk")
LIMIT_GIB = {"8bit": 8.0, "4bit": 6.0, "host": 2.0, "disk": 2.0}  # of a GPU on which the mode shall work
REFERENCE = "fp32"  # measured first; the others' error is against it
SENTENCE_WORDS = 20
BATCH = 32
REPEATS = 5
WORDS = (
    "pick", "up", "the", "red", "green", "cube", "ball", "cup", "towel", "and", "place", "it", "in", "on", "left",
    "arm", "hand", "over", "pour", "water", "open", "close", "drawer", "fold", "slowly", "then",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Prints a line a mode, then one JSON object; exit code 1 where a mode could not be measured."""
    parser = argparse.ArgumentParser(prog="rdt bench encode", description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="xxl", help="default: %(default)s")
    parser.add_argument("--modes", help=f"default: {','.join(MEASURED)}, without the quantised ones on the CPU")
    parser.add_argument("--seconds", type=float, default=390.0, help="time for all of it; default: %(default)s")
    parser.add_argument("--folder", help="where to make the encoder, 10 GB for xxl; default: a temporary one")
    parser.add_argument("--measure", metavar="MODE", help=argparse.SUPPRESS)  # in a child, of an encoder made before
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(_measure(args.measure, Path(args.folder))))
        return 0
    deadline = time.monotonic() + args.seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    modes = [mode for mode in MEASURED if device == "cuda" or not t5.MODES[mode].quantised]
    modes = args.modes.split(",") if args.modes else modes
    if unknown := [mode for mode in modes if mode not in t5.MODES]:
        raise InputError(f"--modes: expected some of {', '.join(t5.MODES)}, found {unknown[0]!r}")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        began = time.monotonic()
        parameters = make_encoder(Path(folder), T5Config(**SIZES[args.size], feed_forward_proj="gated-gelu"), device)
        made_s = round(time.monotonic() - began, 1)
        print(f"{parameters / 1e9:.3f} G parameters on {name}, made and saved in {made_s} s", flush=True)
        results = {}
        for mode in modes:
            results[mode] = _in_child(mode, folder, deadline)
            print(f"{mode:<10}" + "  ".join(f"{key} {value}" for key, value in results[mode].items()), flush=True)
    versions = {"torch": torch.__version__, "parameters": parameters}
    print(json.dumps({"size": args.size, "device": name, **versions, "made_s": made_s, "modes": results}))
    return 0 if all(figures["error"] is None for figures in results.values()) else 1


def make_encoder(folder: Path, config: T5Config, device: str = "cpu") -> int:
    """Saves an encoder with random weights in bf16, made where it is fast, and its tokenizer; gives the parameters."""
    with torch.device("meta"):
        model: Any = T5EncoderModel(config)
    model.to(torch.bfloat16).to_empty(device=device)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            nn.init.ones_(weight)
        else:
            # T5's own scale: products of unit inputs are units, except that queries carry the attention's scaling.
            inputs = 1 if "shared" in name else weight.shape[1]
            scaled = config.d_kv if name.endswith(".q.weight") else 1
            nn.init.normal_(weight, std=(inputs * scaled) ** -0.5, generator=generator)
    model.save_pretrained(folder, max_shard_size="2GB")
    word_tokenizer().save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of WORDS, and T5's special tokens under their own numbers."""
    special = ("<pad>", "</s>", "<unk>")
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _in_child(mode: str, folder: str, deadline: float) -> dict[str, Any]:
    """The figures of a mode, or nulls and what went wrong."""
    left_s = deadline - time.monotonic()
    command = [sys.executable, "-m", "rdt_ros.bench.encode", "--measure", mode, "--folder", folder]
    error = "no time left"
    if left_s > 1:
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=left_s)
            lines = child.stdout.strip().split("\n")
            if child.returncode == 0:
                return json.loads(lines[-1])
            error = (child.stderr.strip() or "no output").split("\n")[-1]
        except subprocess.TimeoutExpired:
            pass
    return {**dict.fromkeys(_figures()), "error": error}


def _figures() -> tuple[str, ...]:
    return (
        "load_s", "load_peak_gib", "first_s", "sentence_s", "batch_sentence_s", "longest_s", "peak_allocated_gib",
        "longest_peak_gib", "device_gib", "limit_gib", "relative_error",
    )  # fmt: skip


def _measure(mode: str, folder: Path) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    device, figures = "cuda" if on_gpu else "cpu", dict.fromkeys(_figures())
    if on_gpu and mode in LIMIT_GIB:
        figures["limit_gib"] = LIMIT_GIB[mode]
        t5.limit_memory(LIMIT_GIB[mode])
    _forget(folder)
    offload = folder / "offload"
    encoder, figures["load_s"] = _timed(lambda: t5.T5Encoder.load(str(folder), mode, device=device, offload=offload))
    figures["load_peak_gib"] = _peak_gib(on_gpu)
    _forget(folder)
    sentences = _sentences(BATCH, SENTENCE_WORDS)
    tokens, figures["first_s"] = _timed(lambda: encoder.tokens(sentences[0]))
    times = [_timed(lambda: encoder.tokens(sentences[0]))[1] for _ in range(REPEATS)]
    figures["sentence_s"] = round(statistics.median(times), 4)
    figures["batch_sentence_s"] = round(_timed(lambda: encoder.encode(sentences))[1] / BATCH, 4)
    figures["peak_allocated_gib"] = _peak_gib(on_gpu)
    error = None
    try:
        _, figures["longest_s"] = _timed(lambda: encoder.tokens(_sentences(1, t5.MAX_TOKENS - 1)[0]))
        figures["longest_peak_gib"] = _peak_gib(on_gpu)
    except InputError as refusal:  # the other figures stand
        error = str(refusal)
    if on_gpu:  # the allocator gives nothing back, so what is taken now is the most that was; nobody else may compute
        free, total = torch.cuda.mem_get_info()
        figures["device_gib"] = round((total - free) / t5.GIB, 2)
    saved = folder / f"{REFERENCE}.tokens"
    if mode == REFERENCE:
        torch.save(tokens, saved)
    if saved.exists():
        exact = torch.load(saved, weights_only=True)
        figures["relative_error"] = round(float((tokens.float() - exact).norm() / exact.norm()), 6)
    return {**figures, "error": error}


def _sentences(count: int, words: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Its result, which is on the CPU when it is there, and the seconds that it took."""
    began = time.perf_counter()
    result = work()
    return result, round(time.perf_counter() - began, 4)


def _peak_gib(on_gpu: bool) -> float | None:
    return round(torch.cuda.max_memory_allocated() / t5.GIB, 2) if on_gpu else None


def _forget(folder: Path) -> None:
    """Lets the system drop the weights that it has cached, so that the disk is read."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
