"""Writes what was read from any layout as an episode of ours, pictures as the JPEG bytes that the reader gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdt_ros.episodes import frames
from rdt_ros.episodes.content import Content, Track, untracked
from rdt_ros.episodes.layout import Header, Layout
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recording import Step
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError


def write(path: Path, reader: EpisodeReader, robot_text: str, instruction: str, track: Track = untracked) -> None:
    """Makes the file; `robot_text` is the robot file of the episode's robot. InputError where it has no step."""
    content, steps = reader.content, len(reader)
    if not steps:
        raise InputError(f"{reader.path}: expected steps, found none")
    writer = EpisodeWriter(path, Header(content.robot, robot_text, instruction))
    try:
        for number in track(range(steps), steps):
            observation = reader.observation(number)
            step = Step(observation, content.action[number], content.action_source, observation)
            if number == 0:
                writer.begin(_layout(content), step)
            writer.add(step)
        writer.finish(steps_lost=_lost(content))
    except BaseException:
        writer.discard()
        raise


def _layout(content: Content) -> Layout:
    sizes = {camera.name: camera.width * camera.height for camera in content.robot.cameras}
    return Layout(
        cameras={camera: frames.capacity(sizes[camera], jpeg(0)) for camera, jpeg in content.pictures.items()},
        joints=len(content.robot.joints),
        vectors=tuple(content.vectors),
        poses=tuple(content.poses),
        sources=tuple(content.stamps),
    )


def _lost(content: Content) -> int:
    """Control ticks between the first and the last step that have none."""
    periods = np.round(np.diff(content.ticks) / content.robot.period_ns).astype(int)
    return int(np.maximum(periods - 1, 0).sum())
