"""What is to be recorded: instructions, how many episodes of each are wanted, and how many are there."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rdt_ros.episodes.reader import stored_instruction
from rdt_ros.errors import InputError

LIST_FILE = ".txt"
SEPARATOR = "|"
COUNTED = re.compile(r"(\d+)\s*x\s+(.+)")


@dataclass(frozen=True)
class Task:
    """One instruction, the episodes wanted (0: no target) and those in the folder."""

    instruction: str
    target: int = 0
    recorded: int = 0

    @property
    def short(self) -> bool:
        """Whether episodes are still wanted."""
        return self.recorded < self.target


def parse_tasks(text: str, target: int = 0) -> tuple[Task, ...]:
    """The tasks of a setting: words, several separated by `|`, or a .txt file with one a line (# begins a comment).

    `50 x fold the towel` gives an instruction a target of its own instead of `target`. InputError for a file that
    cannot be read or holds none.
    """
    lines: Iterable[str] = text.split(SEPARATOR)
    if text.endswith(LIST_FILE):
        try:
            lines = [line.partition("#")[0] for line in Path(text).expanduser().read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"instruction: {text}: cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    words = [line.strip() for line in lines if line.strip()]
    if not words and text.strip():
        raise InputError(f"instruction: {text}: expected an instruction a line, found none")
    tasks = [_parse(line, target) for line in words]
    return tuple({task.instruction: task for task in tasks}.values()) or (Task("", target),)


def recorded_in(folder: Path) -> Counter[str]:
    """How many finished episodes of each instruction a folder holds; files that say none of theirs do not count."""
    found: Counter[str] = Counter()
    for path in folder.glob("*.hdf5"):
        with contextlib.suppress(InputError):  # no episode
            found[stored_instruction(path)] += 1
    return found


class TaskList:
    """The tasks and the one that the next episode is of."""

    def __init__(self, tasks: tuple[Task, ...], recorded: Mapping[str, int]) -> None:
        self._recorded = Counter(recorded)
        self.tasks = tuple(replace(task, recorded=self._recorded[task.instruction]) for task in tasks)
        self.selected = next((i for i, task in enumerate(self.tasks) if task.short), 0)

    @property
    def current(self) -> Task:
        """The selected task."""
        return self.tasks[self.selected]

    def next(self) -> None:
        """Selects the one after; after the last comes the first. InputError where there is only one."""
        if len(self.tasks) == 1:
            raise InputError("recorder: expected a list of instructions to go on in, found one")
        self.selected = (self.selected + 1) % len(self.tasks)

    def select(self, instruction: str) -> None:
        """Selects an instruction by its words, and takes it into the list where it is new."""
        words = " ".join(instruction.split())
        if not words:
            raise InputError("recorder: expected an instruction in words, found none")
        names = [task.instruction for task in self.tasks]
        if words not in names:
            kept = tuple(task for task in self.tasks if task.instruction)
            self.tasks = (*kept, Task(words, recorded=self._recorded[words]))
            names = [task.instruction for task in self.tasks]
        self.selected = names.index(words)

    def count(self, instruction: str, episodes: int) -> None:
        """Takes note of an episode finished (1) or set aside (-1)."""
        self._recorded[instruction] += episodes
        self.tasks = tuple(replace(task, recorded=self._recorded[task.instruction]) for task in self.tasks)

    def go_on(self) -> bool:
        """Selects the next task that is short where the selected one has reached its target; says whether it did."""
        if not self.current.target or self.current.short:
            return False
        order = [(self.selected + i) % len(self.tasks) for i in range(1, len(self.tasks))]
        following = next((i for i in order if self.tasks[i].short), None)
        if following is None:
            return False
        self.selected = following
        return True


def _parse(line: str, target: int) -> Task:
    match = COUNTED.fullmatch(line)
    return Task(" ".join(match[2].split()), int(match[1])) if match else Task(" ".join(line.split()), target)
