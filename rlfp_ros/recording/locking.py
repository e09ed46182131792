"""Tells a bag that is being written from one whose recorder was killed: the kernel drops the lock with the process."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import Any


def hold(file: Any) -> None:
    """Lock an open file until it is closed or its process ends."""
    with contextlib.suppress(OSError):  # file systems without locks: recovery then trusts its caller
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False
