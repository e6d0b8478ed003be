"""`rdt demo-data`: demonstrations of the scripted expert on the simulated robot, recorded in several processes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from rdt_ros.errors import InputError

if TYPE_CHECKING:
    from rdt_ros.evaluation.demonstrations import DemonstrationConfig, Recorded

BLOCK = 4  # episodes that a process records with one simulator, before it takes the next ones


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; it starts fast because MuJoCo is imported only where it runs."""
    what = "record demonstrations of the scripted expert on the simulated robot"
    parser = commands.add_parser(
        "demo-data", help=what, description=f"{what}, in lock-step; the last line is one JSON object"
    )
    parser.add_argument("--episodes", type=int, required=True, metavar="N")
    parser.add_argument("--out", required=True, metavar="DIR", help="episode_SEED.hdf5; those that are there stay")
    parser.add_argument("--robot", default="sim_aloha_small", help="name or YAML file; default: %(default)s")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: hand_over lift")
    parser.add_argument("--task-share", nargs="+", type=float, metavar="SHARE", help="default: equal ones")
    parser.add_argument("--seed", type=int, default=0, help="scene of the first episode; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: one a core")
    parser.add_argument("--max-yaw", type=float, metavar="RAD", help="turn of the cube to either side; default: 0.785")
    parser.add_argument("--undisturbed", action="store_true", help="no noise in the actuators and no pauses")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Records what is not there yet; 1 where the expert failed for good in some scene."""
    from tqdm import tqdm

    from rdt_ros.evaluation.demonstrations import episode_path
    from rdt_ros.sim.rendering import check_rendering

    for name, least in (("episodes", 1), ("seed", 0), ("jobs", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}: expected at least {least}, found {getattr(args, name)}")
    config, folder = _config(args), Path(args.out)
    check_rendering()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: cannot write to {folder}: {error.strerror}") from None
    seeds = range(args.seed, args.seed + args.episodes)
    missing = [seed for seed in seeds if not episode_path(folder, seed).exists()]
    if len(missing) < len(seeds):
        print(f"{len(seeds) - len(missing)} of these episodes are in {folder} already, whatever their settings were")
    began_s = time.monotonic()
    recorded: list[Recorded] = []
    with tqdm(total=len(missing), unit="episode", disable=not missing) as bar:
        for block in _recorded(config, folder, missing, args.jobs):
            recorded += block
            bar.update(len(block))
    _report(recorded, len(seeds) - len(missing), time.monotonic() - began_s)
    return 0 if all(episode.path for episode in recorded) else 1


def _config(args: argparse.Namespace) -> DemonstrationConfig:
    from rdt_ros.evaluation.demonstrations import DemonstrationConfig

    given = {"robot": args.robot, "disturbed": not args.undisturbed}
    if args.max_yaw is not None:
        given["max_yaw"] = args.max_yaw
    if args.tasks:
        given |= {"tasks": tuple(args.tasks), "shares": (1.0,) * len(args.tasks)}
    if args.task_share:
        given["shares"] = tuple(args.task_share)
    return DemonstrationConfig(**given)


def _recorded(config: DemonstrationConfig, folder: Path, seeds: list[int], jobs: int) -> Iterator[list[Recorded]]:
    """Blocks of episodes as they are done."""
    from rdt_ros.evaluation.demonstrations import episode_path, record, remove_interrupted

    blocks = [seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK)]
    if jobs == 1 or len(blocks) <= 1:
        yield from (record(config, folder, block) for block in blocks)
        return
    os.environ.setdefault("LP_NUM_THREADS", "1")  # a software renderer's threads, in every process
    # spawn: a forked process would share the OpenGL of this one
    pool = ProcessPoolExecutor(min(jobs, len(blocks)), multiprocessing.get_context("spawn"))
    try:
        for done in as_completed([pool.submit(record, config, folder, block) for block in blocks]):
            yield done.result()
    except BrokenProcessPool:
        raise InputError("demo-data: a process was killed, perhaps for want of memory: give fewer --jobs") from None
    except (KeyboardInterrupt, GeneratorExit):  # here, or where the blocks are used
        for process in multiprocessing.active_children():
            process.terminate()  # what they have begun can be made again
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for seed in seeds:
            remove_interrupted(episode_path(folder, seed))


def _report(recorded: Iterable[Recorded], present: int, wall_s: float) -> None:
    """What was made, and what the expert failed at on the way; the last line for programs."""
    made = [episode for episode in recorded if episode.path]
    failures = Counter(f"{episode.task}: {stage}" for episode in recorded for stage in episode.failures)
    tasks = Counter(episode.task for episode in made)
    print(f"{len(made)} episodes: " + ", ".join(f"{count} {task}" for task, count in sorted(tasks.items())))
    if failures:
        print(f"{failures.total()} attempts of the disturbed expert failed and were made anew with other noise:")
        print("\n".join(f"  {count:4d}  {what}" for what, count in failures.most_common()))
    given_up = [episode.seed for episode in recorded if not episode.path]
    if given_up:
        print(f"no episode of seeds {', '.join(map(str, given_up))}: the expert failed in every attempt")
    figures = {
        "episodes": len(made),
        "present": present,
        "given_up": len(given_up),
        "failed_attempts": failures.total(),
        "tasks": dict(tasks),
        "steps": sum(episode.steps for episode in made),
        "wall_s": round(wall_s, 1),
    }
    print(json.dumps(figures))
