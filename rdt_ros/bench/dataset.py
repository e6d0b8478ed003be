"""Samples a second on one core: our loader against the reference's data set classes, on the same episodes.

Same pixels and same work: nothing hidden, no augmentation, no cache, pictures as float32. The reference gets the
episodes converted to its form, ours are read as they were recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
import yaml

from rdt_ros import jpeg
from rdt_ros.bench.reference import HOW_TO, Reference, quiet
from rdt_ros.episodes import layout, units
from rdt_ros.episodes.instructions import FOLDER_FILE
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.training.config import PLAIN, DatasetConfig, SampleConfig
from rdt_ros.training.dataset import Dataset, open_dataset
from rdt_ros.training.loader import Mixture
from rdt_ros.training.pictures import normalised
from rdt_ros.types import Observation, Picture

ROBOT = "agilex"  # the one that the reference reads
STEPS = 160
WIDTH, HEIGHT = 640, 480
TEXTURE = 5.0  # levels; makes JPEGs of about 130 KB, as a real camera's are
PICTURES = 8  # different ones; the decoder's time does not depend on having seen them
IMAGE_SIZE, HORIZON = 384, 64
TOKENS, WIDTH_OF_TOKENS = 20, 4096
INSTRUCTION = "hand the red cube over"


@contextlib.contextmanager
def reference_folder(reference: Reference, episodes: Path, work: Path) -> Iterator[None]:
    """Makes `work` look like the folder that the reference is started in, with these episodes, and goes there."""
    data = work / "data" / "datasets" / ROBOT
    data.mkdir(parents=True)
    (data / "rdt_data").symlink_to(episodes.resolve(), target_is_directory=True)
    (work / "configs").symlink_to(reference.folder / "configs", target_is_directory=True)
    (work / "data" / "empty_lang_embed.pt").symlink_to(reference.folder / "data" / "empty_lang_embed.pt")
    before = Path.cwd()
    os.chdir(work)
    try:
        yield
    finally:
        os.chdir(before)


def reference_dataset(reference: Reference, tokenizer: Any = None, image_size: int = IMAGE_SIZE, **options: Any) -> Any:
    """Its VLAConsumerDataset over the HDF5 episodes of the present folder (`reference_folder`)."""
    # imgaug, which its augmentation uses, fails on NumPy 2
    sys.modules.setdefault("train.image_corrupt", types.ModuleType("train.image_corrupt"))
    sys.modules["train.image_corrupt"].image_corrupt = None  # type: ignore[attr-defined]
    transformers: Any = importlib.import_module("transformers")
    config = yaml.safe_load((reference.folder / "configs" / "base.yaml").read_text())
    with quiet():
        return importlib.import_module("train.dataset").VLAConsumerDataset(
            config=config["dataset"],
            tokenizer=tokenizer,
            image_processor=transformers.SiglipImageProcessor(size={"height": image_size, "width": image_size}),
            num_cameras=config["common"]["num_cameras"],
            img_history_size=config["common"]["img_history_size"],
            dataset_type="finetune",
            use_hdf5=True,
            **options,
        )


def record(folder: Path) -> None:
    """One episode of textured pictures and a wandering robot."""
    robot, rng = load_robot(ROBOT), np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PICTURES, HEIGHT // 16, WIDTH // 16, 3), np.uint8)
    smooth = [cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for picture in coarse]
    pictures = [
        jpeg.encode(np.clip(picture + rng.normal(0, TEXTURE, picture.shape), 0, 255).astype(np.uint8))
        for picture in smooth
    ]
    walk = rng.normal(0, 0.02, (STEPS + 2, len(robot.joints))).cumsum(0).astype(np.float32)
    recording = Recording(robot.period_ns, robot.action_offset_steps)
    writer = EpisodeWriter(folder / "episode.hdf5", Header(robot, robot_path(ROBOT).read_text(), INSTRUCTION))
    for step, joints in enumerate(walk):
        stamp_ns = (step + 1) * robot.period_ns
        seen = tuple(
            Picture(camera.name, stamp_ns, pictures[(step + i) % PICTURES]) for i, camera in enumerate(robot.cameras)
        )
        observation = Observation(stamp_ns, robot.name, seen, robot.joint_names, joints, leader=joints)
        for row in recording.add(observation):
            writer.add(row)
    writer.finish()


def convert(episodes: Path, target: Path, embedding: Path) -> None:
    """The same episode as the reference reads it; its loader takes the path of an embedding for the instruction.

    JPEG bytes are passed on as they are: it sees red and blue exchanged, which takes no time.
    """
    target.mkdir()
    with EpisodeReader(episodes / "episode.hdf5") as episode, h5py.File(target / "episode.hdf5", "w") as file:
        content = episode.content
        file["/observations/qpos"] = units.to_robot(episode.robot, "measured", content.vectors["measured"])
        file["/action"] = units.to_robot(episode.robot, "command", content.action)
        for camera, picture in content.pictures.items():
            frames = [picture(step) for step in range(len(episode))]
            form = f"S{max(map(len, frames))}"
            file.create_dataset(layout.image_path(camera), data=np.array(frames, form), chunks=(1,))
    torch.save(torch.zeros(TOKENS, WIDTH_OF_TOKENS, dtype=torch.bfloat16), embedding)
    keys = ("instruction", "simplified_instruction", "expanded_instruction")
    (target / FOLDER_FILE).write_text(json.dumps(dict.fromkeys(keys, str(embedding))))


def measure(samples: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, in which all take turns."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "ours").mkdir()
        record(work / "ours")
        dataset = open_dataset(DatasetConfig(path=str(work / "ours")), PLAIN)
        makers = {"samples_per_s": _ours(dataset, PLAIN), "augmented_samples_per_s": _ours(dataset, SampleConfig())}
        _timed_rounds(makers, samples, 1)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # before the reference is imported
        with contextlib.ExitStack() as stack:
            try:
                reference = Reference()
            except ImportError as error:
                print(f"the reference is not there ({error}): {HOW_TO}")
            else:
                convert(work / "ours", work / "theirs", work / "lang_embed.pt")
                stack.enter_context(reference_folder(reference, work / "theirs", work / "cwd"))
                theirs = reference_dataset(reference, cond_mask_prob=0.0, use_precomp_lang_embed=True)
                makers["reference_samples_per_s"] = theirs.__getitem__
            rates = _timed_rounds(makers, samples, rounds)
    ours, reference_rate = rates["samples_per_s"], rates.get("reference_samples_per_s")
    return {
        "samples_per_s": round(ours, 2),
        "reference_samples_per_s": reference_rate and round(reference_rate, 2),
        "ratio": reference_rate and round(ours / reference_rate, 2),
        "peak_gb": round(peak_gb, 3),
        "augmented_samples_per_s": round(rates["augmented_samples_per_s"], 2),
    }


def _ours(dataset: Dataset, config: SampleConfig) -> Callable[[int], object]:
    tokens = dict.fromkeys((INSTRUCTION, ""), torch.zeros(TOKENS, WIDTH_OF_TOKENS, dtype=torch.bfloat16))
    mixture = Mixture([dataset], config, tokens, horizon=HORIZON, image_size=IMAGE_SIZE)
    return lambda index: normalised(mixture.collate([mixture[index]]).pictures)


def _timed_rounds(makers: dict[str, Callable[[int], object]], samples: int, rounds: int) -> dict[str, float]:
    """Samples a second of each, after one that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for make in makers.values():
        make(0)
    for turn in range(rounds):
        for name, make in makers.items():
            began = time.perf_counter()
            for index in range(turn * samples, (turn + 1) * samples):
                make(index)
            rates[name].append(samples / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(prog="rdt bench dataset", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20, help="in a round, of each loader; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(measure(args.samples, args.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
