"""Episodes from a stream of Observations: a thread writes behind a bounded queue, receiving never waits for a disk."""

from __future__ import annotations

import contextlib
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import SOURCES, Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.options import option
from rdt_ros.robot.description import Robot
from rdt_ros.types import Observation

GB = 1_000_000_000
POLL_S = 0.1  # how often the thread looks at the clock while nothing arrives
NUMBERED = re.compile(r"episode_(\d+)\.hdf5")


@dataclass(frozen=True)
class RecorderConfig:
    """Settings of the recorder."""

    robot: str = option("agilex", doc="robot file: a shipped name or a YAML path")
    output: str = option("episodes", doc="folder for the episodes: episode_0000.hdf5 and counting")
    instruction: str = option("", doc="what is being done, in words; stored in every episode")
    autostart: bool = option(False, doc="start recording at once; false: after ~/start")
    action_source: str = option(
        "auto", doc="what becomes /action; auto: leader where there is one, else command", choices=SOURCES
    )
    flush_period_s: float = option(0.5, unit="s", low=0.05, high=60, doc="time between two flushes to the disk")
    max_seconds: float = option(600.0, unit="s", low=1, doc="an episode ends by itself after this time")
    min_free_gb: float = option(
        1.0, unit="GB", low=0, doc="an episode ends by itself below this space; warns below twice"
    )
    queue_length: int = option(
        250, unit="observations", low=1, high=10_000, doc="how many may wait for the disk before one is dropped"
    )


@dataclass(frozen=True)
class RecorderState:
    """What the recorder is doing; counts are of this episode unless they say otherwise."""

    state: str = "idle"  # idle, recording or fault
    reason: str = ""  # of a fault
    episode: str = ""  # being written, or the last one
    instruction: str = ""
    steps: int = 0
    seconds: float = 0.0  # last stamp minus first
    lost: int = 0  # control ticks without a step between the first and the last
    flushes: int = 0
    dropped: int = 0  # Observations that found the queue full
    episodes: int = 0  # finished since the start
    free_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def rate_hz(self) -> float:
        """Steps a second, by their stamps; 0 before the second step."""
        return (self.steps - 1) / self.seconds if self.steps > 1 else 0.0


