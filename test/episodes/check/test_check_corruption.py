"""Damaged files: a line each, never a traceback, never a hang."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdt_ros.check_command import judge
from rdt_ros.episodes import units
from rdt_ros.episodes.check.episode import Task
from rdt_ros.episodes.check.findings import KINDS
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.layout import VECTORS, image_path

PATIENCE_S = 60.0  # a healthy one takes a tenth of a second


@pytest.fixture(scope="module")
def healthy(clean, tmp_path_factory) -> list[Path]:
    """A short episode as we write it, the same interrupted, and the same as ALOHA's and RDT's data have it."""
    folder = tmp_path_factory.mktemp("healthy")
    take = clean.copy()
    take.keep(np.arange(60, 84))
    ours = take.write(folder / "ours.hdf5")
    take.finished = False
    interrupted = take.write(folder / "interrupted.hdf5")
    robot, foreign, random = take.robot, [], np.random.default_rng(1)
    for name in ("strings", "lengths", "arrays"):
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file[VECTORS["measured"]] = units.to_robot(robot, "measured", take.measured).astype(np.float32)
            file["/action"] = units.to_robot(robot, "command", take.action).astype(np.float32)
            file["/instruction"] = take.instruction
            for camera, frames in take.jpegs.items():
                path = image_path(camera)
                if name == "strings":
                    file.create_dataset(path, data=frames, dtype=f"S{max(map(len, frames))}")
                elif name == "lengths":
                    images = file.create_dataset(path, (len(frames),), h5py.vlen_dtype(np.uint8))
                    for i, frame in enumerate(frames):
                        images[i] = np.frombuffer(frame, np.uint8)
                else:
                    pixels = random.integers(0, 255, (len(frames), 12, 16, 3), np.uint8)
                    file.create_dataset(path, data=pixels, compression="gzip")
        foreign.append(folder / f"{name}.hdf5")
    return [ours, interrupted, *foreign]


# ------------------------------------------------------------------------------------------------ ways to damage


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def flipped_anywhere(path: Path, random) -> None:
    for at in random.integers(0, path.stat().st_size, int(random.integers(1, 64))):
        _overwrite(path, int(at), bytes([int(random.integers(256))]))


def flipped_structure(path: Path, random) -> None:
    """Near HDF5's own signatures, where its headers, trees and heaps are."""
    data = path.read_bytes()
    marks = [
        at
        for mark in (
            b"\x89HDF",
            b"TREE",
            b"HEAP",
            b"SNOD",
            b"OHDR",
            b"OCHK",
            b"FRHP",
            b"FADB",
            b"EAHD",
            b"GCOL",
            b"BTHD",
        )
        for at in _all(data, mark)
    ] or [0]
    for mark in random.choice(marks, int(random.integers(1, 6))):
        for offset in random.integers(0, 200, int(random.integers(1, 8))):
            if mark + offset < len(data):
                _overwrite(path, int(mark + offset), bytes([int(random.integers(256))]))


