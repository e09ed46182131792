"""Distinguishes a bag that is being written from one whose recorder was killed: a lock ends with its process."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import Any


def hold(file: Any) -> None:
    """Lock an open file until it is closed or its process ends."""
    with contextlib.suppress(OSError):  # a file system without locks: recovery then trusts its caller
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def held(path: Path) -> bool:
    """Whether a running process holds the lock on `path`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False
