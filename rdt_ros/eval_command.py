"""`rdt eval`: a checkpoint on recorded episodes, or in closed loop with the simulator; or two results compared."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt_ros.errors import InputError

if TYPE_CHECKING:
    from rdt_ros.evaluation.arena import Done
    from rdt_ros.evaluation.condition import Condition
    from rdt_ros.evaluation.film import Strip
    from rdt_ros.evaluation.success import EpisodeResult

SUFFIXES = (".hdf5", ".h5")
RESULTS, SHEET, LOG = "results.jsonl", "sheet.png", "nodes.log"
LOCKSTEP_JOINING = ("crossfade", "switch")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because torch is imported only where it runs."""
    what = "a checkpoint's error on recorded episodes, or with --closed-loop its success in the simulator"
    parser = commands.add_parser(
        "eval", help=what, description=f"{what} (docs/evaluation.md); the last line is one JSON object"
    )
    parser.add_argument("checkpoint", nargs="?", default="", help="of any form, or random:SIZE")
    parser.add_argument("episodes", nargs="*", metavar="EPISODE", help="files, or folders of them")
    parser.add_argument("--robot", default="", help="name or YAML file; default: the checkpoint's")
    parser.add_argument("--instruction", default="", help="default: each episode's own, or that of the task")
    parser.add_argument("--instructions", default="", help="embeddings of `rdt encode`; default: the checkpoint's own")
    parser.add_argument(
        "--vision", default="", help="folder or Hub id of the vision encoder; default: the checkpoint's"
    )
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    open_loop = parser.add_argument_group("on recorded episodes")
    open_loop.add_argument("--chunks", type=int, default=16, help="of an episode, evenly spread; default: %(default)s")
    open_loop.add_argument("--picture", default="open_loop.png", metavar="FILE", help="default: %(default)s")
    _add_closed_loop(parser.add_argument_group("in the simulator"))
    parser.add_argument(
        "--compare", nargs=2, metavar="RESULTS", help="two results files of the same seeds: McNemar's exact test"
    )
    parser.set_defaults(run=run)


