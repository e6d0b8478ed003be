"""`rdt stats`: statistics of data sets, as training needs them and a checkpoint keeps them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdt_ros.training.dataset import Dataset


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "mean, deviation and range of the states of data sets"
    stats = commands.add_parser("stats", help=what, description=what)
    stats.add_argument("folders", nargs="+", metavar="FOLDER", help="episodes of one data set, or NAME=FOLDER")
    stats.add_argument("--out", metavar="FILE", help="JSON to add them to, made where it is absent")
    stats.add_argument("--robot", default="", help="robot of files that do not carry one")
    stats.add_argument("--min-steps", type=int, default=128, help="leave shorter episodes out; default: %(default)s")
    stats.add_argument("--corrupt", choices=("refuse", "skip"), default="refuse", help="default: %(default)s")
    stats.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads every episode once, prints a table for each set, and adds them to the file."""
    from rdt_ros import options
    from rdt_ros.training.config import DatasetConfig, SampleConfig
    from rdt_ros.training.dataset import open_dataset
    from rdt_ros.training.statistics import write_statistics

    sample = SampleConfig(min_steps=args.min_steps)
    options.check(sample, "stats")
    found = []
    for given in args.folders:
        name, _, folder = given.rpartition("=")
        config = DatasetConfig(path=folder, name=name, robot=args.robot, corrupt=args.corrupt)
        dataset = open_dataset(config, sample, progress=True)
        print(_table(dataset))
        found.append(dataset.statistics)
    if args.out:
        write_statistics(args.out, found)
        print(f"written to {args.out}")
    return 0


def _table(dataset: Dataset) -> str:
    from rdt_ros.training.dataset import slots

    robot, state = dataset.robot, dataset.statistics
    width = max(map(len, robot.joint_names))
    lines = [str(dataset), f"  {'':{width}} {'mean':>9} {'deviation':>9} {'lowest':>9} {'highest':>9}"]
    for name, slot in zip(robot.joint_names, slots(robot), strict=True):
        values = (values[slot] for values in (state.mean, state.std, state.low, state.high))
        lines.append(f"  {name:{width}} " + " ".join(f"{value:9.4f}" for value in values))
    return "\n".join(lines)
