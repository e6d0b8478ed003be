"""`rdt bench recorder`: whether everything that a robot sends at full rate is on the disk, and at what cost."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdt_ros.bench import recorder_faults
from rdt_ros.bench.recording_rig import RECORDER, Rig, cpu_s, memory_mb
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError

DOMAIN = "76"
PICTURE_BYTES = 135_000  # about; for the room that a run needs
SLOW_DISK = {"disk_mb_per_s": 20.0, "stall_s": 3.0, "stall_period_s": 20.0}
REPORT_S = 1.5  # nodes report every second
KEYS = ("seconds", "sent", "stored", "lost", "cpu_percent", "peak_mb")


def main(argv: Sequence[str]) -> int:
    """Prints one JSON object in its last line; exit code 1 where something was lost that should not be."""
    parser = argparse.ArgumentParser(prog="rdt bench recorder", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the recording; default: %(default)s")
    parser.add_argument(
        "--rate", type=float, default=30.0, help="control rate, Hz: every picture; default: %(default)s"
    )
    parser.add_argument("--robot", default="agilex", help="robot file with its cameras; default: %(default)s")
    parser.add_argument("--output", help="folder for the recording, which is removed; default: a temporary one")
    parser.add_argument("--domain", default=DOMAIN, help="ROS_DOMAIN_ID of the processes; default: %(default)s")
    parser.add_argument("--load", action="store_true", help="keep all other cores busy meanwhile")
    slow = "{disk_mb_per_s:g} MB/s that stands still for {stall_s:g} s every {stall_period_s:g} s".format(**SLOW_DISK)
    parser.add_argument("--slow-disk", action="store_true", help=f"let fsync take as long as on a disk of {slow}")
    parser.add_argument("--stop-reader", type=float, default=0.0, help="seconds that the recorder's process is halted")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--kill", type=int, metavar="N", help="kill -9 the recorder N times at random moments instead")
    modes.add_argument("--full-disk", action="store_true", help="record until the disk is full instead")
    modes.add_argument("--camera-faults", action="store_true", help="let a camera fail in five ways instead")
    args = parser.parse_args(argv)
    if args.seconds < 1:
        raise InputError(f"--seconds: expected at least 1, found {args.seconds:g}")
    with tempfile.TemporaryDirectory(prefix="rdt_bench_", dir=args.output) as name, _busy(args.load):
        folder = Path(name)
        rig = {"robot": args.robot, "rate_hz": args.rate, "domain": args.domain}
        if args.kill:
            figures = recorder_faults.kill(folder, rig, args.kill)
        elif args.full_disk:
            figures = recorder_faults.full_disk(folder, rig)
        elif args.camera_faults:
            figures = recorder_faults.cameras(folder, rig)
        else:
            figures = _sustained(folder, rig, args)
    print(json.dumps({**dict.fromkeys(KEYS), **figures}))
    return 0 if figures["passed"] else 1


def _sustained(folder: Path, rig_options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Everything at full rate for so long, then what the file holds of it."""
    with Rig(folder, **rig_options) as rig:
        expected = args.seconds * args.rate * len(rig.robot.cameras) * PICTURE_BYTES
        if (free := shutil.disk_usage(folder).free) < 1.2 * expected:
            raise InputError(f"{folder}: expected {1.2 * expected / 1e9:.1f} GB of free space, found {free / 1e9:.1f}")
        slow = SLOW_DISK if args.slow_disk else {}
        with rig.recorder(folder / "episodes", max_seconds=2 * args.seconds + 60, **slow) as recorder:
            rig.ready(recorder)
            pid = recorder.pid(RECORDER)
            path = rig.call("start")
            rig.wait(lambda: rig.state.steps > 0, recorder)
            before, memory_before_mb = _lost_before(rig), memory_mb(pid, "VmRSS")
            cpu_before_s, began_s = cpu_s(pid), time.monotonic()
            rig.operator.spin(args.seconds / 2)
            if args.stop_reader:
                _halt(pid, rig, args.stop_reader)
            rig.operator.spin(max(args.seconds - (time.monotonic() - began_s), 0.0))
            percent = 100 * (cpu_s(pid) - cpu_before_s) / (time.monotonic() - began_s)
            stopped_s = time.monotonic()
            rig.call("stop")
            stop_s = time.monotonic() - stopped_s
            rig.wait(lambda: rig.state.episodes == 1, recorder)
            state, peak_mb = rig.state, memory_mb(pid, "VmHWM")
            started_s = time.monotonic()
            rig.call("start")
            between_s = stop_s + time.monotonic() - started_s
            rig.call("discard")
            rig.operator.spin(REPORT_S)
            after = _lost_before(rig)
        figures = {
            **_read(Path(path)),
            "cpu_percent": round(percent, 1),
            "peak_mb": round(peak_mb),
            "memory_mb_at_start": round(memory_before_mb),
            **{name: after[name] - before[name] for name in after},
            "fsyncs": state.fsyncs,
            "worst_flush_ms": round(state.worst_flush_ms, 1),
            "dropped": state.dropped,
            "stop_and_start_s": round(between_s, 3),
            "warnings": list(state.warnings),
            "load": args.load,
            "slow_disk": slow or None,
            "reader_halted_s": args.stop_reader,
        }
    raw_bytes = sum(camera.width * camera.height * 3 for camera in rig.robot.cameras)
    # what scripts that keep an episode's raw pictures in memory until its end would need: arithmetic, not measured
    figures["raw_in_memory_mb_computed"] = round(raw_bytes * args.rate * figures["seconds"] / 1e6)
    for name, value in figures.items():
        print(f"{name:<26}{value}")
    return {**figures, "passed": figures["lost"] == 0}


