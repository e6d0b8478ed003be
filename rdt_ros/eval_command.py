"""`rdt eval`: how far a checkpoint's chunks are from what was done in recorded episodes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rdt_ros.errors import InputError

SUFFIXES = (".hdf5", ".h5")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "open-loop error of a checkpoint on recorded episodes, by joint"
    parser = commands.add_parser("eval", help=what, description=f"{what}; the last line is one JSON object")
    parser.add_argument("checkpoint", help="of any form, or random:SIZE")
    parser.add_argument("episodes", nargs="+", metavar="EPISODE", help="files, or folders of them")
    parser.add_argument("--robot", help="name or YAML file; default: the checkpoint's")
    parser.add_argument("--instruction", help="default: each episode's own")
    parser.add_argument("--instructions", help="embeddings that `rdt encode` wrote; default: the checkpoint's own")
    parser.add_argument("--vision", help="folder or Hub id of the vision encoder; default: that of the checkpoint")
    parser.add_argument("--chunks", type=int, default=16, help="of an episode, evenly spread; default: %(default)s")
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    parser.add_argument("--picture", default="open_loop.png", metavar="FILE", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a table, draws the episode with the largest error."""
    from rdt_ros.evaluation.open_loop_report import draw_report, open_loop_report
    from rdt_ros.policy.rdt import RdtPolicy

    paths = [path for given in args.episodes for path in _files(Path(given))]
    policy = RdtPolicy.from_checkpoint(
        args.checkpoint,
        args.robot,
        args.device,
        vision=args.vision,
        language=args.instructions,
    )
    report = open_loop_report(policy, policy.robot, paths, instruction=args.instruction, chunks=args.chunks)
    print(report.table())
    draw_report(report, Path(args.picture))
    print(f"picture: {args.picture}")
    print(json.dumps({"episodes": len(paths), "rms": {name: value[0] for name, value in report.figures.items()}}))
    return 0


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path}: No such file or directory")
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise InputError(f"{path}: expected episodes (*.hdf5), found none")
    return found
