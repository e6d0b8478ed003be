"""`rdt episodes check`: tells good episodes from bad ones, with an exit code for scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rdt_ros.episodes.check import sets
from rdt_ros.episodes.check.episode import Task, check_episode
from rdt_ros.episodes.check.findings import SEVERITIES, Verdict, finding
from rdt_ros.episodes.check.thresholds import load_thresholds
from rdt_ros.episodes.check.worker import Worker, WorkerError
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot

SUFFIXES = (".hdf5", ".h5")


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `check`."""
    what = "tell good episodes from bad ones; exit code 1 where something is found"
    parser = verbs.add_parser("check", help=what, description=what)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="episodes, or folders of them: one set")
    parser.add_argument("--robot", help="of files that do not say it; a name or a YAML file")
    parser.add_argument("--colour-order", choices=("rgb", "bgr"), help="of files that do not say it")
    parser.add_argument("--repair", action="store_true", help="finish interrupted recordings (*.partial) first")
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="overrides config/check.yaml")
    parser.add_argument(
        "--fail-on", choices=SEVERITIES, default="error", help="exit code 1 from this level on; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time; default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks, prints, and says by the exit code whether anything at or above `--fail-on` was found."""
    thresholds = load_thresholds(args.thresholds)
    if args.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, found {args.jobs}")
    robot = load_robot(args.robot) if args.robot else None
    tasks = [Task(path, thresholds, robot, args.colour_order, args.repair) for path in episode_files(args.paths)]
    verdicts = sets.compare(judge(tasks, args.jobs), thresholds)
    print(as_json(verdicts) if args.json else table(verdicts))
    limit = SEVERITIES.index(args.fail_on)
    return int(any(verdict.severity and SEVERITIES.index(verdict.severity) >= limit for verdict in verdicts))


def episode_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and all episodes below the folders, finished or not; InputError where there is none."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            files[path] = None
        elif path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and p.name.removesuffix(UNFINISHED).endswith(SUFFIXES)]
            if not inside:
                raise InputError(f"{path}: expected episodes (*.hdf5), found none")
            files |= dict.fromkeys(sorted(inside))
        else:
            raise InputError(f"{path}: no such file")
    return list(files)


def judge(tasks: Sequence[Task], jobs: int = 1) -> list[Verdict]:
    """A verdict for each task, whatever its file does to the process that reads it."""
    own, workers = threading.local(), []
    done, show = Counter[str](), sys.stderr.isatty() and len(tasks) > 1

    def verdict(task: Task) -> Verdict:
        if not hasattr(own, "worker"):
            own.worker = Worker(check_episode, task.thresholds.timeout_s)
            workers.append(own.worker)
        try:
            return own.worker.do(task)
        except WorkerError as error:
            crash = finding("crashed", "file", expected="a file that can be checked", found=str(error))
            return Verdict(str(task.path), (crash,))
        finally:
            done["files"] += 1
            if show:
                print(f"\r{done['files']} of {len(tasks)} ", end="", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(min(jobs, len(tasks)) or 1) as threads:
        try:
            return list(threads.map(verdict, tasks))
        finally:
            threads.shutdown(cancel_futures=True)
            for worker in workers:
                worker.close()
            if show:
                print("\r", end="", file=sys.stderr)


def table(verdicts: Sequence[Verdict]) -> str:
    """One aligned line a finding, the worst first within a file, and a last line that counts."""
    rows = [("LEVEL", "FILE", "STEP", "TIME", "KIND", "SUBJECT", "FOUND", "EXPECTED")]
    for verdict in verdicts:
        for item in sorted(verdict.findings, key=lambda f: -SEVERITIES.index(f.severity)):
            step = "" if item.step is None else str(item.step)
            seconds = "" if item.time_s is None else f"{item.time_s:.2f} s"
            name = _short(verdict.path)
            rows.append((item.severity, name, step, seconds, item.kind, item.subject, item.found, item.expected))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*(lines if len(rows) > 1 else []), _summary(verdicts)])


def as_json(verdicts: Sequence[Verdict]) -> str:
    """One object: every file with its facts and findings, and how many there are of each level."""
    files = []
    for verdict in verdicts:
        facts = verdict.facts and {
            item.name: getattr(verdict.facts, item.name)
            for item in dataclasses.fields(verdict.facts)
            if item.name != "colours"
        }
        findings = [dataclasses.asdict(item) for item in verdict.findings]
        files.append({"path": verdict.path, "severity": verdict.severity, "facts": facts, "findings": findings})
    return json.dumps({"files": files, **_counts(verdicts)}, indent=1)


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = Counter(item.severity for verdict in verdicts for item in verdict.findings)
    return {f"{severity}s": counts[severity] for severity in reversed(SEVERITIES)}


def _summary(verdicts: Sequence[Verdict]) -> str:
    fine = sum(verdict.severity in (None, "note") for verdict in verdicts)
    counted = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in _counts(verdicts).items())
    return f"{len(verdicts)} {'episode' if len(verdicts) == 1 else 'episodes'}, {fine} fine: {counted}"


def _short(path: str) -> str:
    """Folder and name: enough to tell episodes apart."""
    return "/".join(Path(path).parts[-2:])