def _read(path: Path) -> dict[str, Any]:
    """What the file says: steps, and control ticks between the first and the last."""
    with EpisodeReader(path) as episode:
        ticks, period_ns = episode.ticks, episode.robot.period_ns
        sent = round((ticks[-1] - ticks[0]) / period_ns) + 1
        seconds = (ticks[-1] - ticks[0]) / 1e9
        stamps = np.array([values for name, values in episode.content.stamps.items() if name.startswith("camera/")])
        skew_ms = (stamps.max(axis=0) - ticks) / 1e6
        whole = sum(picture.jpeg.endswith(b"\xff\xd9") for o in episode.observations() for picture in o.pictures)
        stored = len(episode)
        sources = [*episode.content.vectors, *episode.content.poses]
    return {
        "seconds": round(seconds, 2),
        "sent": sent,
        "stored": stored,
        "lost": sent - stored,
        "longest_gap_s": round(float(np.diff(ticks).max()) / 1e9, 3),
        "rate_hz": round((stored - 1) / seconds, 3),
        "pictures": whole,
        "pictures_damaged": stored * len(stamps) - whole,
        "pictures_repeated": int((np.diff(stamps, axis=1) == 0).sum()),
        "skew_ms_p50": round(float(np.median(skew_ms)), 1),
        "skew_ms_max": round(float(skew_ms.max()), 1),
        "vectors": sources,
        "bytes_per_minute": round(path.stat().st_size / seconds * 60),
    }


def _lost_before(rig: Rig) -> dict[str, int]:
    """What did not get as far as the recorder: pictures, by the gaps in their stamps, and sets without one source."""
    said = rig.operator.diagnostics
    cameras = [values for name, values in said.items() if name.startswith("camera_sync: camera/")]
    return {
        "camera_messages_lost": sum(int(values["lost"]) for values in cameras),
        "given_up_by_camera_sync": int(said["camera_sync"]["given_up"]),
    }


def _halt(pid: int, rig: Rig, seconds: float) -> None:
    """The whole process stands still, as on a machine that swaps."""
    os.kill(pid, signal.SIGSTOP)
    try:
        rig.operator.spin(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """Keeps all cores but one busy."""
    count = max(1, (os.cpu_count() or 2) - 1) if wanted else 0
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
