"""`rdt episodes convert` and `rdt episodes instruct`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rdt_ros.errors import InputError

if TYPE_CHECKING:
    from rdt_ros.episodes.convert import Source
    from rdt_ros.episodes.instructions import Instructions

FORMATS = ("rdt_ros", "rdt-reference", "aloha", "agilex", "rosbag2", "lerobot")
FOREIGN = "of sources that are not ours"


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Adds both commands; they start fast because HDF5 is imported only where they run."""
    what = "episodes and bags of any layout into another"
    convert = commands.add_parser("convert", help=what, description=what)
    convert.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="an episode, a bag, or a folder of them")
    convert.add_argument("--to", required=True, choices=FORMATS)
    convert.add_argument("--out", required=True, type=Path, help="folder for the results; nothing is overwritten")
    convert.add_argument("--robot", default="", help=f"robot name or file, {FOREIGN}; needed for bags")
    convert.add_argument(
        "--colour-order", choices=("rgb", "bgr"), help=f"of pictures, {FOREIGN}; default: the layout's"
    )
    convert.add_argument("--instruction", default="", help="for sources that have none")
    convert.add_argument(
        "--pictures", choices=("raw", "padded"), default="raw", help="aloha: arrays, or JPEG; default: %(default)s"
    )
    convert.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap", help="of a bag that is written; default: %(default)s"
    )
    convert.add_argument(
        "--action-source",
        choices=("auto", "leader", "command"),
        default="auto",
        help="of a bag that is read; auto: leader where it has one",
    )
    convert.add_argument("--max-skew-ms", type=float, help="of a bag that is read; default: as camera_sync")
    convert.add_argument(
        "--lerobot-python", default=sys.executable, metavar="PYTHON", help="of the environment that lerobot is in"
    )
    convert.set_defaults(run=run_convert)

    what = "write, edit or show the instructions beside an episode, or those of a folder of episodes"
    instruct = commands.add_parser("instruct", help=what, description=what)
    instruct.add_argument("path", type=Path, metavar="PATH", help="an episode or a folder")
    instruct.add_argument("--original", help="the task in words")
    instruct.add_argument("--simplified", nargs="*", metavar="TEXT", help="in fewer words; replaces those there")
    instruct.add_argument("--expanded", nargs="*", metavar="TEXT", help="in more words; replaces those there")
    instruct.set_defaults(run=run_instruct)


def run_convert(args: argparse.Namespace) -> int:
    """Converts one source after the other; a bad one is named and does not keep the others from being converted."""
    from tqdm import tqdm

    from rdt_ros.episodes.convert import ConvertConfig, convert, find_sources

    sources = find_sources(args.paths)
    if args.to == "lerobot":
        return _lerobot(args, sources)
    names = ("to", "robot", "colour_order", "pictures", "storage", "instruction", "action_source")
    given = {name: getattr(args, name) for name in names}
    if args.max_skew_ms is not None:
        given["max_skew_ms"] = args.max_skew_ms
    config = ConvertConfig(**given)
    failed = 0
    for number, source in enumerate(sources, 1):

        def track(items: Iterable, expected: int, label: str = f"{number}/{len(sources)} {source.name}") -> Iterable:
            return tqdm(items, total=expected, desc=label, leave=False, disable=None)

        try:
            result = convert(source, args.out, config, track)
        except InputError as error:
            print(f"rdt: {error}", file=sys.stderr)
            failed += 1
            continue
        print("; ".join([f"{result.path}: {result.steps} steps", *result.notes]))
    if failed:
        raise InputError(f"convert: expected {len(sources)} sources that can be converted, {failed} could not")
    return 0


def _lerobot(args: argparse.Namespace, sources: list[Source]) -> int:
    """Runs the export in the environment that LeRobot is in."""
    if bags := [source for source in sources if source.is_bag]:
        raise InputError(f"{bags[0].path}: expected an episode: convert the bag --to rdt_ros first")
    command = [args.lerobot_python, "-m", "rdt_ros.episodes.lerobot", *(str(s.path) for s in sources)]
    command += ["--out", str(args.out)]
    command += ["--robot", args.robot] if args.robot else []
    command += ["--colour-order", args.colour_order] if args.colour_order else []
    package = str(Path(__file__).resolve().parents[1])
    try:
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": package}, check=False).returncode
    except OSError as error:
        raise InputError(f"--lerobot-python {args.lerobot_python}: {error.strerror}") from None


def run_instruct(args: argparse.Namespace) -> int:
    """Replaces what is given, keeps the rest, and prints what is there now."""
    import dataclasses

    from rdt_ros.episodes import instructions

    if not args.path.exists():
        raise InputError(f"{args.path}: no such episode or folder")
    path = instructions.path_for(args.path)
    texts = _present(args.path, path)
    if args.original is not None:
        texts = dataclasses.replace(texts, original=args.original)
    if args.simplified is not None:
        texts = dataclasses.replace(texts, simplified=tuple(args.simplified))
    if args.expanded is not None:
        texts = dataclasses.replace(texts, expanded=tuple(args.expanded))
    if (args.original, args.simplified, args.expanded) != (None, None, None):
        instructions.save(path, texts)
    print(f"{path if path.exists() else args.path}:")
    for name in ("original", "simplified", "expanded"):
        value = getattr(texts, name)
        for text in (value,) if isinstance(value, str) else value:
            print(f"  {name}: {text}")
    return 0


def _present(target: Path, path: Path) -> Instructions:
    """What is known of an episode's or a folder's instructions."""
    from rdt_ros.episodes import instructions
    from rdt_ros.episodes.reader import stored_instruction

    if path.exists():
        return instructions.load(path)
    return instructions.Instructions() if target.is_dir() else instructions.Instructions(stored_instruction(target))
