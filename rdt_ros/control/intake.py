"""Which chunks are taken and which are refused, whole and by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rdt_ros.robot.description import Robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.types import NS_PER_S, ActionChunk

MAX_ROWS = 1000
PERIOD_TOLERANCE = 1e-6  # relative


class Intake:
    """Checks chunks against a robot and brings their rows into the robot's order."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._columns = lru_cache(maxsize=8)(self._find_columns)

    def refusal(self, chunk: ActionChunk, *, epoch: int, now_ns: int, newest_ns: int) -> tuple[str, str] | None:
        """Why a chunk is not taken, as the kind that is counted and the particulars; None where it is.

        `newest_ns` is the stamp of the newest chunk that was taken in this epoch.
        """
        robot = self._robot
        if chunk.robot != robot.name:
            return "wrong robot", f"expected {robot.name}, found {chunk.robot!r}"
        if chunk.epoch != epoch:
            return "another epoch", f"expected {epoch}, found {chunk.epoch}"
        if chunk.stamp_ns > now_ns + robot.period_ns:
            return "from the future", f"stamped {(chunk.stamp_ns - now_ns) / NS_PER_S:.3f} s ahead"
        if chunk.stamp_ns < newest_ns:
            return "overtaken", f"stamped {(newest_ns - chunk.stamp_ns) / NS_PER_S:.3f} s before the newest one"
        return self._bad_rows(chunk, now_ns) if len(chunk.rows) else None

    def rows(self, chunk: ActionChunk) -> np.ndarray:
        """The joints (T, J) float64 of a chunk that is taken, in the robot's order."""
        return chunk.rows[:, self._columns(chunk.channels).joints].astype(float)

    def base_rows(self, chunk: ActionChunk) -> np.ndarray | None:
        """Its base velocities (T, 3) float64, zero for an axis that it does not name; None where it names none."""
        columns = self._columns(chunk.channels).base
        if not any(column is not None for column in columns):
            return None
        still = np.zeros(len(chunk.rows))
        return np.stack([still if c is None else chunk.rows[:, c].astype(float) for c in columns], axis=1)

    def due_offsets_ns(self, chunk: ActionChunk) -> np.ndarray:
        """When each row (T,) is due, in ns of plan time after the Observation."""
        return (np.arange(len(chunk.rows), dtype=np.int64) + chunk.offset_steps) * self._robot.period_ns

    def _bad_rows(self, chunk: ActionChunk, now_ns: int) -> tuple[str, str] | None:
        period_s = self._robot.period_ns / NS_PER_S
        if not abs(chunk.period_s / period_s - 1) <= PERIOD_TOLERANCE:
            return "wrong period", f"expected {period_s:g} s, found {chunk.period_s:g} s"
        shape = chunk.rows.shape
        if len(shape) != 2 or shape[1] != len(chunk.channels) or shape[0] > MAX_ROWS:
            return "wrong size", f"expected up to {MAX_ROWS} rows of {len(chunk.channels)} channels, found {shape}"
        if not 0 <= chunk.offset_steps <= shape[0]:
            return "wrong offset", f"expected 0 to {shape[0]} rows, found {chunk.offset_steps}"
        if wrong := self._columns(chunk.channels).wrong:
            return "wrong channels", wrong
        if not np.isfinite(chunk.rows).all():
            row, column = np.argwhere(~np.isfinite(chunk.rows))[0]
            return "not finite", f"row {row} of {chunk.channels[column]}"
        age_s, horizon_s = (now_ns - chunk.stamp_ns) / NS_PER_S, (shape[0] - 1 + chunk.offset_steps) * period_s
        if age_s >= horizon_s:
            return "older than its horizon", f"{age_s:.3f} s old, its last row is due after {horizon_s:.3f} s"
        return None

    def _find_columns(self, channels: tuple[str, ...]) -> _Columns:
        """Where a chunk with these channels has what the robot takes.

        A channel may have another name of the same slot: `gripper_open` is `right_gripper_open`.
        """
        for name in channels:
            if name not in SLOTS:
                return _Columns(wrong=f"{name} is no slot of the 128-vector")
        robot = self._robot
        found = [SLOTS[name] for name in channels]
        outputs = [SLOTS[name] for name in (*robot.channels, *robot.base_channels)]
        for slot, name in zip(found, channels, strict=True):
            if found.count(slot) > 1:
                return _Columns(wrong=f"{name} stands there twice")
            if slot not in outputs:
                return _Columns(wrong=f"the robot file of {robot.name} has no output for {name}")
        for joint in robot.joints:
            if SLOTS[joint.slot] not in found:
                return _Columns(wrong=f"{joint.slot} ({joint.name}) is missing")
        return _Columns(
            joints=[found.index(SLOTS[name]) for name in robot.channels],
            base=[found.index(SLOTS[name]) if SLOTS[name] in found else None for name in robot.base_channels],
        )


@dataclass(frozen=True)
class _Columns:
    """Columns of a chunk: of every joint, of every base axis (None: absent); or what is wrong with its channels."""

    joints: list[int] = field(default_factory=list)
    base: list[int | None] = field(default_factory=list)
    wrong: str = ""
