"""Locks that allow one graph per DDS domain, across all processes of this user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rlfp_ros.graph.description import Resolved
from rlfp_ros.graph.shared_memory import remove_leftovers
from rlfp_ros.schema import ConfigurationError


def _locks_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"rlfp_ros-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _lock(path: Path) -> IO[str] | None:
    """Return an open file that is locked until it is closed or its process dies; None if another process holds it."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open, it is the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def graph_lock(resolved: Resolved) -> Iterator[None]:
    """Refuse a second graph with the same node names in a domain, because it would drive the first one's arm."""
    first = resolved.processes[0] if resolved.processes else None
    domain = (first.environment.get("ROS_DOMAIN_ID") if first else None) or os.environ.get("ROS_DOMAIN_ID") or "0"
    namespace = first.namespace if first else ""
    path = _locks_folder() / f"domain_{domain}{namespace.replace('/', '.')}.graph"
    file = _lock(path)
    if file is None:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        where = f"ROS_DOMAIN_ID {domain}" + (f", namespace {namespace}" if namespace else "")
        raise ConfigurationError(
            f"{where}: another rlfp_ros graph runs there (process {holder}); "
            "stop it, or give domain_id:= or namespace:= another value"
        )
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        remove_leftovers(int(domain))
        yield


@contextlib.contextmanager
def reserved_domain() -> Iterator[int]:
    """Reserve a ROS_DOMAIN_ID that no other graph of this user has. For demo, evaluation and tests.

    It is from 10 to 101: people use lower ones, and higher ones collide with Linux's ephemeral ports.
    """
    for domain in random.SystemRandom().sample(range(10, 102), 92):
        file = _lock(_locks_folder() / f"domain_{domain}.reserved")
        if file is None:
            continue
        with file:
            busy = [other for other in _locks_folder().glob(f"domain_{domain}.*graph") if _is_locked(other)]
            if not busy:
                remove_leftovers(domain)
                yield domain
                return
    raise ConfigurationError("every ROS_DOMAIN_ID from 10 to 101 is taken by another rlfp_ros graph; stop some of them")


def _is_locked(path: Path) -> bool:
    file = _lock(path)
    if file is None:
        return True
    file.close()
    return False
