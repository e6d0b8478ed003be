"""What in-painting committed rows does to the edge between two chunks: `python -m rdt_ros.bench.prefix`.

A small RDT without pictures is trained for a minute of CPU on the scripted expert. From held-out scenes pairs of chunks
are made: the second one is asked for from where the first one has led, with other noise, and takes over once the
committed rows are done. They disagree by as much as so short a training leaves.

With `--checkpoint` and `--episodes` a trained policy answers instead, at two moments of the same recorded episode.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.model.config import model_size
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.sampler import FADING_ROWS, add_noise, fading_weights
from rdt_ros.policy.deployed import deploy
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.sim.expert import plan
from rdt_ros.sim.scene import CubeScene
from rdt_ros.types import Observation

History = Sequence[Observation]

TEXT = "hand the cube over"
SIZE = replace(model_size("tiny"), depth=2, img_patches=1, max_lang_cond_len=8)
BATCH = 16
TRAINING_SCENES, HELD_OUT_SCENES = 32, 8
START_EVERY = 20  # rows between two moments of a held-out scene
LEARNING_RATE = 2e-3
NEW_AFTER = 16  # rows of the first chunk that are done when the second one is asked for
COMMITTED = 8  # rows more until the second one arrives: 0.32 s at 25 Hz
TOGETHER = 16  # histories that are answered at once


def measure(steps: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All figures, after a training of so many steps."""
    robot = load_robot("sim_aloha")
    scenes = [plan(CubeScene(seed + i), robot.control_rate_hz) for i in range(TRAINING_SCENES + HELD_OUT_SCENES)]
    threads, start_s = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)  # a network this small is not worth two
    try:
        policy, loss = train(robot, scenes[:TRAINING_SCENES], steps, seed)
        trained_s = time.monotonic() - start_s
        starts = [row for rows in scenes[TRAINING_SCENES:] for row in rows[: -SIZE.horizon : START_EVERY]]
        figures = compare(policy, [[_observation(robot, 1, row)] for row in starts], partial(_led, robot))
    finally:
        torch.set_num_threads(threads)
    return {
        "network": f"trained {steps} steps on {TRAINING_SCENES} scripted episodes, without pictures",
        "training_s": round(trained_s, 1),
        "rms_training_error": float(f"{loss**0.5:.3g}"),
        "pairs": len(starts),
        **figures,
    }


def measure_checkpoint(checkpoint: str, episodes: Sequence[str]) -> dict[str, Any]:
    """The same of a trained policy: the second chunk of a pair is asked for at the episode's own later moment."""
    policy: RdtPolicy | None = None
    pairs = []
    for path in episodes:  # of one task: the words of the first are the policy's
        with EpisodeReader(path) as episode:
            if policy is None:
                deployed = deploy(checkpoint, episode.robot, instruction=episode.instruction)
                policy = deployed.policy
                policy.instruction = deployed.instruction
            steps = range(1, len(episode) - NEW_AFTER, START_EVERY)
            pairs += [(_history(episode, step), _history(episode, step + NEW_AFTER)) for step in steps]
    if policy is None:
        raise InputError("episodes: expected at least one, found none")
    figures = compare(policy, [first for first, _ in pairs], lambda _: [second for _, second in pairs])
    return {"checkpoint": checkpoint, "pairs": len(pairs), **figures}


def _history(episode: EpisodeReader, step: int) -> History:
    return [episode.observation(step - 1), episode.observation(step)]


def _led(robot: Robot, rows: np.ndarray) -> list[History]:
    """The moments at which the first chunks (N, T, J) have been followed for a while."""
    return [[_observation(robot, 2, chunk[NEW_AFTER - 1])] for chunk in rows]