def _add_closed_loop(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--closed-loop", action="store_true", help="run episodes; through the nodes in lock-step unless told otherwise")
    add("--in-process", action="store_true", help="without the nodes: the same actions, faster, and without ROS")
    add("--realtime", action="store_true", help="through the nodes in real time, with asynchronous chunks")
    add("--seeds", default="0-49", metavar="A-B", help="scenes, both ends included; default: %(default)s")
    add("--task", default="hand_over", help="what is judged: hand_over or lift; default: %(default)s")
    add("--policy", choices=("rdt", "scripted"), default="rdt", help="default: %(default)s")
    add("--max-yaw", type=float, default=0.0, help="rad: the cube is turned by up to this; default: %(default)s")
    add("--replan-rows", type=int, default=32, help="rows of a chunk that are executed; default: %(default)s")
    add("--joining", default="crossfade", choices=("crossfade", "switch", "realtime_chunking"))
    add("--latency-ms", type=float, default=0.0, help="injected into every chunk, in lock-step")
    add("--mask-history", action="store_true", help="the policy sees the newest Observation alone (in-process)")
    add("--without-camera", action="append", default=[], metavar="NAME", help="its picture is missing (in-process)")
    add("--encoder", default="", help="folder or Hub id of an encoder for words without embeddings")
    add("--backend", default="auto", choices=("auto", "eager", "compile", "graph"), help="docs/speed.md")
    add("--noise-seed", type=int, default=0, help="of the policy; default: %(default)s")
    add("--jobs", type=int, default=1, help="processes, with --in-process; default: %(default)s")
    add("--videos", type=int, default=8, help="failures to film, and one success; 0: no pictures; default: %(default)s")
    add("--out", default="eval", metavar="DIR", help="for results, sheet and films; default: %(default)s")
    add("--domain", default="", help="ROS_DOMAIN_ID of the nodes")


def run(args: argparse.Namespace) -> int:
    """Does the one of the three that was asked for."""
    if args.compare:
        return _compare(Path(args.compare[0]), Path(args.compare[1]))
    if not args.checkpoint and not (args.closed_loop and args.policy == "scripted"):
        raise InputError("eval: expected a checkpoint, found none")
    return _closed_loop(args) if args.closed_loop else _open_loop(args)


def _open_loop(args: argparse.Namespace) -> int:
    """Prints a table, draws the episode with the largest error."""
    from rdt_ros.evaluation.open_loop_report import draw_report, open_loop_report
    from rdt_ros.policy.rdt import RdtPolicy

    if not args.episodes:
        raise InputError("eval: expected episodes, or --closed-loop, found neither")
    paths = [path for given in args.episodes for path in _files(Path(given))]
    policy = RdtPolicy.from_checkpoint(
        args.checkpoint,
        args.robot or None,
        args.device,
        vision=args.vision or None,
        language=args.instructions or None,
    )
    report = open_loop_report(policy, policy.robot, paths, instruction=args.instruction or None, chunks=args.chunks)
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


def _compare(first: Path, second: Path) -> int:
    from rdt_ros.evaluation.success import compare

    found = compare(first, second)
    rates = [f"{rate:.1%}" for rate in found["success_rates"]]
    print(f"{first}: {rates[0]} of {found['episodes']} seeds\n{second}: {rates[1]} of the same")
    print(
        f"difference {found['difference']:+.1%}; only the first succeeded {found['only_first']} times, only the second "
        f"{found['only_second']} times: p = {found['mcnemar_p']:.3g} (McNemar, exact, two-sided)"
    )
    print(json.dumps(found))
    return 0


# In the simulator


def _closed_loop(args: argparse.Namespace) -> int:
    """Runs the episodes, writes results, films and the sheet, prints a table."""
    from tqdm import tqdm

    from rdt_ros.evaluation.contact_sheet import write_sheet
    from rdt_ros.evaluation.success import append_result, summary

    condition, seeds = _condition(args), _seeds(args.seeds)
    _check_mode(args)
    out = _folder(Path(args.out))
    began_s = time.monotonic()
    results: list[EpisodeResult] = []
    strips: list[Strip] = []
    figures: dict[str, Any] = {}
    with tqdm(total=len(seeds), unit="episode", disable=None) as bar:
        for done in _episodes(args, condition, seeds, out, figures):
            if done.strip is not None:
                strips.append(done.strip)
            if all(done.result.seed != result.seed for result in results):
                results.append(done.result)
                append_result(out / RESULTS, done.result)
                bar.set_postfix_str(f"{sum(r.success for r in results)} successes")
                bar.update()
    report = summary(results) | figures
    if strips:
        write_sheet(sorted(strips, key=lambda strip: (not strip.result.success, strip.result.seed)), out / SHEET)
    print(_table(report, out, bool(strips)))
    report |= {"task": condition.task, "instruction": condition.instruction, "seeds": args.seeds, "mode": _mode(args)}
    report |= {"wall_s": round(time.monotonic() - began_s, 1), "out": str(out)}
    print(json.dumps(report))
    return 0


def _condition(args: argparse.Namespace) -> Condition:
    from rdt_ros.evaluation.condition import Condition
    from rdt_ros.sim.task import find_task

    names = ["task", "policy", "checkpoint", "robot", "instructions", "encoder", "vision", "device", "backend"]
    names += ["noise_seed", "replan_rows", "joining", "latency_ms", "max_yaw", "mask_history"]
    return Condition(
        instruction=args.instruction or find_task(args.task).instruction,
        without_cameras=tuple(args.without_camera),
        **{name: getattr(args, name) for name in names},
    )


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
        raise InputError(f"seeds: expected A-B with A not above B, found {text!r}")
    return range(int(first), int(last or first) + 1)


def _check_mode(args: argparse.Namespace) -> None:
    if args.episodes:
        raise InputError(f"eval: expected no recorded episodes with --closed-loop, found {args.episodes[0]}")
    if args.in_process and args.realtime:
        raise InputError("eval: expected --in-process or --realtime, found both")
    if args.jobs < 1 or (args.jobs > 1 and not args.in_process):
        raise InputError(f"jobs: expected 1, or more with --in-process, found {args.jobs}")
    if not 1 <= args.replan_rows <= 64:
        raise InputError(f"replan-rows: expected 1 to 64, found {args.replan_rows}")
    if args.joining not in LOCKSTEP_JOINING and not args.realtime:
        raise InputError(f"joining: expected {' or '.join(LOCKSTEP_JOINING)} in lock-step, found {args.joining}")


def _mode(args: argparse.Namespace) -> str:
    return "in-process" if args.in_process else "nodes, real time" if args.realtime else "nodes, lock-step"


def _folder(out: Path) -> Path:
    """A folder for new results: those of an earlier evaluation are not mixed with them."""
    results = out / RESULTS
    try:
        out.mkdir(parents=True, exist_ok=True)
        results.touch()
    except OSError as error:
        raise InputError(f"out: cannot write to {out}: {error.strerror}") from None
    if results.stat().st_size:
        raise InputError(f"out: expected a folder without results, found {results}")
    return out


def _episodes(
    args: argparse.Namespace, condition: Condition, seeds: Sequence[int], out: Path, figures: dict[str, Any]
) -> Iterator[Done]:
    """Each episode once, and those that are filmed perhaps once more; `figures` gets what only the nodes know."""
    if args.in_process:
        yield from _in_process(args, condition, seeds, out)
    else:
        yield from _through_nodes(args, condition, seeds, out, figures)


def _in_process(args: argparse.Namespace, condition: Condition, seeds: Sequence[int], out: Path) -> Iterator[Done]:
    """All episodes with the pictures that plans need alone, then those worth it once more with all of them."""
    from rdt_ros.evaluation.arena import Arena, Job
    from rdt_ros.evaluation.crew import Crew
    from rdt_ros.evaluation.film import shown

    with ExitStack() as stack:
        runner: Arena | Crew
        if args.jobs == 1:
            runner = stack.enter_context(closing(Arena(condition)))
        else:
            runner = stack.enter_context(Crew(condition, min(args.jobs, len(seeds))))
        results = []
        for done in runner.run(Job(seed) for seed in seeds):
            results.append(done.result)
            yield done
        yield from runner.run(Job(result.seed, out) for result in shown(results, args.videos))


def _through_nodes(
    args: argparse.Namespace, condition: Condition, seeds: Sequence[int], out: Path, figures: dict[str, Any]
) -> Iterator[Done]:
    from rdt_ros.eval_nodes import NodeSession
    from rdt_ros.evaluation.film import shown

    results: list[EpisodeResult] = []

    def film_folder(result: EpisodeResult) -> Path | None:
        results.append(result)
        return out if result in shown(results, args.videos) else None

    with (
        (out / LOG).open("w") as log,
        NodeSession(
            condition, seeds[0], log, realtime=args.realtime, domain=args.domain, films=args.videos > 0
        ) as session,
    ):
        yield from session.run(seeds, film_folder)
        figures |= session.step_ms


def _table(report: dict[str, Any], out: Path, sheet: bool) -> str:
    """For people."""
    low, high = report["interval_95"]
    lines = [
        f"{report['successes']} of {report['episodes']} succeeded: {report['success_rate']:.1%}, "
        f"95 % interval {low:.1%} to {high:.1%}"
    ]
    lines += [f"  {count:4d}  {how}" for how, count in report["stages"].items()]
    if report["step_ms_p50"] is not None:
        lines.append(f"a plan took {report['step_ms_p50']:.1f} ms (p50), {report['step_ms_p99']:.1f} ms (p99)")
    lines.append(f"results: {out / RESULTS}")
    if sheet:
        lines.append(f"sheet and films: {out / SHEET}, {out}/*.mp4")
    return "\n".join(lines)
