"""Removes the shared memory that killed ROS processes left behind.

A Fast DDS participant that is killed leaves its ports and segments in /dev/shm. The next ones of the domain find
the ports unhealthy, and several that start at once can replace a port at the same time and use different copies of it:
they never see each other. The segments only take memory, up to 34 MB each, until /dev/shm is full.

A live participant holds flock locks on files that end in `_sl` (shared: the discovery port) and `_el` (exclusive: its
own ports and its segment). The names are those of Fast DDS 2 and 3 (SharedMemGlobal.hpp and utils/shared_memory/ in
its sources); `fastdds shm clean` does the same, but is not part of every installation.
"""

from __future__ import annotations

import fcntl
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
# Younger files may belong to a participant that has not taken its locks yet.
YOUNG_PORT_S, YOUNG_SEGMENT_S = 1.0, 60.0

_SEGMENT = re.compile(r"fastrtps_[0-9a-f]{16}")


def ports(domain: int) -> range:
    """Return the ports of a domain (DDSI-RTPS 2.2, 9.6.1.1)."""
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
    names = [f"fastrtps_port{port}" for port in ports(domain)]
    locks = [FOLDER / f"{name}_{kind}" for name in names for kind in ("sl", "el")]
    if not any(_is_young(lock, YOUNG_PORT_S) or _is_held(lock) for lock in locks):
        for name in names:
            removed += sum(map(_remove, (name, f"{name}_sl", f"{name}_el", f"sem.{name}_mutex")))
    for lock in FOLDER.glob("fastrtps_*_el"):
        segment = lock.name.removesuffix("_el")
        if _SEGMENT.fullmatch(segment) and not _is_young(lock, YOUNG_SEGMENT_S) and not _is_held(lock):
            removed += _remove(segment) + _remove(lock.name)
    return removed


def _remove(name: str) -> bool:
    try:
        (FOLDER / name).unlink()
    except OSError:  # it does not exist, or belongs to another user
        return False
    return True


def _is_young(path: Path, limit_s: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime < limit_s
    except FileNotFoundError:
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
