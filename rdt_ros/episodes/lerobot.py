"""Episodes as a LeRobotDataset, written by LeRobot's own library; runs in that library's environment.

    python -m rdt_ros.episodes.lerobot EPISODE... --out DIR [--repo-id NAME] [--robot FILE] [--images]

That environment needs h5py, PyYAML and OpenCV beside `lerobot[dataset]`, and neither ROS nor anything else of ours.
Values are in the project's units (rad, opening 0..1); the action of a frame is the one in force at the next tick.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rdt_ros import jpeg
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot, load_robot

VERSION = "0.6.1"  # of lerobot, that this was last run with
WRITERS = 4  # threads that write pictures before a video is made of them


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one line for a wrong input."""
    parser = argparse.ArgumentParser(prog="rdt_ros.episodes.lerobot", description=__doc__.splitlines()[0])
    parser.add_argument("episodes", nargs="+", metavar="EPISODE", type=Path)
    parser.add_argument("--out", required=True, type=Path, help="folder that is made for the data set")
    parser.add_argument("--repo-id", default="", help="name of the data set; default: local/ and the folder's")
    parser.add_argument("--robot", default="", help="robot name or file, for episodes that do not say it")
    parser.add_argument("--colour-order", choices=("rgb", "bgr"), help="of pictures in files that are not ours")
    parser.add_argument("--images", action="store_true", help="keep pictures as PNG, without loss; default: video")
    args = parser.parse_args(argv)
    try:
        frames = export(
            args.episodes,
            args.out,
            repo_id=args.repo_id or f"local/{args.out.resolve().name}",
            robot=load_robot(args.robot) if args.robot else None,
            colour_order=args.colour_order,
            videos=not args.images,
        )
    except InputError as error:
        print(f"rdt: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(args.episodes)} episodes, {frames} frames")
    return 0


def export(
    episodes: list[Path], out: Path, *, repo_id: str, robot: Robot | None, colour_order: str | None, videos: bool
) -> int:
    """Makes the data set and returns how many frames it has. InputError for what does not fit into one data set."""
    if out.exists():
        raise InputError(f"{out}: exists already, nothing is overwritten")
    try:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError as error:
        raise InputError(f"lerobot: expected an environment with lerobot[dataset]=={VERSION}: {error}") from None
    part = out.with_name(out.name + ".converting")
    with EpisodeReader(episodes[0], robot, colour_order=colour_order) as first:
        features, kind = _features(first, videos), first.robot
    try:
        dataset = LeRobotDataset.create(
            repo_id,
            fps=_fps(kind),
            features=features,
            root=part,
            robot_type=kind.name,
            use_videos=videos,
            image_writer_threads=WRITERS,
        )
        frames = 0
        for path in tqdm(episodes, unit="episode", disable=None):
            with EpisodeReader(path, robot, colour_order=colour_order) as episode:
                if (_features(episode, videos), episode.robot.name) != (features, kind.name):
                    raise InputError(f"{path}: expected robot, joints and cameras as in {episodes[0]}, found others")
                _add(dataset, episode)
                frames += len(episode)
        dataset.finalize()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return frames


def _features(episode: EpisodeReader, videos: bool) -> dict[str, Any]:
    joints = {"dtype": "float32", "shape": (len(episode.robot.joints),), "names": list(episode.robot.joint_names)}
    features: dict[str, Any] = {"observation.state": joints, "action": joints}
    if "velocity" in episode.content.vectors:
        features["observation.velocity"] = joints
    for picture in episode.observation(0).pictures:
        features[f"observation.images.{picture.camera}"] = {
            "dtype": "video" if videos else "image",
            "shape": jpeg.decode(picture.jpeg, picture.camera).shape,
            "names": ["height", "width", "channels"],
        }
    return features


def _fps(robot: Robot) -> int:
    fps = round(robot.control_rate_hz)
    if fps != robot.control_rate_hz:
        raise InputError(f"control_rate_hz: expected a whole number, LeRobot's, found {robot.control_rate_hz:g}")
    return fps


def _add(dataset: Any, episode: EpisodeReader) -> None:
    """One episode; LeRobot counts time in frames, so a tick without a step is refused."""
    gaps = np.flatnonzero(np.abs(np.diff(episode.ticks) / episode.robot.period_ns - 1) > 0.5)
    if len(gaps):
        raise InputError(f"{episode.path}: expected a step every tick, found a gap after step {gaps[0]}")
    if not episode.instruction.strip():
        raise InputError(f"{episode.path}: expected an instruction, LeRobot needs a task, found none")
    for step, observation in enumerate(episode.observations()):
        frame = {"observation.state": observation.measured, "action": episode.actions[step]}
        if "velocity" in episode.content.vectors:
            frame["observation.velocity"] = episode.content.vectors["velocity"][step]
        for picture in observation.pictures:
            frame[f"observation.images.{picture.camera}"] = jpeg.decode(picture.jpeg, picture.camera)
        dataset.add_frame({**frame, "task": episode.instruction})
    dataset.save_episode()


if __name__ == "__main__":
    sys.exit(main())
