"""What killed processes leave of Fast DDS's shared memory: 35 MB each with our profile, and ports that nobody reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/dev/shm")
# Who owns a segment or listens to a port holds the lock of the file beside it for as long as it lives, in ROS 2 Humble
# (fastrtps) and later (fastdds).
SEGMENT_LOCK = re.compile(r"(fastrtps|fastdds)_[0-9a-f]{16}_el")
PORT_LOCK = re.compile(r"(fastrtps|fastdds)_port\d+_el")
AGE_S = 10.0  # a process that starts makes the file a moment before it locks it
NOTICED_S = 3.0  # Fast DDS looks at a listener twice, a second apart
POLL_S = 0.1
MARK = b"dead"


def remove_dead_segments(folder: Path = FOLDER) -> int:
    """Removes the segments of processes that are no more, but for another user's; how many these were."""
    return sum(_removed(lock) for lock in folder.glob("*_el") if SEGMENT_LOCK.fullmatch(lock.name))


def _removed(lock: Path) -> bool:
    with contextlib.suppress(OSError), lock.open() as file:  # held, gone meanwhile, or another user's
        if time.time() - lock.stat().st_mtime > AGE_S:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink()
            return True
    return False


@contextlib.contextmanager
def dead_ports_held(folder: Path = FOLDER) -> Iterator[None]:
    """Meanwhile Fast DDS gives nobody the port of a killed process that others still send to; it takes another.

    A port is taken over as a new file of the same name. Who has the old one mapped looks once a second how its listener
    is: waiting or busy with the same message as before means dead, and the new file is opened. A listener that was
    killed between the two is never taken for dead, and nobody who knew its port ever sends to the one who takes it
    over. So this waits until a death must have been noticed, and holds the ports that are left. A mark in the file of
    the lock, which is empty otherwise, spares the next node the wait.
    """
    end_s = time.monotonic() + NOTICED_S
    while not all((dead := _dead_ports(folder)).values()) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    with contextlib.ExitStack() as held:
        for lock in dead:
            with contextlib.suppress(OSError):  # gone meanwhile
                file = held.enter_context(lock.open("r+b", buffering=0))
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                file.write(MARK)
        yield


def _dead_ports(folder: Path) -> dict[Path, bool]:
    """Locks of ports that are dead and mapped, as far as this user may look; whether they are marked."""
    mapped = _mapped(folder)
    found = {}
    for lock in filter(lambda path: PORT_LOCK.fullmatch(path.name), folder.glob("*_el")):
        with contextlib.suppress(OSError), lock.open() as file:  # held by its listener, gone, or another user's
            if lock.with_name(lock.name.removesuffix("_el")).stat().st_ino in mapped:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found[lock] = os.fstat(file.fileno()).st_size > 0
    return found


def _mapped(folder: Path) -> set[int]:
    """Inodes of the files there that processes have mapped."""
    found: set[int] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            lines = maps.read_text().splitlines()
            found.update(int(line.split()[4]) for line in lines if f" {folder}/" in line)
    return found