class NoPictures:
    """A vision encoder for a network that is trained without."""

    image_size, patches, width = 16, SIZE.img_patches, SIZE.img_token_dim

    def tokens(self, images: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(len(images), self.patches, self.width)


def train(robot: Robot, demonstrations: Sequence[np.ndarray], steps: int, seed: int) -> tuple[RdtPolicy, float]:
    """A policy trained on demonstrations (N, J), one row a control period, and the mean loss of its last steps."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = RdtNetwork(SIZE)
    language = HashedWords(SIZE.lang_token_dim)
    slots = [SLOTS[channel] for channel in robot.channels]
    mask = torch.zeros(BATCH, 1, SIZE.action_dim)
    mask[:, :, slots] = 1
    tokens = language.tokens(TEXT).expand(BATCH, -1, -1)
    present = torch.ones(tokens.shape[:2], dtype=torch.bool)
    pictures = torch.zeros(BATCH, SIZE.img_cond_len, SIZE.img_token_dim)
    rates = torch.full((BATCH,), robot.control_rate_hz)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    losses: list[float] = []
    for _ in range(steps):
        vectors = torch.zeros(BATCH, 1 + SIZE.horizon, SIZE.action_dim)
        vectors[:, :, slots] = torch.from_numpy(_windows(demonstrations, random))
        state, target = vectors[:, :1], vectors[:, 1:]
        timestep = torch.randint(SIZE.num_train_timesteps, (BATCH,), generator=generator)
        noisy = add_noise(target, torch.randn(target.shape, generator=generator), timestep, SIZE.num_train_timesteps)
        conditions = network.encode_conditions(tokens, present, pictures, mask, rates)
        loss = nn.functional.mse_loss(network(conditions, state, noisy, timestep)[..., slots], target[..., slots])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    policy = RdtPolicy(robot, network, NoPictures(), language, seed=seed, instruction=TEXT)
    return policy, float(np.mean(losses[-50:]))


def _windows(demonstrations: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """(BATCH, 1 + T, J) float32: a measured row and those that follow it, the last one repeated after the end."""
    windows = []
    for which in random.integers(len(demonstrations), size=BATCH):
        rows = demonstrations[which]
        index = random.integers(len(rows) - 1) + np.arange(1 + SIZE.horizon)
        windows.append(rows[np.minimum(index, len(rows) - 1)])
    return np.stack(windows).astype(np.float32)


def compare(
    policy: RdtPolicy, first: Sequence[History], second: Callable[[np.ndarray], Sequence[History]]
) -> dict[str, Any]:
    """The edge between the chunk for each history and the one that takes over from it, for each way.

    `second` gives the histories of the later ones, from the rows (N, T, J) of the first. Jumps are those of the arm
    joint that jumps most, in rad: `jump_rad` from the last committed row to the first free one, `own_step_rad` what the
    first chunk does there, `seam_rad` how far the first free row is from the first chunk's, `bend_rad` the largest
    change of step from there until the prefix has faded, `change_rad` how far the last row is from what it is without a
    prefix. `faded_after` is what in-painting has to beat: the offset at the last committed row added to the finished
    chunk, with the same weights.
    """
    old = _rows(policy, first, None)
    committed = old[:, NEW_AFTER : NEW_AFTER + COMMITTED]
    moments = second(old)
    arms = ~policy.robot.is_gripper
    was, edge = old[:, NEW_AFTER:, arms], COMMITTED
    figures: dict[str, Any] = {"committed_rows": COMMITTED, "fading_rows": FADING_ROWS}
    plain, continued = _rows(policy, moments, None), _rows(policy, moments, list(committed))
    weights = fading_weights(COMMITTED, old.shape[1]).numpy()[:, None]
    faded = plain + weights * (committed[:, -1:] - plain[:, edge - 1 : edge])
    for name, rows in (("switch", plain), ("realtime_chunking", continued), ("faded_after", faded)):
        followed = np.concatenate([committed, rows[:, COMMITTED:]], axis=1)[..., arms]
        near = followed[:, edge - 2 : edge + FADING_ROWS + 2]
        figures[name] = {
            "jump_rad": _spread(followed[:, edge] - followed[:, edge - 1]),
            "own_step_rad": _spread(was[:, edge] - was[:, edge - 1]),
            "seam_rad": _spread(followed[:, edge] - was[:, edge]),
            "bend_rad": _spread(np.diff(near, n=2, axis=1).reshape(len(rows), -1)),
            "change_rad": _spread((rows - plain)[:, -1, arms]),
        }
    seams = [figures[way]["seam_rad"]["median"] for way in ("switch", "realtime_chunking")]
    figures["seam_ratio"] = float(f"{seams[1] / seams[0]:.3g}")
    figures["prefix_max_error_rad"] = float(np.abs(continued[:, :COMMITTED] - committed).max())
    return figures


def _rows(policy: RdtPolicy, moments: Sequence[History], committed: Sequence[np.ndarray] | None) -> np.ndarray:
    """(N, T, J), so many at a time as memory takes well."""
    found = []
    for at in range(0, len(moments), TOGETHER):
        given = None if committed is None else committed[at : at + TOGETHER]
        found += [chunk.rows for chunk in policy.step_batch(moments[at : at + TOGETHER], committed=given)]
    return np.stack(found)


def _observation(robot: Robot, tick: int, measured: np.ndarray) -> Observation:
    return Observation(tick * robot.period_ns, robot.name, (), robot.joint_names, measured.astype(np.float32))


def _spread(change: np.ndarray) -> dict[str, float]:
    """Median and maximum over chunks of the largest of each (N, ·)."""
    largest = np.abs(change).max(axis=1)
    return {"median": float(f"{np.median(largest):.3g}"), "max": float(f"{largest.max():.3g}")}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m rdt_ros.bench.prefix", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of training; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--checkpoint", help="of a trained policy, e.g. sim_cube")
    parser.add_argument("--episodes", nargs="+", default=(), metavar="FILE", help="that it answers on")
    args = parser.parse_args(argv)
    trained = args.checkpoint is not None
    print(json.dumps(measure_checkpoint(args.checkpoint, args.episodes) if trained else measure(args.steps, args.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
