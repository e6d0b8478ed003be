"""`rdt finetune`: trains on recorded episodes, and leaves checkpoints that the robot takes."""

from __future__ import annotations

import argparse

INTERRUPTED = 130  # exit code, as of any program ended by Ctrl-C


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "train on recorded episodes; the same command goes on where a run stopped"
    finetune = commands.add_parser("finetune", help=what, description=what)
    finetune.add_argument("recipe", metavar="RECIPE", help="YAML, such as config/finetune/lora.yaml")
    finetune.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="in place of the recipe's, e.g. batch_size=8 optimizer.kind=adamw8bit datasets.0.path=/data/towels",
    )
    finetune.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    finetune.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; 130 where it was interrupted."""
    from rdt_ros.training.finetune import FineTuning
    from rdt_ros.training.recipe import Recipe
    from rdt_ros.training.settings import read_settings

    recipe = read_settings(Recipe, args.recipe, args.settings)
    return 0 if FineTuning(recipe, cpu=args.cpu).run() else INTERRUPTED
