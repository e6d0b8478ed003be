"""Damage that makes HDF5 stand still must be refused instead; each is tried in a process of its own."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rdt_ros.episodes.check.worker import Worker, WorkerError
from rdt_ros.episodes.hdf5 import HEAP_HEAD, HEAP_SIGNATURE, check_heaps, has_variable_data, open_for_reading
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError

PATIENCE_S = 60.0


def _refusal(path) -> str:
    worker = Worker(EpisodeReader, PATIENCE_S)
    try:
        with pytest.raises(WorkerError) as error:
            worker.do(path)
    finally:
        worker.close()
    return str(error.value)


def _overwrite(path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_damaged_headers_of_an_interrupted_recording_are_refused(maker, tmp_path):
    writer = maker.write(tmp_path / "live.hdf5", maker.observations(6), finish=False)
    path = tmp_path / "e.hdf5.partial"
    path.write_bytes(writer.unfinished.read_bytes())
    writer.discard()
    _overwrite(path, path.read_bytes().find(b"OHDR", 100) + 12, b"\xff\xff")  # the first after the root group's
    assert _refusal(path).startswith(f"InputError: {path}: ")


def test_a_heap_object_without_size_is_refused(maker, tmp_path):
    path = tmp_path / "e.hdf5"
    maker.write(path, maker.observations(6))
    check_heaps(path)
    _overwrite(path, path.read_bytes().find(HEAP_SIGNATURE) + HEAP_HEAD, bytes(64))
    with pytest.raises(InputError, match="found one without size"):
        check_heaps(path)
    assert "found one without size" in _refusal(path)


def test_only_arrays_of_variable_length_are_variable_data(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["text"] = "one text"
        file["numbers"] = np.zeros(3)
        assert not has_variable_data(file)
        file.create_dataset("group/frames", (3,), h5py.vlen_dtype(np.uint8))
        assert has_variable_data(file)


def test_a_file_being_written_opens_too(maker, tmp_path):
    writer = maker.write(tmp_path / "e.hdf5", maker.observations(6), finish=False)
    with open_for_reading(writer.unfinished, unfinished=True) as file:
        assert len(file["/stamps/tick"]) == 4
    writer.discard()
