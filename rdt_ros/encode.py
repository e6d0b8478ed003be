"""`rdt encode`: language embeddings of instructions, into a store."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rdt_ros.errors import InputError

if TYPE_CHECKING:
    import torch

    from rdt_ros.model.store import InstructionStore

ENCODER = "google/t5-v1_1-xxl"  # what every published RDT was trained with
STORE = "instructions.safetensors"
MINILM = "minilm"  # rdt_ros.model.bert
MODES = ("auto", "fp32", "bf16", "8bit", "4bit", "host", "disk", "host-fp32", "disk-fp32")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "language embeddings of instructions, into a store that the policy looks them up in"
    encode = commands.add_parser("encode", help=what, description=what)
    encode.add_argument("instructions", nargs="*", metavar="INSTRUCTION", help="what the robot shall do, in words")
    encode.add_argument("--file", help="more instructions: a text file, one a line, or an instruction .json")
    encode.add_argument("--convert", metavar="PATH", help="add what an embedding file or a folder of them holds")
    encode.add_argument("--episodes", metavar="DIR", help="more instructions: those of all episodes in a folder")
    encode.add_argument("--robot", help="of episodes that do not carry one: name or YAML file")
    store = f"file to add to, made where it is absent; default: {STORE}, in the folder of --episodes if given"
    encode.add_argument("--store", help=store)
    which = f"folder or Hub id of a T5 or a BERT, or {MINILM}, a small one from PyPI; default: %(default)s"
    encode.add_argument("--encoder", default=ENCODER, help=which)
    encode.add_argument("--vram", type=float, metavar="GIB", help="GPU memory to stay within; default: what is free")
    encode.add_argument("--mode", choices=MODES, default="auto", help="default: the best that fits")
    encode.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    encode.add_argument("--offload", metavar="DIR", help="for mode disk and a pytorch_model.bin: room for a copy")
    encode.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encodes what the store lacks in this precision, saves it once, and prints what it holds."""
    from rdt_ros.model.language import normalised
    from rdt_ros.model.store import InstructionStore, read_instructions

    args.store = args.store or str(Path(args.episodes or "") / STORE)
    texts = [*args.instructions, *(read_instructions(args.file) if args.file else [])]
    texts += _texts_of_episodes(Path(args.episodes), args.robot) if args.episodes else []
    if not texts and not args.convert:
        raise InputError("encode: expected an instruction, --file, --episodes or --convert, found none")
    if not all(text.strip() for text in texts):
        raise InputError("instruction: expected a text, found an empty one")
    # training needs the tokens of the empty text, by which it hides an instruction
    texts = list(dict.fromkeys([*map(normalised, texts), ""])) if texts else []
    store = InstructionStore.open(args.store) if Path(args.store).exists() else None
    if args.convert:
        store = _convert(args, store)
    if texts:
        store = _encode(args, texts, store)
    assert store is not None  # one of the two made it
    store.save(args.store)
    print(f"{args.store}: {len(store)} instructions, {store.model}, width {store.width}")
    return 0


def _texts_of_episodes(folder: Path, robot: str | None) -> list[str]:
    """Every instruction that training on these episodes may draw."""
    from rdt_ros.episodes.instructions import beside
    from rdt_ros.episodes.reader import EpisodeReader
    from rdt_ros.robot.description import load_robot

    texts: list[str] = []
    for path in sorted([*folder.rglob("*.hdf5"), *folder.rglob("*.h5")]):
        told = beside(path)
        if told is not None:
            texts += [told.original, *told.simplified, *told.expanded]
            continue
        with EpisodeReader(path, load_robot(robot) if robot else None) as episode:
            texts.append(episode.instruction)
    if not texts:
        raise InputError(f"{folder}: expected episodes (*.hdf5), found none")
    return list(dict.fromkeys(texts))


def _convert(args: argparse.Namespace, store: InstructionStore | None) -> InstructionStore:
    """Old files do not say their model: it is taken to be that of --encoder."""
    from rdt_ros.model.store import UNKNOWN, InstructionStore
    from rdt_ros.model.t5 import model_name

    old = InstructionStore.open(args.convert)
    model = old.model if old.model != UNKNOWN else model_name(args.encoder)
    store = store if store is not None else InstructionStore(model, old.width, args.store)
    store.merge(old, model)
    for text in old.texts:
        print(f"{len(old.tokens(text)):5} tokens, as they were: {text}")
    return store


def _encode(args: argparse.Namespace, texts: list[str], store: InstructionStore | None) -> InstructionStore:
    from rdt_ros.model import bert, t5
    from rdt_ros.model.store import InstructionStore

    if (width := bert.bert_width(args.encoder)) is not None:
        return _encode_small(args, texts, store, width)
    device = _device(args)
    config = t5.read_config(args.encoder)
    mode = t5.choose_mode(config, device, args.vram) if args.mode == "auto" else args.mode
    chosen, model = t5.MODES[mode], t5.model_name(args.encoder)
    store = store if store is not None else InstructionStore(model, config.d_model, args.store)
    _check_model(store, model, config.d_model)
    texts = [text for text in texts if text not in store or store.precision(text) != chosen.precision]
    if not texts:
        return store
    gib = t5.weight_bytes(config, chosen.precision) / t5.GIB
    print(f"mode {mode}: {chosen.precision}, {gib:.1f} GiB of weights on {chosen.weights}, computed on {device}")
    began = time.monotonic()
    encoder = t5.T5Encoder.load(args.encoder, mode, device=device, offload=args.offload)
    loaded = time.monotonic()
    for text, tokens in zip(texts, encoder.encode(texts), strict=True):
        store.add(text, tokens, encoder.precision)
        print(f"{len(tokens):5} tokens: {text or '(none: a hidden instruction)'}")
    print(f"loaded in {loaded - began:.1f} s, encoded in {time.monotonic() - loaded:.1f} s")
    return store


def _encode_small(
    args: argparse.Namespace, texts: list[str], store: InstructionStore | None, width: int
) -> InstructionStore:
    """By a BERT, in float32 on the CPU: nothing to choose."""
    from rdt_ros.model import bert
    from rdt_ros.model.store import InstructionStore

    model = bert.model_name(args.encoder)
    store = store if store is not None else InstructionStore(model, width, args.store)
    _check_model(store, model, width)
    if texts := [text for text in texts if text not in store]:
        encoder = bert.BertEncoder.load(args.encoder)
        for text, tokens in zip(texts, encoder.encode(texts), strict=True):
            store.add(text, tokens, encoder.precision)
            print(f"{len(tokens):5} tokens: {text or '(none: a hidden instruction)'}")
    return store


def _check_model(store: InstructionStore, model: str, width: int) -> None:
    if (store.model, store.width) != (model, width):
        raise InputError(
            f"language store {store.where}: expected model {model} of width {width} as --encoder, "
            f"found {store.model} of width {store.width}"
        )


def _device(args: argparse.Namespace) -> torch.device:
    """Where to compute; on a GPU --vram becomes a limit that is kept."""
    import torch

    from rdt_ros.model import t5

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: expected cpu, found cuda where torch sees no GPU")
    if args.device == "cpu" or not torch.cuda.is_available():
        if args.vram is not None:
            raise InputError("--vram: expected a GPU to compute on, found none")
        return torch.device("cpu")
    if args.vram is not None:
        t5.limit_memory(args.vram)
    return torch.device("cuda", torch.cuda.current_device())
