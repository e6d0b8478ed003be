"""What is to be done in the scene: how it is asked for, how the expert does it, and when it is done."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.sim import expert
from rdt_ros.sim.scene import CUBE_HALF_M, CubeScene
from rdt_ros.sim.schedule import STEP_NS
from rdt_ros.types import NS_PER_S

HOLD_S = 0.5  # what is to be reached has to last for this long
AFTER_SUCCESS_S = 0.5  # an episode ends so long after its success
LIFT_M = 0.08  # above where it lay, for the cube to count as held up
STILL_M = 1e-3  # a cube that lies still moves by less
CLEAR_M = 0.01  # above where it lies, for the cube to count as lifted
BRIEF_S = 0.05  # shorter contacts and gaps are noise: a squeezed cube leaves a finger or the table for single steps


@dataclass(frozen=True)
class Contacts:
    """What touches the cube."""

    left: bool
    right: bool
    table: bool

    @property
    def arms(self) -> bool:
        """Whether any arm does."""
        return self.left or self.right


@dataclass(frozen=True)
class Outcome:
    """How a task stands."""

    success: bool  # reached, and still so
    ever_success: bool  # so at some time since the reset
    held_s: float  # what HOLD_S asks for last, without a break until now
    stage: str  # the furthest that was reached, one of the judge's stages
    dropped: bool  # the cube has fallen at some time


class Judge(ABC):
    """Watches one episode: the furthest stage, how long what counts has lasted, and whether the cube fell."""

    stages: tuple[str, ...]  # from nothing to success

    def __init__(self) -> None:
        self._held_ns = self._falling_ns = self._stage = 0
        self._dropped = False

    @abstractmethod
    def watch(self, contacts: Contacts, cube: np.ndarray) -> None:
        """Takes the next physics step: what touches the cube, and its pose (7,)."""

    def outcome(self) -> Outcome:
        """The verdict until now."""
        stage = self.stages[self._stage]
        return Outcome(self._lasts(HOLD_S), stage == self.stages[-1], self._held_ns / NS_PER_S, stage, self._dropped)

    def _reach(self, stage: str) -> None:
        self._stage = max(self._stage, self.stages.index(stage))

    def _hold(self, holds: bool) -> None:
        self._held_ns = self._held_ns + STEP_NS if holds else 0

    def _lasts(self, seconds: float) -> bool:
        return self._held_ns >= seconds * NS_PER_S

    def _watch_fall(self, contacts: Contacts, cube: np.ndarray) -> None:
        falls = _is_clear(cube) and not (contacts.arms or contacts.table)
        self._falling_ns = self._falling_ns + STEP_NS if falls else 0
        self._dropped |= self._falling_ns >= BRIEF_S * NS_PER_S


class HandOverJudge(Judge):
    """Success: the left arm alone has held the cube for HOLD_S; neither the right arm nor the table touches it."""

    stages = (
        "never touched",
        "touched",
        "lifted by the right arm",
        "both arms hold it",
        "left arm alone, too short",
        "success",
    )

    def watch(self, contacts: Contacts, cube: np.ndarray) -> None:
        """Takes the next physics step."""
        self._watch_fall(contacts, cube)
        self._hold(contacts.left and not (contacts.right or contacts.table))
        if self._lasts(HOLD_S):
            self._reach("success")
        elif self._lasts(BRIEF_S):
            self._reach("left arm alone, too short")
        elif contacts.right and _is_clear(cube):
            self._reach("both arms hold it" if contacts.left else "lifted by the right arm")
        elif contacts.arms:
            self._reach("touched")


class LiftJudge(Judge):
    """Success: the right arm alone has held the cube up for HOLD_S, and then it lay still, let go, for HOLD_S."""

    stages = (
        "never touched",
        "touched",
        "lifted, not high or long enough",
        "held up",
        "back on the table, not let go or not still",
        "let go, lies there too short",
        "success",
    )

    def __init__(self) -> None:
        super().__init__()
        self._held_up = False
        self._anchor = np.zeros(3)  # where the cube was when it was touched or moved last

    def watch(self, contacts: Contacts, cube: np.ndarray) -> None:
        """Takes the next physics step."""
        self._watch_fall(contacts, cube)
        if self._held_up:
            self._watch_return(contacts, cube)
        else:
            self._watch_lift(contacts, cube)

    def _watch_lift(self, contacts: Contacts, cube: np.ndarray) -> None:
        alone = contacts.right and not (contacts.left or contacts.table)
        self._hold(alone and cube[2] >= CUBE_HALF_M + LIFT_M)
        if self._lasts(HOLD_S):
            self._reach("held up")
            self._held_up, self._held_ns = True, 0
        elif contacts.arms:
            self._reach("lifted, not high or long enough" if alone and _is_clear(cube) else "touched")

    def _watch_return(self, contacts: Contacts, cube: np.ndarray) -> None:
        moved = float(np.linalg.norm(cube[:3] - self._anchor)) > STILL_M
        lies = contacts.table and not (contacts.arms or moved)
        if not lies:
            self._anchor = np.array(cube[:3])
        self._hold(lies)
        if self._lasts(HOLD_S):
            self._reach("success")
        elif self._lasts(BRIEF_S):
            self._reach("let go, lies there too short")
        elif contacts.table:
            self._reach("back on the table, not let go or not still")


def _is_clear(cube: np.ndarray) -> bool:
    return bool(cube[2] > CUBE_HALF_M + CLEAR_M)


@dataclass(frozen=True)
class Task:
    """One task in the cube's scene."""

    name: str
    instructions: tuple[str, ...]  # the same in other words; the first is the default
    done: str  # what has happened at success
    episode_s: float  # time in which it has to be done
    plan: Callable[[CubeScene, float], np.ndarray]  # scene, control rate in Hz -> joint targets (N, 14)
    judge: Callable[[], Judge]

    @property
    def instruction(self) -> str:
        """The default wording."""
        return self.instructions[0]

    def scene_text(self, scene: CubeScene) -> str:
        """A scene in which this is to be done, as the simulator announces it."""
        return json.dumps({**dataclasses.asdict(scene), "task": self.name})


HAND_OVER = Task(
    "hand_over",
    (
        "hand the red cube over to the left arm",
        "pick up the red cube with the right arm and give it to the left arm",
        "pass the red cube from the right gripper to the left gripper",
        "transfer the cube to the left arm",
        "give the red cube to the left arm",
    ),
    "the left arm alone has held the cube",
    14.0,
    expert.plan,
    HandOverJudge,
)
LIFT = Task(
    "lift",
    (
        "lift the red cube and put it back",
        "pick up the red cube with the right arm and put it down again",
        "raise the red cube, then set it back on the table",
        "lift the cube up and place it where it was",
        "lift the red cube with the right gripper and lay it back down",
    ),
    "the right arm has lifted the cube and put it back",
    12.0,
    partial(expert.plan, script=expert.lift),
    LiftJudge,
)
TASKS: dict[str, Task] = {task.name: task for task in (HAND_OVER, LIFT)}


def find_task(name: str) -> Task:
    """The task of that name; InputError with the names that there are."""
    if name not in TASKS:
        raise InputError(f"task: expected one of {', '.join(TASKS)}, found {name!r}")
    return TASKS[name]


def read_scene_text(text: str) -> tuple[CubeScene, Task]:
    """The scene and the task of `Task.scene_text`."""
    values = json.loads(text)
    return CubeScene(values["seed"], values["max_yaw"]), find_task(values["task"])
