"""For `rdt bench recorder`: what is left of a recording after a kill, on a full disk, and with a camera that fails."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt_ros.bench.recording_rig import RECORDER, Rig
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.repair import repair
from rdt_ros.episodes.writer import UNFINISHED
from rdt_ros.errors import InputError
from rdt_ros.types import NS_PER_S

if TYPE_CHECKING:
    from rdt_msgs.msg import RecorderState

EARLIEST_S, LATEST_S = 0.05, 3.0  # of a kill, after the first step
# Now and then Fast DDS's shared memory leads nowhere after a reader was killed, until the writer is started anew too.
KILLS_PER_RIG = 5
UNHEARD_S = 20.0
MOST_UNHEARD = 10
SMALL_DISK_MB = 80
LIMITED = "file size limit"
FULL_S = 60.0  # for a small disk to be full
HEALTHY_S = 4.0  # before a camera fails
FAILING_S = 6.0
CAMERA_FAULTS = {  # what has to be said of each; stamps that are off by a constant show only when that begins
    "unplugged": "stopped: no new message",
    "frozen": "frozen: the same picture",
    "slow": "lost 2 before stamp",
    "late": r"lost [2-4] before stamp",
    "early": "ms older than the one before it",
}


def kill(folder: Path, rig_options: dict[str, Any], count: int) -> dict[str, Any]:
    """Kills the recorder at random moments and repairs what is left."""
    random = np.random.default_rng(count)
    losses_s: list[float] = []
    failures: list[str] = []
    fsyncs, flush_ms, unheard = 0, 0.0, 0
    while len(losses_s) + len(failures) < count and unheard < MOST_UNHEARD:
        with Rig(folder, **rig_options) as rig:
            for _ in range(min(KILLS_PER_RIG, count - len(losses_s) - len(failures))):
                output = folder / "killed"
                killed_ns = _kill(rig, output, random.uniform(EARLIEST_S, LATEST_S))
                if killed_ns is None:
                    unheard += 1
                    shutil.rmtree(output)
                    break
                fsyncs += rig.state.fsyncs
                flush_ms = max(flush_ms, rig.state.worst_flush_ms)
                try:
                    losses_s.append((killed_ns - _last_stamp_ns(_repaired(output))) / NS_PER_S)
                    print(f"killed: {losses_s[-1]:.3f} s lost", flush=True)
                except InputError as error:
                    failures.append(str(error))
                    print(f"killed: {error}", flush=True)
                shutil.rmtree(output)
    return {
        "kills": len(losses_s) + len(failures),
        "not_repaired": len(failures),
        "restarts_without_observations": unheard,
        "loss_s_max": round(max(losses_s), 3) if losses_s else None,
        "loss_s_p50": round(float(np.median(losses_s)), 3) if losses_s else None,
        "fsyncs": fsyncs,
        "worst_flush_ms": round(flush_ms, 1),
        "passed": not failures and len(losses_s) == count,
    }


def _kill(rig: Rig, output: Path, after_s: float) -> int | None:
    """When a new recorder was killed, in ns of ROS time; None where no Observation reached it."""
    with rig.recorder(output, autostart=True) as recorder:
        rig.ready(recorder)
        if not rig.operator.wait_for(lambda: rig.state.steps > 0, UNHEARD_S):
            return None
        rig.operator.spin(after_s)
        os.kill(recorder.pid(RECORDER), signal.SIGKILL)
        return time.time_ns()


def full_disk(folder: Path, rig_options: dict[str, Any]) -> dict[str, Any]:
    """Records until the disk is full: once watched, so that it ends in time, once until writing fails."""
    figures: dict[str, Any] = {}
    with Rig(folder, **rig_options) as rig:
        for name, min_free_gb in (("watched", SMALL_DISK_MB / 4 / 1000), ("unwatched", 0.0)):
            output = folder / name
            with _small_disk(output) as kind, rig.recorder(output, min_free_gb=min_free_gb) as recorder:
                rig.ready(recorder)
                if kind == LIMITED:
                    if min_free_gb:
                        continue  # such a disk has no free space to watch
                    _limit_files(recorder.pid(RECORDER))
                rig.call("start")
                rig.wait(lambda: rig.state.state == rig.state.RECORDING, recorder)
                rig.wait(lambda: rig.state.state != rig.state.RECORDING, recorder, FULL_S)
                shutil.copytree(output, folder / f"{name}_kept")  # to a disk with room for the repair
            figures[name] = {"disk": kind, **_full(rig.state, folder / f"{name}_kept")}
            print(f"{name:<10}{figures[name]}", flush=True)
    not_repaired = sum(found["loss_s"] is None for found in figures.values())
    return {**figures, "not_repaired": not_repaired, "passed": not not_repaired}


def _full(state: RecorderState, kept: Path) -> dict[str, Any]:
    """How an episode ended, and how long before its end the file does; None where it could not be repaired."""
    ended_ns = state.header.stamp.sec * NS_PER_S + state.header.stamp.nanosec
    said = list(state.warnings)[:1]
    try:
        loss_s = round((ended_ns - _last_stamp_ns(_repaired(kept))) / NS_PER_S, 3)
    except InputError as error:
        loss_s = None
        said.append(str(error))
    return {
        "state": {state.IDLE: "finished", state.FAULT: "fault"}[state.state],
        "steps": state.steps,
        "loss_s": loss_s,
        "fsyncs": state.fsyncs,
        "said": said,
    }


def cameras(folder: Path, rig_options: dict[str, Any]) -> dict[str, Any]:
    """Lets the second camera fail in the middle of a recording: how soon it is named, and what the file says."""
    figures: dict[str, Any] = {}
    for fault in CAMERA_FAULTS:
        with (
            Rig(folder, fault=fault, **rig_options) as rig,
            rig.recorder(folder / fault) as recorder,
        ):
            rig.ready(recorder)
            camera = f"camera/{rig.robot.cameras[1].name}"
            path = rig.call("start")
            rig.operator.spin(HEALTHY_S)
            before = set(rig.operator.complaints.values())
            rig.fail()
            began_s, began_ns = time.monotonic(), time.time_ns()
            said = _first_complaint(rig, camera, CAMERA_FAULTS[fault], before)
            named_s = time.monotonic() - began_s
            rig.operator.spin(max(0.0, FAILING_S - named_s))
            warnings = list(rig.state.warnings)
            rig.call("stop")
        figures[fault] = {
            "named_s": None if said is None else round(named_s, 2),
            "said": said,
            "recorder_said": warnings,
            "file": _file_says(Path(path), camera, began_ns),
        }
        print(f"{fault:<10}{figures[fault]}", flush=True)
    return {"cameras": figures, "passed": all(found["named_s"] is not None for found in figures.values())}


def _first_complaint(rig: Rig, camera: str, words: str, before: set[str]) -> str | None:
    """What is first said of that camera in such words, None where nothing new is in the time."""

    def complaint() -> str | None:
        news = (f"{name}: {text}" for name, text in rig.operator.complaints.items() if text not in before)
        return next((text for text in news if camera in text and re.search(words, text)), None)

    rig.operator.wait_for(lambda: complaint() is not None, FAILING_S)
    return complaint()


def _file_says(path: Path, camera: str, began_ns: int) -> dict[str, Any]:
    """Of the time since the fault began."""
    with EpisodeReader(path) as episode:
        since = np.flatnonzero(episode.ticks >= began_ns)
        ticks, stamps = episode.ticks[since], episode.content.stamps[camera][since]
        name = camera.removeprefix("camera/")
        pictures = [picture.jpeg for step in since if (picture := episode.observation(int(step)).picture(name))]
        period_ns = episode.robot.period_ns
    lost = int(sum(round(gap / period_ns) - 1 for gap in np.diff(episode.ticks)))
    return {
        "steps_since": len(since),
        "ticks_lost": lost,
        "camera_rate_hz": round(float(len(np.unique(stamps)) / FAILING_S), 1),
        "same_picture_steps": sum(a == b for a, b in zip(pictures, pictures[1:], strict=False)),
        "skew_ms_max": round(float((stamps - ticks).max() / 1e6), 1) if len(since) else None,
    }


def _repaired(folder: Path) -> Path:
    found = [path for path in folder.iterdir() if path.name.endswith((".hdf5", UNFINISHED))]
    if not found:
        raise InputError(f"{folder}: expected an episode, found none")
    return repair(found[0]) if found[0].suffix == UNFINISHED else found[0]


def _last_stamp_ns(path: Path) -> int:
    """Tick of the last step, after every picture has been read."""
    with EpisodeReader(path) as episode:
        for observation in episode.observations():
            if not all(picture.jpeg.endswith(b"\xff\xd9") for picture in observation.pictures):
                raise InputError(f"{path}: a damaged picture at {observation.stamp_ns}")
        return int(episode.ticks[-1])


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[str]:
    """A tmpfs where one may be mounted; says what it is."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield f"tmpfs of {SMALL_DISK_MB} MB" if mounted else LIMITED
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _limit_files(pid: int) -> None:
    limit = SMALL_DISK_MB * 1_000_000
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))