class EpisodeRecorder:
    """Start, stop and discard episodes while Observations come in through `put`.

    One thread alone touches the files. `start`, `stop` and `discard` wait for it and raise InputError where they cannot
    be obeyed; `put` never waits.
    """

    def __init__(
        self,
        robot: Robot,
        robot_text: str,
        config: RecorderConfig,
        *,
        steady_s: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._robot, self._robot_text, self._config = robot, robot_text, config
        self._steady_s, self._free_bytes = steady_s, free_bytes
        self._folder = Path(config.output).expanduser().absolute()
        _check_folder(self._folder)
        self._queue: queue.Queue[Observation | _Order | None] = queue.Queue(config.queue_length)
        self._writer: EpisodeWriter | None = None
        self._recording = self._new_recording()
        self._reason = ""
        self._notes: tuple[str, ...] = ()  # why the last episode ended
        self._dropped = self._episodes = self._flushes = 0
        self._episode = ""
        self._state = RecorderState(free_bytes=free_bytes(self._folder))
        self._thread = threading.Thread(target=self._work, name="episode writer", daemon=True)
        self._thread.start()

    @property
    def state(self) -> RecorderState:
        """A snapshot."""
        return self._state

    @property
    def recording(self) -> bool:
        """Whether an episode is running."""
        return self._writer is not None

    def put(self, observation: Observation) -> None:
        """Takes an Observation; without a running episode it is forgotten."""
        if not self.recording:
            return
        try:
            self._queue.put_nowait(observation)
        except queue.Full:
            self._dropped += 1

    def start(self) -> Path:
        """Starts an episode and returns where it will be."""
        return self._order(self._start)

    def stop(self) -> Path:
        """Finishes the episode and returns where it is."""
        return self._order(self._stop)

    def discard(self) -> Path:
        """Ends the episode and removes its file."""
        return self._order(self._discard)

    def close(self) -> None:
        """Finishes a running episode and ends the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(InputError):
                self.stop()
            self._queue.put(None)
            self._thread.join()

    def _order(self, action: Callable[[], Path]) -> Path:
        order = _Order(action, Future())
        self._queue.put(order)
        return order.result.result()

    def _work(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=POLL_S)
            except queue.Empty:
                self._guard(self._idle)
            else:
                if item is None:
                    return
                if isinstance(item, _Order):
                    item.run(self._show)
                else:
                    self._guard(lambda: self._record(item))  # noqa: B023 (called at once)
            self._show()

    def _guard(self, action: Callable[[], None]) -> None:
        """A fault ends the episode and nothing else: the steps before it stay."""
        try:
            action()
        except (InputError, OSError) as error:
            if self._writer is not None:
                with contextlib.suppress(InputError):
                    self._stop()
            self._reason = str(error)

    def _record(self, observation: Observation) -> None:
        if self._writer is None:
            return
        for step in self._recording.add(observation):
            self._writer.add(step)
        self._check_limits()

    def _idle(self) -> None:
        if self._writer is not None:
            self._writer.poll()
            self._check_limits()

    def _check_limits(self) -> None:
        free_gb = self._free() / GB
        if free_gb < self._config.min_free_gb:
            self._end(f"stopped by itself: {free_gb:.2f} GB left on the disk")
        elif self._recording.seconds >= self._config.max_seconds:
            self._end(f"stopped by itself after {self._config.max_seconds:g} s")

    def _end(self, why: str) -> None:
        self._stop()
        self._notes = (why,)

    def _start(self) -> Path:
        if self._writer is not None:
            raise InputError(f"recorder: already recording {self._writer.path.name}")
        free_gb = self._free() / GB
        if free_gb < self._config.min_free_gb:
            raise InputError(
                f"{self._folder}: expected {self._config.min_free_gb:g} GB of free space, found {free_gb:.2f}"
            )
        header = Header(self._robot, self._robot_text, self._config.instruction)
        path = self._folder / f"episode_{_next_number(self._folder):04d}.hdf5"
        self._recording = self._new_recording()
        self._reason, self._notes, self._dropped, self._flushes = "", (), 0, 0
        self._writer = EpisodeWriter(path, header, flush_period_s=self._config.flush_period_s, steady_s=self._steady_s)
        self._episode = str(path)
        return path

    def _stop(self) -> Path:
        writer = self._running()
        self._writer = None
        try:
            path = writer.finish(steps_lost=self._recording.lost, steps_without_action=self._recording.waiting)
        except InputError as error:
            self._reason = str(error)
            raise
        finally:
            self._flushes = writer.flushes
        if path is None:
            raise InputError(f"recorder: {writer.path.name}: no step, nothing kept: {self._why_empty()}")
        self._episodes += 1
        return path

    def _discard(self) -> Path:
        writer = self._running()
        writer.discard()
        self._writer = None
        self._notes = (f"discarded {writer.path.name}",)
        return writer.path

    def _running(self) -> EpisodeWriter:
        if self._writer is None:
            raise InputError("recorder: not recording")
        return self._writer

    def _why_empty(self) -> str:
        if not self._recording.heard:
            return "no Observation came"
        return "no leader and no command came" if self._recording.source == "auto" else "it was too short"

    def _free(self) -> int:
        """Bytes left; none on a disk that is gone."""
        try:
            return self._free_bytes(self._folder)
        except OSError:
            return 0

    def _new_recording(self) -> Recording:
        return Recording(self._robot.period_ns, self._robot.action_offset_steps, self._config.action_source)

    def _show(self) -> None:
        """Publishes a new snapshot."""
        writer, recording = self._writer, self._recording
        free = self._free()
        self._state = RecorderState(
            state="recording" if writer else "fault" if self._reason else "idle",
            reason=self._reason,
            episode=self._episode,
            instruction=self._config.instruction,
            steps=recording.stored,
            seconds=recording.seconds,
            lost=recording.lost,
            flushes=writer.flushes if writer else self._flushes,
            dropped=self._dropped,
            episodes=self._episodes,
            free_bytes=free,
            warnings=tuple(self._warnings(writer, free)),
        )

    def _warnings(self, writer: EpisodeWriter | None, free_bytes: int) -> list[str]:
        recording = self._recording
        found = [self._reason] if self._reason else []
        found += self._notes
        if free_bytes < 2 * self._config.min_free_gb * GB:
            found.append(f"{free_bytes / GB:.2f} GB left on the disk")
        if not self._config.instruction:
            found.append("no instruction: the episode will say nothing about its task")
        if self._dropped:
            found.append(f"{self._dropped} observations dropped: the disk is too slow")
        if recording.lost:
            found.append(f"{recording.lost} control ticks without a step")
        if recording.refused:
            found.append(f"{recording.refused} observations refused: stamped before the one before them")
        if writer and writer.pictures_reencoded:
            found.append(f"{writer.pictures_reencoded} pictures too large, stored with lower quality")
        if writer and recording.source == "auto" and recording.heard:
            found.append("no leader and no command yet: nothing to store")
        return found


@dataclass(frozen=True, eq=False)
class _Order:
    """Something to be done by the writing thread, and where the caller waits for it."""

    action: Callable[[], Path]
    result: Future[Path]

    def run(self, show: Callable[[], None]) -> None:
        """Does it; the snapshot is new before the caller goes on."""
        try:
            path = self.action()
        except Exception as error:  # the caller's to handle; without it the caller would wait for ever
            show()
            self.result.set_exception(error)
        else:
            show()
            self.result.set_result(path)


def _next_number(folder: Path) -> int:
    """One more than the highest number in the folder, unfinished files included."""
    matches = (NUMBERED.match(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=-1) + 1


def _check_folder(folder: Path) -> None:
    """Makes the folder and tries to write in it."""
    probe = folder / ".write_test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output {folder}: cannot be written: {error.strerror}") from None
