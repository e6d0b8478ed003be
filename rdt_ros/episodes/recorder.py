"""Episodes from a stream of Observations: a thread writes behind a bounded queue, receiving never waits for a disk."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from rdt_ros.episodes.disk import GB, Disk, disk_free_bytes
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import SOURCES, Recording
from rdt_ros.episodes.tasks import Task, TaskList, parse_tasks, recorded_in
from rdt_ros.episodes.writer import UNFINISHED, EpisodeWriter, locked_by_writer
from rdt_ros.errors import InputError
from rdt_ros.options import option
from rdt_ros.robot.description import Robot
from rdt_ros.types import Observation

POLL_S = 0.1  # how often the thread looks at the clock while nothing arrives
SILENT_S = 1.0  # without an Observation, until it is worth a word
NUMBERED = re.compile(r"episode_(\d+)\.hdf5")
DISCARDED = ".discarded"
COMMANDS = ("start", "stop", "keep", "discard", "redo", "next", "toggle")  # what needs no words


@dataclass(frozen=True)
class RecorderConfig:
    """Settings of the recorder."""

    robot: str = option("agilex", doc="robot file: a shipped name or a YAML path")
    output: str = option("episodes", doc="folder for the episodes: episode_0000.hdf5 and counting")
    instruction: str = option(
        "", doc="what is being done, in words; a list: separated by |, or a .txt file with one a line"
    )
    target: int = option(
        0, unit="episodes", low=0, doc="wanted of each instruction; 0: no target; `50 x fold` in a list has its own"
    )
    autostart: bool = option(False, doc="start recording at once; false: after ~/start")
    action_source: str = option(
        "auto", doc="what becomes /action; auto: leader where there is one, else command", choices=SOURCES
    )
    flush_period_s: float = option(0.5, unit="s", low=0.05, high=60, doc="time between two flushes to the disk")
    max_seconds: float = option(600.0, unit="s", low=1, doc="an episode ends by itself after this time")
    min_free_gb: float = option(
        1.0, unit="GB", low=0, doc="an episode ends by itself below this space; warns below twice"
    )
    warn_minutes: float = option(
        15.0, unit="min", low=0, doc="warns when the disk will be full in this time at the present rate"
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
    instruction: str = ""  # of that episode
    steps: int = 0
    seconds: float = 0.0  # last stamp minus first
    lost: int = 0  # control ticks without a step between the first and the last
    dropped: int = 0  # Observations that found the queue full
    queued: int = 0  # Observations that wait for the disk
    flushes: int = 0
    fsyncs: int = 0
    worst_flush_s: float = 0.0
    episodes: int = 0  # kept since the start
    free_bytes: int = 0
    free_minutes: float | None = None  # at the present rate; None: not known yet
    tasks: tuple[Task, ...] = ()
    selected: int = 0  # task of the next episode
    notice: str = ""  # what happened last
    warnings: tuple[str, ...] = ()

    @property
    def rate_hz(self) -> float:
        """Steps a second, by their stamps; 0 before the second step."""
        return (self.steps - 1) / self.seconds if self.steps > 1 else 0.0


class EpisodeRecorder:
    """Start, stop, keep, discard and redo episodes while Observations come in through `put`.

    One thread alone touches the files. `put` never waits; all else waits for it and raises InputError where it cannot
    be obeyed. A stopped episode may still be discarded or redone until it is kept or the next one starts.
    """

    def __init__(
        self,
        robot: Robot,
        robot_text: str,
        config: RecorderConfig,
        *,
        steady_s: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = disk_free_bytes,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        self._robot, self._robot_text, self._config = robot, robot_text, config
        self._steady_s, self._fsync = steady_s, fsync
        self._folder = Path(config.output).expanduser().absolute()
        _check_folder(self._folder)
        self._disk = Disk(self._folder, config.min_free_gb * GB, free_bytes)
        self._tasks = TaskList(parse_tasks(config.instruction, config.target), recorded_in(self._folder))
        self._queue: queue.Queue[Observation | _Order | None] = queue.Queue(config.queue_length)
        self._writer: EpisodeWriter | None = None
        self._newest: EpisodeWriter | None = None  # also after its end, for its counts
        self._instruction = self._tasks.current.instruction
        self._undecided: Path | None = None  # finished, neither kept nor discarded
        self._recording = self._new_recording()
        self._reason = self._notice = ""
        self._ended = ""  # why the last episode ended by itself
        self._dropped = self._episodes = 0
        self._heard_s = steady_s()
        self._interrupted = _interrupted(self._folder)
        self._state = RecorderState()
        self._show()
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
        self._heard_s = self._steady_s()
        try:
            self._queue.put_nowait(observation)
        except queue.Full:
            self._dropped += 1

    def start(self) -> str:
        """Starts an episode and returns its path."""
        return self._order(self._start)

    def stop(self) -> str:
        """Finishes the episode and returns its path."""
        return self._order(self._stop)

    def keep(self) -> str:
        """Finishes the episode, or takes the last one, for good; returns its path."""
        return self._order(self._keep)

    def discard(self) -> str:
        """Removes the running episode, or sets the last one aside under another name; returns its path."""
        return self._order(self._discard)

    def redo(self) -> str:
        """Discards, and starts again at once; returns the new path."""
        return self._order(self._redo)

    def toggle(self) -> str:
        """Starts where nothing runs, else finishes: one pedal is enough."""
        return self._order(self._toggle)

    def next(self) -> str:
        """Selects the next instruction of the list for the next episode and returns it."""
        return self._order(self._next)

    def set_instruction(self, instruction: str) -> str:
        """Gives the next episode this instruction and returns it."""
        return self._order(lambda: self._select(instruction))

    def command(self, word: str) -> str:
        """One of COMMANDS by its name."""
        return self._order(lambda: self._command(word))

    def close(self) -> None:
        """Finishes a running episode and ends the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(InputError):
                self.stop()
            self._queue.put(None)
            self._thread.join()

    def _order(self, action: Callable[[], str]) -> str:
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
                    self._obey(item)
                    continue
                self._guard(lambda: self._record(item))  # noqa: B023 (called at once)
            self._show()

    def _obey(self, order: _Order) -> None:
        """The snapshot is new before the caller goes on."""
        try:
            result = order.action()
        except Exception as error:  # the caller's to handle; without it the caller would wait for ever
            self._notice = str(error)
            self._show()
            order.result.set_exception(error)
        else:
            self._show()
            order.result.set_result(result)

    def _guard(self, action: Callable[[], None]) -> None:
        """A fault ends the episode and nothing else: the steps before it stay."""
        try:
            action()
        except (InputError, OSError) as error:
            if self._writer is not None:
                with contextlib.suppress(InputError):
                    self._stop()
            self._reason = self._notice = str(error)

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
        free_gb = self._disk.free_bytes / GB
        if free_gb < self._config.min_free_gb:
            self._end(f"stopped by itself: {free_gb:.2f} GB left on the disk")
        elif self._recording.seconds >= self._config.max_seconds:
            self._end(f"stopped by itself after {self._config.max_seconds:g} s")

    def _end(self, why: str) -> None:
        self._stop()
        self._ended, self._notice = why, f"{self._notice}; {why}"

    def _start(self) -> str:
        if self._writer is not None:
            raise InputError(f"recorder: already recording {self._writer.path.name}")
        free_gb = self._disk.free_bytes / GB
        if free_gb < self._config.min_free_gb:
            raise InputError(
                f"{self._folder}: expected {self._config.min_free_gb:g} GB of free space, found {free_gb:.2f}"
            )
        instruction = self._tasks.current.instruction
        path = self._folder / f"episode_{_next_number(self._folder):04d}.hdf5"
        writer = EpisodeWriter(
            path,
            Header(self._robot, self._robot_text, instruction),
            flush_period_s=self._config.flush_period_s,
            steady_s=self._steady_s,
            fsync=self._fsync,
        )
        self._recording = self._new_recording()
        self._interrupted = tuple(name for name in _interrupted(self._folder) if name != writer.unfinished.name)
        self._instruction, self._undecided = instruction, None
        self._reason, self._ended, self._dropped = "", "", 0
        self._heard_s = self._steady_s()
        self._notice = f"recording {path.name}"
        self._writer = self._newest = writer
        return str(path)

    def _stop(self) -> str:
        writer = self._running()
        self._writer = None
        try:
            path = writer.finish(steps_lost=self._recording.lost, steps_without_action=self._recording.waiting)
        except InputError as error:
            self._reason = str(error)
            self._interrupted = _interrupted(self._folder)
            raise
        if path is None:
            raise InputError(f"recorder: {writer.path.name}: no step, nothing kept: {self._why_empty()}")
        self._episodes += 1
        self._undecided = path
        self._notice = f"finished {path.name}: {self._recording.stored} steps, {self._recording.seconds:.1f} s"
        self._tasks.count(self._instruction, 1)
        if self._tasks.go_on():
            self._notice += f"; its target is reached, next: {self._tasks.current.instruction}"
        return str(path)

    def _keep(self) -> str:
        if self._writer is not None:
            self._stop()
        if self._undecided is None:
            raise InputError("recorder: nothing to keep: no episode since the last one was decided")
        path, self._undecided = self._undecided, None
        self._notice = f"kept {path.name}"
        return str(path)

    def _discard(self) -> str:
        if self._writer is not None:
            path = self._writer.path
            self._writer.discard()
            self._writer = None
        elif self._undecided is not None:
            path = self._undecided
            path.rename(path.with_name(path.name + DISCARDED))  # its number is not given again, so nothing is there
            self._undecided = None
            self._episodes -= 1
            self._tasks.count(self._instruction, -1)
        else:
            raise InputError("recorder: nothing to discard: no episode since the last one was decided")
        self._newest, self._recording, self._dropped, self._ended = None, self._new_recording(), 0, ""
        self._notice = f"discarded {path.name}"
        return str(path)

    def _redo(self) -> str:
        self._discard()
        discarded = self._notice
        if self._instruction:
            self._tasks.select(self._instruction)
        path = self._start()
        self._notice = f"{discarded}, {self._notice}"
        return path

    def _toggle(self) -> str:
        return self._stop() if self._writer else self._start()

    def _command(self, word: str) -> str:
        if word not in COMMANDS:
            raise InputError(f"recorder: expected one of {', '.join(COMMANDS)}, found {word!r}")
        actions = (self._start, self._stop, self._keep, self._discard, self._redo, self._next, self._toggle)
        return dict(zip(COMMANDS, actions, strict=True))[word]()

    def _next(self) -> str:
        self._tasks.next()
        return self._selected()

    def _select(self, instruction: str) -> str:
        self._tasks.select(instruction)
        return self._selected()

    def _selected(self) -> str:
        self._notice = f"next: {self._tasks.current.instruction}"
        return self._tasks.current.instruction

    def _running(self) -> EpisodeWriter:
        if self._writer is None:
            raise InputError("recorder: not recording")
        return self._writer

    def _why_empty(self) -> str:
        if not self._recording.heard:
            return "no Observation came"
        return "no leader and no command came" if self._recording.source == "auto" else "it was too short"

    def _new_recording(self) -> Recording:
        return Recording(self._robot.period_ns, self._robot.action_offset_steps, self._config.action_source)

    def _show(self) -> None:
        """Publishes a new snapshot."""
        recording, free, newest = self._recording, self._disk.free_bytes, self._newest
        if self._writer is not None:
            self._disk.wrote(self._writer.size_bytes, recording.seconds)
        self._state = RecorderState(
            state="recording" if self._writer else "fault" if self._reason else "idle",
            reason=self._reason,
            episode=str(newest.path) if newest else "",
            instruction=self._instruction if newest else self._tasks.current.instruction,
            steps=recording.stored,
            seconds=recording.seconds,
            lost=recording.lost,
            dropped=self._dropped,
            queued=self._queue.qsize(),
            flushes=newest.flushes if newest else 0,
            fsyncs=newest.fsyncs if newest else 0,
            worst_flush_s=newest.worst_flush_s if newest else 0.0,
            episodes=self._episodes,
            free_bytes=free,
            free_minutes=self._disk.minutes(free),
            tasks=self._tasks.tasks,
            selected=self._tasks.selected,
            notice=self._notice,
            warnings=tuple(self._warnings(free)),
        )

    def _warnings(self, free_bytes: int) -> list[str]:
        found = [text for text in (self._reason, self._ended) if text]
        if self._writer is not None:
            found += self._live_warnings(self._writer)
        minutes = self._disk.minutes(free_bytes)
        soon = minutes is not None and minutes < self._config.warn_minutes
        if soon or free_bytes < 2 * self._config.min_free_gb * GB:
            found.append(self._disk.left(free_bytes))
        if not (self._instruction if self._writer else self._tasks.current.instruction):
            found.append("no instruction: the episode will say nothing about its task")
        current = self._tasks.current
        if current.target and not current.short:
            found.append(f"target reached: {current.recorded} of {current.target} episodes of {current.instruction!r}")
        found += self._losses()
        found += [f"{name}: interrupted, to be repaired by rdt episodes check --repair" for name in self._interrupted]
        return found

    def _live_warnings(self, writer: EpisodeWriter) -> list[str]:
        """What is wrong at this moment of a running episode."""
        found = []
        silent_s = self._steady_s() - self._heard_s
        if silent_s > SILENT_S:
            found.append(f"no observation for {silent_s:.0f} s")
        if (queued := self._queue.qsize()) > self._config.queue_length / 2:
            found.append(f"the disk is behind: {queued} of {self._config.queue_length} observations wait for it")
        if writer.pictures_reencoded:
            found.append(f"{writer.pictures_reencoded} pictures too large, stored with lower quality")
        if self._recording.source == "auto" and self._recording.heard:
            found.append("no leader and no command yet: nothing to store")
        return found

    def _losses(self) -> list[str]:
        """What this episode, or the last one, does not hold."""
        recording, writer, found = self._recording, self._newest, []
        if self._dropped:
            found.append(f"{self._dropped} observations dropped: the disk is too slow")
        if recording.lost:
            found.append(f"{recording.lost} control ticks without a step")
        if recording.refused:
            found.append(f"{recording.refused} observations refused: stamped before the one before them")
        if recording.without_action:
            found.append(f"{recording.without_action} observations without a {recording.source}: no action, no step")
        if writer:
            # a command is there whenever the arms are driven; its absence says nothing about a sensor
            absent = {name: steps for name, steps in writer.missing.items() if name != "command"}
            found += [f"{name} missing in {steps} steps" for name, steps in sorted(absent.items())]
            found += [
                f"{name} came after the first step: not stored in {steps} steps; stop and start again to record it"
                for name, steps in sorted(writer.late.items())
            ]
        return found


@dataclass(frozen=True, eq=False)
class _Order:
    """Something to be done by the writing thread, and where the caller waits for it."""

    action: Callable[[], str]
    result: Future[str]


def _next_number(folder: Path) -> int:
    """One more than the highest number in the folder, unfinished and discarded files included."""
    matches = (NUMBERED.match(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=-1) + 1


def _interrupted(folder: Path) -> tuple[str, ...]:
    """Names of unfinished files that no living recorder writes."""
    found = []
    for path in sorted(folder.glob(f"*{UNFINISHED}")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if not locked_by_writer(descriptor):
                    found.append(path.name)
            finally:
                os.close(descriptor)
    return tuple(found)


def _check_folder(folder: Path) -> None:
    """Makes the folder and tries to write in it."""
    probe = folder / ".write_test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output {folder}: cannot be written: {error.strerror}") from None