def _all(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def cut_short(path: Path, random) -> None:
    with path.open("r+b") as file:
        file.truncate(int(random.integers(0, path.stat().st_size)))


def block_of_zeros(path: Path, random) -> None:
    length = int(2 ** random.integers(4, 13))
    _overwrite(path, int(random.integers(0, max(1, path.stat().st_size - length))), bytes(length))


def nothing_but_noise(path: Path, random) -> None:
    head = path.read_bytes()[: int(random.integers(0, 64))]
    path.write_bytes(head + random.bytes(int(random.integers(0, 5000))))


def key_removed(path: Path, random) -> None:
    with _opened(path) as file:
        names = _names(file)
        if random.random() < 0.4 and len(file.attrs):
            del file.attrs[str(random.choice(list(file.attrs)))]
        else:
            del file[str(random.choice(names))]


def other_shape(path: Path, random) -> None:
    with _opened(path) as file:
        name = str(random.choice([n for n in _names(file) if isinstance(file[n], h5py.Dataset)]))
        dtype, shape = file[name].dtype, file[name].shape
        shapes = [(), (0,), (1,), (3, 3), (0, 14), (24, 1, 14), (24, 13), (25, 14), (23,), shape[::-1], (*shape, 2)]
        _replace(file, name, shapes[int(random.integers(len(shapes)))], dtype)


def other_type(path: Path, random) -> None:
    with _opened(path) as file:
        name = str(random.choice([n for n in _names(file) if isinstance(file[n], h5py.Dataset)]))
        types = [np.int8, np.uint64, np.float16, np.complex64, bool, "S9", h5py.string_dtype(), h5py.ref_dtype]
        types += [np.dtype([("a", "f4"), ("b", "i8")]), h5py.vlen_dtype(np.float32), np.dtype("V7")]
        _replace(file, name, file[name].shape, types[int(random.integers(len(types)))])


def _replace(file: h5py.File, name: str, shape: tuple[int, ...], dtype) -> None:
    del file[name]
    file.create_dataset(name, shape, dtype)


def group_for_data(path: Path, random) -> None:
    with _opened(path) as file:
        name = str(random.choice(_names(file)))
        group = isinstance(file[name], h5py.Group)
        del file[name]
        if group:
            file[name] = np.arange(3)
        else:
            file.create_group(name)


def link_to_nowhere(path: Path, random) -> None:
    with _opened(path) as file:
        name = str(random.choice(_names(file)))
        del file[name]
        kind = int(random.integers(3))
        file[name] = [h5py.SoftLink(name), h5py.SoftLink("/gone"), h5py.ExternalLink("gone.hdf5", "/x")][kind]


def wild_values(path: Path, random) -> None:
    with _opened(path) as file:
        numeric = [n for n in _names(file) if isinstance(file[n], h5py.Dataset) and file[n].dtype.kind in "fi"]
        dataset = file[str(random.choice([n for n in numeric if file[n].size]))]
        worst = [np.nan, np.inf, -np.inf, 1e38, -1e38] if dataset.dtype.kind == "f" else [-(2**63), 2**63 - 1, 0, -1]
        values = dataset[()]
        values[random.random(values.shape) < random.choice([0.02, 0.5, 1.1])] = worst[int(random.integers(len(worst)))]
        dataset[...] = values


def wild_attribute(path: Path, random) -> None:
    with _opened(path) as file:
        names = [*file.attrs, "robot_file", "colour_order", "steps_lost", "complete"]
        values = [
            b"\xff\xfe",
            "",
            "[1, 2",
            "{}",
            "name: x",
            np.nan,
            -1,
            2**63 - 1,
            np.zeros((3, 3)),
            h5py.Empty("f4"),
            True,
        ]
        file.attrs[str(random.choice(names))] = values[int(random.integers(len(values)))]


@contextlib.contextmanager
def _opened(path: Path):
    """For writing; a file in single-writer mode must be closed properly first, which its copy never was."""
    if path.suffix == ".partial":
        data = h5py.File(path, "r", swmr=True, locking=False)
        again = path.with_suffix(".again")
        with data, h5py.File(again, "w", libver=("v110", "v110")) as copy:
            for name in data:
                data.copy(data[name], copy, name)
            for name, value in data.attrs.items():
                copy.attrs[name] = value
        again.replace(path)
    with h5py.File(path, "r+") as file:
        yield file


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


DAMAGES = [
    flipped_anywhere,
    flipped_structure,
    flipped_structure,
    cut_short,
    block_of_zeros,
    nothing_but_noise,
    key_removed,
    other_shape,
    other_type,
    group_for_data,
    link_to_nowhere,
    wild_values,
    wild_attribute,
]


def damaged(healthy: list[Path], folder: Path, count: int, seed: int) -> list[Path]:
    """Files, each damaged in one way."""
    random, paths = np.random.default_rng(seed), []
    for i in range(count):
        source, damage = healthy[i % len(healthy)], DAMAGES[i % len(DAMAGES)]
        paths.append(folder / f"{i:04d}_{damage.__name__}_{source.name}")
        shutil.copy(source, paths[-1])
        damage(paths[-1], random)
    return paths


READ_ALL = """
import sys
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
robot = load_robot(sys.argv[1])
for path in sys.argv[2:]:
    try:
        with EpisodeReader(path, robot) as episode:
            print(path, sum(1 for _ in episode.observations()), "steps", flush=True)
    except InputError as error:
        assert str(error).startswith(path), error
        print(error, flush=True)
"""


def read_all(paths: list[Path], robot: Path) -> list[str]:
    """What the reader says to each file, in a process of its own: a crash or a hang of HDF5 fails the test."""
    command = [sys.executable, "-c", READ_ALL, str(robot), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S + len(paths))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"after {lines[-1:]}: {done.returncode}\n{done.stderr[-2000:]}"
    return lines


def _run(healthy, folder: Path, robot, robot_text: str, count: int, seed: int) -> None:
    paths = damaged(healthy, folder, count, seed)
    verdicts = judge([Task(path, Thresholds(timeout_s=PATIENCE_S), robot) for path in paths])
    said = Counter(item.kind for verdict in verdicts for item in verdict.findings)
    assert not [(v.path, f.found) for v in verdicts for f in v.findings if f.kind == "crashed"]
    assert set(said) <= set(KINDS) and said["unreadable"] > count / 5
    for verdict in verdicts:
        for item in verdict.findings:
            assert "\n" not in item.found + item.expected + item.subject
    robot_file = folder / "robot.yaml"
    robot_file.write_text(robot_text)
    lines = read_all(paths, robot_file)
    assert len(lines) == len(paths)
    steps = sum(line.endswith(" 24 steps") for line in lines)
    assert 0 < steps < len(paths)  # some are read in spite of it, others are refused


def test_healthy_files_are_read(healthy, clean, tmp_path):
    verdicts = judge([Task(path, Thresholds(min_steps=2), clean.robot) for path in healthy[:3]])
    kinds = [{item.kind for item in verdict.findings if item.severity == "error"} for verdict in verdicts]
    assert kinds == [set(), {"interrupted"}, set()]
    (tmp_path / "robot.yaml").write_text(clean.text)
    lines = read_all(healthy, tmp_path / "robot.yaml")
    assert lines == [f"{path} 24 steps" for path in healthy]


def test_sixty_damaged_files_are_a_line_each(healthy, clean, tmp_path):
    _run(healthy, tmp_path, clean.robot, clean.text, count=60, seed=1)


@pytest.mark.slow
def test_a_thousand_damaged_files_are_a_line_each(healthy, clean, tmp_path):
    _run(healthy, tmp_path, clean.robot, clean.text, count=1000, seed=2)
