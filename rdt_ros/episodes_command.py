"""`rdt episodes`: what is in recorded episodes, pictures and films of them, and the ends that nobody needs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rdt_ros import check_command, convert_command
from rdt_ros.check_command import episode_files
from rdt_ros.episodes import info
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.trim import StillEnds, between, still_ends, write_trimmed
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot, load_robot

ENDS = StillEnds()


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command with all its verbs; it starts fast because drawing and encoding are imported where they run."""
    what = "look at recorded episodes, check, cut and convert them"
    verbs = commands.add_parser("episodes", help=what, description=what).add_subparsers(required=True, metavar="VERB")
    _add_info(verbs)
    check_command.add_parser(verbs)
    _add_plot(verbs)
    _add_video(verbs)
    _add_trim(verbs)
    convert_command.add_parsers(verbs)


def run_info(args: argparse.Namespace) -> int:
    """Prints one episode as a sheet, many as a table."""
    found: list[info.EpisodeInfo] = []
    robot = _robot(args)
    paths = episode_files(args.paths)
    code = _each(paths, lambda path: found.append(info.describe(path, robot, args.colour_order)))
    if args.json:
        print(json.dumps(info.as_json(found), indent=2, ensure_ascii=False))
    elif len(paths) == 1 and found:
        print(info.sheet(found[0]))
    elif found:
        print(info.table(found))
    return code


def run_plot(args: argparse.Namespace) -> int:
    """Draws a PNG of each episode."""
    from rdt_ros.episodes.picture import draw_episode

    return _each_to_file(args, ".png", draw_episode)


def run_video(args: argparse.Namespace) -> int:
    """Films each episode."""
    from rdt_ros.episodes.video import write_video

    return _each_to_file(args, ".mp4", lambda episode, target: write_video(episode, target, progress=_progress))


def run_trim(args: argparse.Namespace) -> int:
    """Cuts the ends off each episode, or says what would be cut."""
    if args.out and args.in_place:
        raise InputError("trim: expected --out or --in-place, found both")
    paths = episode_files(args.paths)
    ends = StillEnds(args.moved, args.margin)

    def trim(path: Path) -> None:
        with EpisodeReader(path, _robot(args)) as episode:
            by_hand = args.first is not None or args.end is not None
            cut = between(episode, args.first, args.end) if by_hand else still_ends(episode, ends)
            rate = episode.robot.control_rate_hz
            head, tail = cut.start, cut.steps - cut.stop
            kept = f"{cut.stop - cut.start} of {cut.steps} steps stay: {head} ({head / rate:.1f} s) cut off the head"
            line = f"{path}: {kept}, {tail} ({tail / rate:.1f} s) off the tail"
            if cut.nothing:
                print(f"{path}: nothing to cut off")
            elif not (args.out or args.in_place):
                print(f"{line}; nothing written: give --out or --in-place")
            else:
                target = path if args.in_place else _target(path, args.out, ".hdf5", paths)
                write_trimmed(episode, cut, target, overwrite=args.in_place)
                print(f"{line}; {target}")

    return _each(paths, trim)


def _add_info(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "info", "print what each episode is; a folder as a table with totals per instruction", run_info)
    verb.add_argument("--json", action="store_true", help="the same as one JSON object")


def _add_plot(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "plot", "draw each episode as a PNG: cameras, joints, skew, rate", run_plot)
    _add_output(verb, ".png")


def _add_video(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, "video", "film each episode as an MP4: all cameras side by side in true time", run_video)
    _add_output(verb, ".mp4")


def _add_trim(verbs: argparse._SubParsersAction) -> None:
    what = (
        "cut the still ends off each episode, without encoding a picture; says what it would cut unless told where to"
    )
    verb = _verb(verbs, "trim", what, run_trim)
    verb.add_argument("--out", help="file for one episode, folder for several; must be new")
    verb.add_argument("--in-place", action="store_true", help="replace each episode by what stays of it")
    verb.add_argument(
        "--from", dest="first", metavar="PLACE", help="first step that stays, as 120 or in seconds as 4.8s"
    )
    verb.add_argument("--to", dest="end", metavar="PLACE", help="first step that does not")
    verb.add_argument(
        "--moved", type=float, default=ENDS.moved_rad, help="rad that count as motion; default: %(default)s"
    )
    verb.add_argument(
        "--margin", type=float, default=ENDS.margin_s, help="seconds kept around the motion; default: %(default)s"
    )


def _verb(
    verbs: argparse._SubParsersAction, name: str, what: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=what)
    verb.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="episode, or folder of them")
    verb.add_argument("--robot", help="of episodes that do not say it; a name or a YAML file")
    verb.add_argument("--colour-order", choices=("rgb", "bgr"), help="of episodes that do not say it")
    verb.set_defaults(run=run)
    return verb


def _add_output(verb: argparse.ArgumentParser, suffix: str) -> None:
    verb.add_argument("--out", help=f"file for one episode, folder for several; default: beside each, as *{suffix}")
    verb.add_argument("--overwrite", action="store_true", help="replace what is there")


def _robot(args: argparse.Namespace) -> Robot | None:
    return load_robot(args.robot) if args.robot else None


def _each(paths: list[Path], work: Callable[[Path], object]) -> int:
    """Does all of them; a file that cannot be done is one line, and makes the exit code 2."""
    code = 0
    for path in paths:
        try:
            work(path)
        except InputError as error:
            print(f"rdt: {error}", file=sys.stderr)
            code = 2
    return code


def _each_to_file(args: argparse.Namespace, suffix: str, make: Callable[[EpisodeReader, Path], None]) -> int:
    paths, robot = episode_files(args.paths), _robot(args)

    def work(path: Path) -> None:
        target = _target(path, args.out, suffix, paths)
        if target.exists() and not args.overwrite:
            raise InputError(f"{target}: exists already: give --overwrite or another --out")
        with EpisodeReader(path, robot, colour_order=args.colour_order) as episode:
            if not len(episode):
                raise InputError(f"{path}: expected steps, found none")
            make(episode, target)
        print(target)

    return _each(paths, work)


def _target(path: Path, out: str | None, suffix: str, paths: list[Path]) -> Path:
    """Where the result of one of these episodes goes; makes the folder that it needs."""
    if out is None:
        return path.with_name(_stem(path) + suffix)
    target = Path(out)
    if len(paths) > 1 or target.is_dir() or target.suffix != suffix:
        # episodes of several folders may share their names
        top = os.path.commonpath([p.absolute().parent for p in paths])
        target /= "_".join([*path.absolute().parent.relative_to(top).parts, _stem(path)]) + suffix
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: cannot write to {target.parent}: {error.strerror}") from None
    return target


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(UNFINISHED)).stem


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"{done} of {total} steps", end="\n" if done == total else "\r", file=sys.stderr, flush=True)
