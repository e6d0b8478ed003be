"""`rdt record`: the operator's view over a running recorder, and its commands."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rdt_ros import bringup
from rdt_ros.episodes.recorder import COMMANDS
from rdt_ros.episodes.tasks import Task
from rdt_ros.errors import InputError

KEYS = {" ": "toggle", "s": "start", "t": "stop", "k": "keep", "d": "discard", "r": "redo", "n": "next"}
QUIT = "q"
HELP = "space start/stop   s start   t stop   k keep   d discard   r redo   n next instruction   q quit"
STATES = ("idle", "recording", "fault")  # by the constants of RecorderState
REFRESH_S = 0.1
LINE_S = 1.0  # between two lines where there is no terminal
SILENT_S = 3.0  # until a recorder that says nothing counts as absent
CALL_S = 60.0  # a slow disk may have much to write before it can stop
BAR = 20  # characters
LONG_MIN = 120
STYLES = {"recording": "bold red", "idle": "bold green", "fault": "bold white on red", "absent": "bold yellow"}


@dataclass(frozen=True)
class RecordView:
    """All that the operator sees at one moment."""

    state: str = "absent"  # or one of STATES
    where: str = ""  # it was looked for
    episode: str = ""
    instruction: str = ""  # of that episode
    steps: int = 0
    seconds: float = 0.0
    max_seconds: float = 0.0
    rate_hz: float = 0.0
    lost: int = 0
    queued: int = 0
    free_gb: float = 0.0
    free_minutes: float | None = None
    tasks: tuple[Task, ...] = ()
    selected: int = 0
    notice: str = ""
    warnings: tuple[str, ...] = ()
    answer: str = ""  # to the last key, where it was refused

    @staticmethod
    def of(state: Any, complaints: Mapping[str, str], where: str, answer: str = "") -> RecordView:
        """From a RecorderState message, None where no recorder is heard, and what other nodes complain of."""
        others = tuple(_faults({name: text for name, text in complaints.items() if not name.startswith("recorder")}))
        if state is None:
            return RecordView(where=where, warnings=others, answer=answer)
        return RecordView(
            state=STATES[state.state],
            where=where,
            episode=Path(state.episode).name,
            instruction=state.instruction,
            steps=state.steps,
            seconds=state.seconds,
            max_seconds=state.max_seconds,
            rate_hz=state.rate_hz,
            lost=state.lost,
            queued=state.queued,
            free_gb=state.free_bytes / 1e9,
            free_minutes=state.free_minutes if state.free_minutes >= 0 else None,
            tasks=tuple(map(Task, state.instructions, state.targets, state.recorded)),
            selected=state.selected,
            notice=state.notice,
            warnings=(*state.warnings, *others),
            answer=answer,
        )

    @property
    def disk(self) -> str:
        """What is left on the disk."""
        if self.free_minutes is None:
            return f"{self.free_gb:.1f} GB left"
        minutes = self.free_minutes
        return f"{self.free_gb:.1f} GB left, " + (
            f"{minutes:.0f} min" if minutes < LONG_MIN else f"{minutes / 60:.0f} h"
        )


def lines(view: RecordView) -> list[tuple[str, str]]:
    """The picture of a view: each line and its style."""
    style = STYLES[view.state]
    if view.state == "absent":
        found = [(f"no recorder is heard in {view.where}", style)]
    else:
        found = [(f"{view.state.upper():<10} {view.episode}   {view.instruction}".rstrip(), style)]
        found.append((_figures(view), ""))
        found.append((f"disk {view.disk}", ""))
        found.append(("", ""))
        found += [
            (_task(task, i == view.selected), "bold" if i == view.selected else "") for i, task in enumerate(view.tasks)
        ]
        found += [("", ""), (view.notice, "dim")]
    found += [(f"! {text}", "yellow") for text in view.warnings]
    if view.answer and not (view.notice and view.answer.endswith(view.notice)):  # said already
        found.append((view.answer, "red"))
    return [*found, ("", ""), (HELP, "dim")]


def summary(view: RecordView) -> str:
    """The view in one line, where there is no terminal."""
    if view.state == "absent":
        parts = [f"no recorder is heard in {view.where}"]
    else:
        parts = [f"{view.state} {view.episode}".rstrip(), _figures(view), view.disk]
        parts += [_progress(view.tasks[view.selected])] if view.tasks else []
    return " | ".join([*parts, *(f"! {text}" for text in view.warnings)])


class Session:
    """What a key does, and what there is to see; `operator` is `rdt_ros.nodes.operator.Operator`."""

    def __init__(self, operator: Any, now_s: Callable[[], float] = time.monotonic) -> None:
        self._operator, self._now_s = operator, now_s
        self._heard: tuple[Any, float] = (None, 0.0)  # the newest message and when it came
        self._answer = ""

    def view(self) -> RecordView:
        """What there is to see now."""
        state = self._operator.recorder_state
        if state is not self._heard[0]:
            self._heard = state, self._now_s()
        if self._now_s() - self._heard[1] > SILENT_S:
            state = None
        return RecordView.of(state, self._operator.complaints, self._operator.where, self._answer)

    def press(self, key: str) -> bool:
        """Obeys a key; False for the one that quits."""
        if key == QUIT:
            return False
        if key in KEYS:
            try:
                self._answer = ""
                self._operator.call(f"recorder/{KEYS[key]}", CALL_S if self._operator.recorder_state else REFRESH_S)
            except InputError as error:
                self._answer = str(error)
        return True


class Keyboard:
    """Single keys of a terminal, as a context that leaves it as it was."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """The keys since the last call."""
        ready, _, _ = select.select([self._descriptor], [], [], 0)
        return os.read(self._descriptor, 64).decode(errors="ignore") if ready else ""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds `rdt record`."""
    parser = commands.add_parser("record", help="the operator's terminal view over the recorder", description=__doc__)
    parser.add_argument("command", nargs="?", choices=COMMANDS, help="do only this, without the view")
    parser.add_argument("--instruction", help="of the next episode, in words")
    parser.add_argument("--namespace", default="", help="ROS namespace of the robot's nodes")
    parser.add_argument("--domain", default="", help="ROS_DOMAIN_ID; default: the environment's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the recorder goes on when the view ends."""
    os.environ.update(bringup.environment(args.domain))
    from rdt_ros.nodes.operator import Operator

    with Operator(args.namespace) as operator:
        if args.instruction is not None:
            print(f"next: {operator.set_instruction(args.instruction)}")
        if args.command:
            print(operator.call(f"recorder/{args.command}", CALL_S))
        elif sys.stdin.isatty() and sys.stdout.isatty():
            _watch(operator, Session(operator))
        else:
            _print(operator, Session(operator))
    return 0


def _watch(operator: Any, session: Session) -> None:
    with Keyboard(sys.stdin.fileno()) as keyboard, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while all(session.press(key) for key in keyboard.pressed()):
            live.update(_drawn(session.view()), refresh=True)
            operator.spin(REFRESH_S)
    print(summary(session.view()))


def _print(operator: Any, session: Session) -> None:
    while True:
        operator.spin(LINE_S)
        print(summary(session.view()), flush=True)


def _drawn(view: RecordView) -> Text:
    return Text("\n").join(Text(text, style) for text, style in lines(view))


def _figures(view: RecordView) -> str:
    text = f"{view.seconds:.1f} of {view.max_seconds:.0f} s   {view.steps} steps   {view.rate_hz:.2f} Hz"
    text += f"   lost {view.lost}"
    return text + (f"   {view.queued} wait for the disk" if view.queued > 1 else "")


def _progress(task: Task) -> str:
    count = f"{task.recorded} of {task.target}" if task.target else f"{task.recorded}"
    return f"{task.instruction or '(no instruction)'}: {count} episodes"


def _task(task: Task, selected: bool) -> str:
    text = f"{'>' if selected else ' '} {_progress(task)}"
    if not task.target:
        return text
    done = round(BAR * min(task.recorded / task.target, 1.0))
    return f"{text}   [{'#' * done}{'.' * (BAR - done)}]"


def _faults(complaints: Mapping[str, str]) -> list[str]:
    """One line each; a node that only repeats what is wrong with one of its sources is left out."""
    sources = [f"{name.partition(': ')[2]}: {text}" for name, text in complaints.items() if ": " in name]
    nodes = [f"{name}: {text}" for name, text in complaints.items() if ": " not in name and text not in sources]
    return [*sources, *nodes]
