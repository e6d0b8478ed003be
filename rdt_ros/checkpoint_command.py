"""`rdt checkpoint`: shows what a checkpoint is, settles its norm on an episode, converts between the forms."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, NORMS, SO400M
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir

if TYPE_CHECKING:
    from rdt_ros.model.checkpoint import Checkpoint
    from rdt_ros.model.language import LanguageEncoder

DTYPES = ("float32", "bfloat16", "float16")
TEXTS_SHOWN = 3


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "show a checkpoint of any form, or convert it"
    verbs = commands.add_parser("checkpoint", help=what, description=what).add_subparsers(required=True, metavar="VERB")

    inspect = verbs.add_parser("inspect", help="print what it is; with an episode, which form of norm fits it")
    inspect.set_defaults(run=run_inspect)
    convert = verbs.add_parser("convert", help="write it in another form; the target folder must be new")
    convert.set_defaults(run=run_convert)
    for verb in (inspect, convert):
        verb.add_argument("path", help="file, folder or Hub id")
        verb.add_argument("--config", help="the reference's base.yaml, for weights without a config beside them")

    inspect.add_argument("--episode", help="HDF5 episode: compare both forms of norm by their open-loop error on it")
    inspect.add_argument("--robot", help="of an episode that does not say it; a name or a YAML file")
    inspect.add_argument("--instruction", help="default: the episode's")
    inspect.add_argument("--instructions", help="embeddings that `rdt encode` wrote; default: the checkpoint's own")
    inspect.add_argument("--vision", help=f"folder or Hub id of the vision encoder; default: google/{SO400M}")
    inspect.add_argument("--chunks", type=int, default=8, help="how many to compare; default: %(default)s")
    inspect.add_argument("--device", default="auto", help="default: a GPU where there is one")

    convert.add_argument("target", help="folder to be made")
    convert.add_argument("--to", choices=("folder", "reference"), default="folder", help="default: %(default)s")
    convert.add_argument("--dtype", choices=DTYPES, help="default: that of the file")
    convert.add_argument("--norm", choices=NORMS, help="record this form; default: the recorded one, else variance")
    convert.add_argument("--robot", help="record this robot, a name or a YAML file; default: the recorded one")
    convert.add_argument("--instructions", help="record these embeddings; default: the recorded ones")


def run_inspect(args: argparse.Namespace) -> int:
    """Prints what the checkpoint is."""
    from rdt_ros.model.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(args.path, args.config)
    for name, value in describe(checkpoint).items():
        print(f"{name:<14}{value}")
    if args.episode:
        _compare_norms(checkpoint, args)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Writes the checkpoint in another form."""
    import torch

    from rdt_ros.model.checkpoint import open_checkpoint, save_checkpoint, save_for_reference
    from rdt_ros.model.store import InstructionStore
    from rdt_ros.model.weights import open_weights

    checkpoint = open_checkpoint(args.path, args.config)
    if args.norm:
        checkpoint = checkpoint.with_norm(args.norm)
    elif not checkpoint.norm_recorded:
        print(f"norm: nothing says it; recording {checkpoint.config.norm}, as of the published models", file=sys.stderr)
    weights = checkpoint.weights
    vision = open_weights(checkpoint.vision)[0] if checkpoint.vision else None
    if args.dtype:
        dtype = getattr(torch, args.dtype)
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        if vision:
            vision = {name: t.to(dtype) if t.is_floating_point() else t for name, t in vision.items()}
    if args.to == "reference":
        if args.robot or args.instructions:
            raise InputError("--to reference: expected neither --robot nor --instructions, which it cannot hold")
        save_for_reference(args.target, checkpoint.config, weights)
        if checkpoint.config.norm != "variance":
            warning = f"norm {checkpoint.config.norm}: the reference computes it with timm 1.0.13 or later alone"
            print(f"warning: {warning}", file=sys.stderr)
    else:
        instructions = args.instructions or checkpoint.instructions
        save_checkpoint(
            args.target,
            checkpoint.config,
            weights,
            robot_text=_robot_text(args.robot) if args.robot else checkpoint.robot_text,
            statistics=checkpoint.statistics,
            instructions=InstructionStore.open(instructions) if instructions else None,
            vision=vision,
        )
    print(args.target)
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """What `rdt checkpoint inspect` prints, line by line."""
    from rdt_ros.model.store import InstructionStore

    config, robot = checkpoint.config, checkpoint.robot
    sizes = f"hidden {config.hidden_size}, {config.depth} blocks, {config.num_heads} heads, horizon {config.horizon}"
    sizes += f", language {config.lang_token_dim} x {config.max_lang_cond_len}"
    sizes += f", pictures {config.img_token_dim} x {config.img_history} x {config.img_cameras} x {config.img_patches}"
    known = [name for name, size in MODEL_SIZES.items() if replace(size, norm=config.norm) == config]
    parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    types = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.weights.values())
    instructions = "none"
    if checkpoint.instructions:
        texts = InstructionStore.open(checkpoint.instructions).texts
        more = ", ..." if len(texts) > TEXTS_SHOWN else ""
        instructions = f"{len(texts)}: " + ", ".join(map(repr, texts[:TEXTS_SHOWN])) + more
    return {
        "weights": str(checkpoint.path),
        "form": checkpoint.form,
        "sizes": f"{known[0]}: {sizes}" if known else sizes,
        "parameters": f"{parameters:,} in {len(checkpoint.weights)} entries",
        "type": ", ".join(types),
        "norm": config.norm + ("" if checkpoint.norm_recorded else " (not recorded: as in the published models)"),
        "vision": config.vision + (", trained with it" if checkpoint.vision else ""),
        "robot": f"{robot.name}, {len(robot.joints)} joints, {robot.control_rate_hz:g} Hz" if robot else "none",
        "statistics": ", ".join(checkpoint.statistics) if checkpoint.statistics else "none",
        "instructions": instructions,
    }


def _compare_norms(checkpoint: Checkpoint, args: argparse.Namespace) -> None:
    """Prints the open-loop error of each form; the right one is far better where the network was well trained."""
    from rdt_ros.episodes.reader import EpisodeReader
    from rdt_ros.model.language import HashedWords
    from rdt_ros.policy.open_loop import open_loop_error
    from rdt_ros.policy.rdt import RdtPolicy

    language: LanguageEncoder | str | None = args.instructions
    if language is None and checkpoint.instructions is None:
        print(
            "warning: no instruction embeddings: random tokens take their place, errors are too large", file=sys.stderr
        )
        language = HashedWords(checkpoint.config.lang_token_dim)
    with EpisodeReader(args.episode, load_robot(args.robot) if args.robot else None) as episode:
        text = args.instruction or episode.instruction
        for norm in NORMS:
            policy = RdtPolicy.from_checkpoint(
                checkpoint.with_norm(norm), episode.robot, args.device, vision=args.vision, language=language
            )
            error = open_loop_error(policy, episode, text, args.chunks)
            print(
                f"open loop, norm {norm:<12} arms {error.arms_rad:.5f} rad, grippers {error.grippers:.5f} "
                f"(root mean square, {error.chunks} chunks)"
            )


def _robot_text(name_or_path: str) -> str:
    """The robot file itself, after a check."""
    load_robot(name_or_path)
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = share_dir() / "config" / "robots" / f"{name_or_path}.yaml"
    return path.read_text()
