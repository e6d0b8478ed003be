"""What killed processes leave of Fast DDS's shared memory: 35 MB each with our profile, and nobody takes it away."""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
# A segment's owner holds the lock of the file beside it for as long as it lives, in ROS 2 Humble (fastrtps) and later
# (fastdds). Ports, which are small, stay: those who send to them may go on when their listener comes back.
LOCK = re.compile(r"(fastrtps|fastdds)_[0-9a-f]{16}_el")
AGE_S = 10.0  # a process that starts makes the file a moment before it locks it


def remove_dead_segments(folder: Path = FOLDER) -> int:
    """Removes the segments of processes that are no more, but for another user's; how many these were."""
    return sum(_removed(lock) for lock in folder.glob("*_el") if LOCK.fullmatch(lock.name))


def _removed(lock: Path) -> bool:
    with contextlib.suppress(OSError), lock.open() as file:  # held, gone meanwhile, or another user's
        if time.time() - lock.stat().st_mtime > AGE_S:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink()
            return True
    return False
