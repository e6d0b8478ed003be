"""For `rdt bench recorder`: the recorder on a disk that is made slow; everything else is the recorder's own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from rdt_ros.episodes.recorder import EpisodeRecorder, RecorderConfig
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.recorder import RecorderNode
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot, robot_path


@dataclass(frozen=True)
class SlowDiskConfig:
    """How slow."""

    disk_mb_per_s: float = option(0.0, unit="MB/s", low=0, doc="What fsync lets through; 0: as fast as the disk is")
    stall_period_s: float = option(20.0, unit="s", low=1, doc="Time from one stall to the next")
    stall_s: float = option(0.0, unit="s", low=0, high=60, doc="How long fsync stands still each time")


class SlowDisk:
    """fsync that returns when a slower disk, which writes all the time, would have written what the file grew by.

    Now and then that disk stands still.
    """

    def __init__(self, config: SlowDiskConfig) -> None:
        self._config = config
        self._sizes: dict[int, int] = {}  # inode -> bytes at its last fsync
        self._done_s = time.monotonic()  # when everything is written that it was given
        self._next_stall_s = self._done_s + config.stall_period_s

    def fsync(self, descriptor: int) -> None:
        """Called by the episode writer instead of `os.fsync`, which it calls too."""
        os.fsync(descriptor)
        status, now_s = os.fstat(descriptor), time.monotonic()
        grown = status.st_size - self._sizes.get(status.st_ino, 0)
        self._sizes[status.st_ino] = status.st_size
        if self._config.disk_mb_per_s:
            self._done_s += grown / (self._config.disk_mb_per_s * 1e6)
        if self._config.stall_s and now_s >= self._next_stall_s:
            self._next_stall_s = now_s + self._config.stall_period_s
            self._done_s = max(self._done_s, now_s) + self._config.stall_s
        if self._done_s > now_s:
            time.sleep(self._done_s - now_s)
        self._done_s = max(self._done_s, now_s)


class BenchRecorderNode(RecorderNode):
    """The recorder with that fsync."""

    def _make_recorder(self, config: RecorderConfig) -> EpisodeRecorder:
        slow = SlowDisk(load(self, SlowDiskConfig))
        text = robot_path(config.robot).read_text()
        return EpisodeRecorder(load_robot(config.robot), text, config, fsync=slow.fsync)


def main() -> None:
    """Runs the node."""
    run_node(BenchRecorderNode)
