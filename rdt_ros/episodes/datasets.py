"""Data sets of an HDF5 file, with one line that names the data set for whatever is wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import h5py
import numpy as np

from rdt_ros.errors import InputError

ROBOT_FILE = "robot_file"  # attribute: the text of the robot file whose units and order the values have

# What h5py, numpy and OpenCV raise for a damaged file or one whose sizes are nonsense.
DAMAGE = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, MemoryError, OverflowError, cv2.error)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns what a damaged data set makes libraries raise into one line with its name."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())[:160]}") from None


def dataset(file: h5py.Group, path: str) -> h5py.Dataset:
    """The data set of that path; InputError where it is absent or something else."""
    with naming(path):
        found = file.get(path)
    if found is None:
        raise InputError(f"an incomplete episode: missing {path}")
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: expected a data set, found a group")
    return found


def table(file: h5py.Group, path: str, columns: int, steps: int | None = None) -> np.ndarray:
    """(N, columns) float64; InputError for another shape, or another number of steps where one is given."""
    found = dataset(file, path)
    if found.ndim != 2 or found.shape[1] != columns or steps not in (None, len(found)):
        raise InputError(f"{path}: expected shape ({steps or 'N'}, {columns}), found {found.shape}")
    with naming(path):
        return np.asarray(found, float)


def text(file: h5py.Group, path: str) -> str:
    """A scalar text; empty where there is none."""
    if path not in file:
        return ""
    with naming(path):
        value = dataset(file, path)[()]
        return value.decode() if isinstance(value, bytes) else str(value)
