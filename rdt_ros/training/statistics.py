"""Statistics of a data set's states, as the reference computes them and in its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.robot.vector import VECTOR_SIZE

ZERO = 1e-8  # values up to this size count as absent in the deviation
KEYS = ("state_mean", "state_std", "state_min", "state_max")
TOLERANCE = 1e-4  # rad or opening by which a state may leave the range of its own statistics: text and float32 round


@dataclass(frozen=True, eq=False)
class StateStatistics:
    """Of all usable states of one set, in the unified vector: (128,) float64 each."""

    name: str
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """One entry of the reference's dataset_stat.json."""
        values = zip(KEYS, (self.mean, self.std, self.low, self.high), strict=True)
        return {"dataset_name": self.name, **{key: array.tolist() for key, array in values}}

    def covering(self, found: StateStatistics) -> StateStatistics:
        """These statistics; InputError where `found`, those of the data itself, leave their range."""
        outside = (found.low < self.low - TOLERANCE) | (found.high > self.high + TOLERANCE)
        if outside.any():
            slot = int(np.argmax(outside))
            raise InputError(
                f"statistics of {self.name}: expected those of this data, found another's: slot {slot} of the states "
                f"is {found.low[slot]:.4g} to {found.high[slot]:.4g}, there {self.low[slot]:.4g} to "
                f"{self.high[slot]:.4g}; `rdt stats` makes new ones"
            )
        return self


class StateAccumulator:
    """Takes states episode by episode, once each."""

    def __init__(self) -> None:
        self._steps = 0
        # Sum, sum and sum of squares of the values that are not zero, and their number.
        self._sum, self._present_sum, self._present_squares, self._present = np.zeros((4, VECTOR_SIZE))
        self._low, self._high = np.full(VECTOR_SIZE, np.inf), np.full(VECTOR_SIZE, -np.inf)

    def add(self, states: np.ndarray) -> None:
        """(N, 128) float64, N at least 1."""
        present = np.abs(states) > ZERO
        values = np.where(present, states, 0)
        self._steps += len(states)
        self._sum += states.sum(0)
        self._present_sum += values.sum(0)
        self._present_squares += (values**2).sum(0)
        self._present += present.sum(0)
        self._low = np.minimum(self._low, states.min(0))
        self._high = np.maximum(self._high, states.max(0))

    def result(self, name: str) -> StateStatistics:
        """Of all that was added; the formulas are those of the reference's data/compute_dataset_stat_hdf5.py."""
        count = np.maximum(self._present, 1)
        variance = self._present_squares / count - (self._present_sum / self._steps) ** 2 * (self._steps / count)
        return StateStatistics(name, self._sum / self._steps, np.sqrt(np.maximum(variance, 0)), self._low, self._high)


def statistics_from_json(data: Mapping[str, Any], name: str, where: str) -> StateStatistics:
    """The entry of a set in a statistics file's content; `where` is what errors call the file."""
    if name not in data:
        raise InputError(f"{where}: expected statistics of {name}, found those of {', '.join(data) or 'nothing'}")
    arrays = []
    for key in KEYS:
        try:
            array = np.asarray(data[name][key], float)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: {name}.{key}: expected {VECTOR_SIZE} numbers") from None
        if array.shape != (VECTOR_SIZE,) or not np.isfinite(array).all():
            raise InputError(f"{where}: {name}.{key}: expected {VECTOR_SIZE} finite numbers, found {array.shape}")
        arrays.append(array)
    return StateStatistics(name, *arrays)


def read_statistics(path: str | Path) -> dict[str, Any]:
    """The content of a statistics file: entries by data set."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"statistics {path}: {error.strerror}; `rdt stats` makes them") from None
    except ValueError as error:
        raise InputError(f"statistics {path}: expected JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"statistics {path}: expected an object with an entry a data set, found {type(data).__name__}")
    return data


def write_statistics(path: str | Path, statistics: list[StateStatistics]) -> None:
    """Adds entries to the file, in place of those of the same name; whole or not at all."""
    path = Path(path)
    data = read_statistics(path) if path.exists() else {}
    data |= {one.name: one.to_json() for one in statistics}
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(data, indent=4), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise InputError(f"statistics {path}: could not be written: {error.strerror}") from None
