"""Removes the shared memory that killed ROS processes left behind.

A Fast DDS participant that is killed leaves its ports and segments in /dev/shm. The next ones of the domain find
the ports unhealthy, and several that start at once can replace a port at the same time and use different copies of it:
they never see each other. The segments only take memory, up to 34 MB each, until /dev/shm is full.

A live participant holds flock locks on files that end in `_sl` (shared: the discovery port) and `_el` (exclusive: its
segment). The names are those of Fast DDS 2 and 3 (src/cpp/rtps/transport/shared_mem/SharedMemGlobal.hpp and
utils/shared_memory/); `fastdds shm clean` does the same, but is not part of every installation.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
YOUNG_S = 60.0  # a younger segment may belong to a participant that has not taken its lock yet

_SEGMENT = re.compile(r"fastrtps_[0-9a-f]{16}")


def ports(domain: int) -> range:
    """Return the ports of a domain, that of the discovery first (DDSI-RTPS 2.2, 9.6.1.1)."""
    first = 7400 + 250 * domain
    return range(first, first + 250)


def remove_leftovers(domain: int) -> int:
    """Remove what killed participants left: the ports of a domain in which none lives, and old segments.

    Files of other users and of live participants stay.

    Parameters
    ----------
    domain
        A ROS_DOMAIN_ID.

    Returns
    -------
    int
        Number of files removed.
    """
    removed = 0
    if not _is_held(FOLDER / f"fastrtps_port{ports(domain)[0]}_sl"):
        for port in ports(domain):
            name = f"fastrtps_port{port}"
            removed += sum(map(_remove, (name, f"{name}_sl", f"{name}_el", f"sem.{name}_mutex")))
    for lock in FOLDER.glob("fastrtps_*_el"):
        segment = lock.name.removesuffix("_el")
        if _SEGMENT.fullmatch(segment) and _is_old(lock) and not _is_held(lock):
            removed += _remove(segment) + _remove(lock.name)
    return removed


def _remove(name: str) -> bool:
    try:
        (FOLDER / name).unlink()
    except OSError:  # it does not exist, or belongs to another user
        return False
    return True


def _is_old(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > YOUNG_S
    return False


def _is_held(lock: Path) -> bool:
    """Whether a living process holds the lock, or we may not know."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
