"""Opens an episode's HDF5 file for reading, finished or not."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path

import h5py

from rdt_ros.errors import InputError

# HDF5 reads damaged metadata of a file in single-writer mode 100 times and doubles its pause, from 1 ns, each time:
# for ever. 20 times end after 1 ms, long enough for a living writer to complete a page.
READ_ATTEMPTS = 20
HEAP_SIGNATURE = b"GCOL\x01\0\0\0"
TEXT_BYTES = 1 << 20  # at the start of an episode of ours: all its texts and attributes
HEAP_HEAD = 16  # bytes, of a heap and of each object in it


def open_for_reading(path: Path, *, unfinished: bool) -> h5py.File:
    """The file, without a lock; `unfinished`: its writer is at work or was interrupted. Raises what h5py raises."""
    check_heaps(path, limit=TEXT_BYTES)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, False)
    flags = h5py.h5f.ACC_RDONLY
    if unfinished:
        flags |= h5py.h5f.ACC_SWMR_READ
        _limit_attempts(access)
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _limit_attempts(access: h5py.h5p.PropFAID) -> None:
    """h5py has no name for this setting, so it is made in the library that h5py uses."""
    with contextlib.suppress(OSError, AttributeError):  # a library built in another way: only damaged files suffer
        set_attempts = ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts
        set_attempts.argtypes = (ctypes.c_int64, ctypes.c_uint)
        set_attempts(access.id, READ_ATTEMPTS)


def has_variable_data(file: h5py.File) -> bool:
    """Whether any data set has more than one text or array of variable length, which are kept in heaps."""
    return bool(file.visititems(lambda _, found: (isinstance(found, h5py.Dataset) and _is_variable(found)) or None))


def _is_variable(found: h5py.Dataset) -> bool:
    return found.dtype.kind == "O" and len(found.shape or ()) > 0


def check_heaps(path: Path, *, limit: int | None = None) -> None:
    """InputError for a heap of texts or variable-length data that HDF5 would read for ever; looks at `limit` bytes.

    An object of a global heap whose size is written as 0 makes HDF5 (2.0 at least) stand still at it. Layout: HDF5 file
    format specification, III.E, with lengths of 8 bytes, which is what every 64-bit writer uses.
    """
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = len(data) if limit is None else min(limit, len(data))
        at = data.find(HEAP_SIGNATURE, 0, end)
        while at >= 0:
            if not _ends(data, at):
                raise InputError(f"heap at byte {at}: expected objects that follow each other, found one without size")
            at = data.find(HEAP_SIGNATURE, at + 1, end)


def _ends(heap: mmap.mmap, start: int) -> bool:
    """Whether a walk over the objects of a heap reaches its end."""
    at = start + HEAP_HEAD
    stop = min(start + int.from_bytes(heap[start + 8 : start + 16], "little"), len(heap))
    while at + HEAP_HEAD <= stop:
        index = int.from_bytes(heap[at : at + 2], "little")
        size = int.from_bytes(heap[at + 8 : at + 16], "little")
        if not index and not size:
            return False
        at += size if not index else HEAP_HEAD + -(-size // 8) * 8  # of free space, index 0, the size includes the head
    return True
