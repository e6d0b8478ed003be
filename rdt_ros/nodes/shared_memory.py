"""What killed processes leave of Fast DDS's shared memory: 35 MB each with our profile, and ports that nobody reads."""

from __future__ import annotations

import contextlib
import fcntl
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

    A port is taken over as a new file of the same name. Who has the old one mapped looks how its listener is: waiting
    or busy with one message for a second means dead, and the new file is opened. A listener that was killed between the
    two is never taken for dead, and who takes its port over is not heard by those who knew it.
    """
    mapped = _mapped(folder)
    with contextlib.ExitStack() as held:
        for lock in folder.glob("*_el"):
            if PORT_LOCK.fullmatch(lock.name) and lock.name.removesuffix("_el") in mapped:
                with contextlib.suppress(OSError):  # its listener lives, or it is gone meanwhile, or another user's
                    fcntl.flock(held.enter_context(lock.open()), fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def _mapped(folder: Path) -> set[str]:
    """Names of the files there that processes have mapped, as far as this user may look."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            found.update(re.findall(rf" {re.escape(str(folder))}/(\S+)", maps.read_text()))
    return found
