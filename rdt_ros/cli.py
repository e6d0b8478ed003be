"""The `rdt` command."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import rdt_ros
from rdt_ros import (
    bringup,
    checkpoint_command,
    demo_data,
    encode,
    episodes_command,
    eval_command,
    finetune_command,
    record_command,
    stats_command,
)
from rdt_ros.errors import InputError

BENCHES = (
    "dataset", "encode", "executor", "faults", "finetune", "handover", "loading", "masters", "nodes", "parity",
    "prefix", "recorder", "step", "sync",
)  # fmt: skip
SERVICES = {
    "reset": "executor/reset_stop",
    "enable": "executor/enable",
    "disable": "executor/disable",
    "home": "executor/home",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is 0, 1 where the work failed, 2 for a user's mistake in one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nodes started here end with it
    try:
        return args.run(args)
    except InputError as error:
        print(f"rdt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdt", description=rdt_ros.__doc__)
    parser.add_argument("--version", action="version", version=f"rdt_ros {rdt_ros.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_up(commands)
    for name, what in (
        ("enable", "let the arms move"),
        ("disable", "stop following the policy and send nothing"),
        ("home", "move the arms to the home pose"),
        ("stop", "software stop: brake and hold until reset (not a replacement for the hardware button)"),
        ("reset", "release the software stop; the arms stay until enabled again"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--namespace", default="", help="ROS namespace of the robot's nodes")
        command.add_argument("--domain", default="", help="ROS_DOMAIN_ID; default: the environment's")
        command.set_defaults(run=_operate, command=name)
    demo_data.add_parser(commands)
    encode.add_parser(commands)
    record_command.add_parser(commands)
    episodes_command.add_parser(commands)
    stats_command.add_parser(commands)
    finetune_command.add_parser(commands)
    eval_command.add_parser(commands)
    checkpoint_command.add_parser(commands)
    bench = commands.add_parser("bench", help="measure; the last line of output is one JSON object")
    bench.add_argument("what", choices=BENCHES)
    bench.add_argument("options", nargs=argparse.REMAINDER, help="options of the bench; try --help")
    bench.set_defaults(run=_bench)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="the whole pipeline on the simulated robot, with a verdict and a picture")
    demo.add_argument("--policy", choices=("rdt", "scripted"), default="rdt", help="default: %(default)s")
    demo.add_argument("--checkpoint", default="sim_cube", help="for --policy rdt; default: %(default)s, shipped")
    demo.add_argument("--task", default="hand_over", help="what is judged: hand_over or lift; default: %(default)s")
    demo.add_argument("--instruction", default="", help="what the policy is told; default: that of the task")
    seed = "decides the scene; default: %(default)s, which the shipped policy has not seen"
    demo.add_argument("--seed", type=int, default=100_000, help=seed)
    demo.add_argument("--out", default="out", help="folder for the episode and the picture; default: %(default)s")
    demo.add_argument("--realtime", action="store_true", help="let the simulation run by the wall clock")
    demo.add_argument("--viewer", action="store_true", help="show the simulation in a window; implies --realtime")
    demo.add_argument("--domain", default="", help="ROS_DOMAIN_ID of the demo's nodes")
    demo.set_defaults(run=_demo)


def _add_up(commands: argparse._SubParsersAction) -> None:
    up = commands.add_parser(
        "up", help="start nodes: what `ros2 launch rdt_ros ...` does, where launch is not installed"
    )
    deployments = up.add_subparsers(title="deployments", required=True, metavar="DEPLOYMENT")
    for name, arguments in bringup.ARGUMENTS.items():
        lines = [f"  {a.name}:={'' if a.default is None else a.default}\n      {a.doc}" for a in arguments]
        deployment = deployments.add_parser(
            name,
            help=" ".join(f"{a.name}:=..." for a in arguments if a.default is None),
            epilog="arguments:\n" + "\n".join(lines),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        deployment.add_argument("arguments", nargs="*", metavar="key:=value")
        deployment.set_defaults(run=_up, deployment=name)


def _up(args: argparse.Namespace) -> int:
    from rdt_ros import supervisor

    given = {}
    for text in args.arguments:
        key, separator, value = text.partition(":=")
        if not separator or not key:
            raise InputError(f"up {args.deployment}: expected key:=value, found {text!r}")
        given[key] = value
    return supervisor.run(bringup.plan(args.deployment, given))


def _operate(args: argparse.Namespace) -> int:
    os.environ.update(bringup.environment(args.domain))
    from rdt_ros.nodes.operator import Operator

    with Operator(args.namespace) as operator:
        if args.command == "stop":
            operator.software_stop()
            print("software stop sent")
        else:
            print(operator.call(SERVICES[args.command]) or args.command)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from rdt_ros import demo

    return demo.run(demo.DemoConfig(**{name: getattr(args, name) for name in demo.DemoConfig.__annotations__}))


def _bench(args: argparse.Namespace) -> int:
    return importlib.import_module(f"rdt_ros.bench.{args.what}").main(args.options)


if __name__ == "__main__":
    sys.exit(main())
