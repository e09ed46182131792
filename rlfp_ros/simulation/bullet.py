"""PyBullet without its output: the module prints its build time, and every connection an empty `argv[0]=`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard the output of C code by redirecting the file descriptors of standard output and error."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


with _silence():
    import pybullet
    from pybullet_utils import bullet_client


class _Client(bullet_client.BulletClient):  # type: ignore[misc]
    """Looks up each of pybullet's functions once instead of at every call; a second of simulation makes thousands."""

    def __getattr__(self, name: str) -> Any:
        attribute = super().__getattr__(name)
        if name not in ("disconnect", "isConnected"):  # these depend on the state of the connection
            self.__dict__[name] = attribute
        return attribute


def connect() -> Any:
    """Return a new physics server without a window; pybullet's functions are its methods."""
    with _silence():
        return _Client(pybullet.DIRECT)
