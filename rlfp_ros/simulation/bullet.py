"""PyBullet without its output: the module prints its build time, and every connection an empty `argv[0]=`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


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
        client = _Client(pybullet.DIRECT)
    if not pybullet.isNumpyEnabled():
        plain = client.getCameraImage
        client.getCameraImage = lambda width, height, *args, **kwargs: _arrays(*plain(width, height, *args, **kwargs))
    return client


def _arrays(width: int, height: int, pixels: Any, depth: Any, bodies: Any) -> tuple[int, int, Any, Any, Any]:
    """Return an image as arrays: a PyBullet that was built without NumPy (from source, by pip) returns flat tuples."""
    shape = height, width
    colours = np.asarray(pixels, np.uint8).reshape(*shape, 4)
    segmentation = np.asarray(bodies, np.int32)
    if segmentation.size == height * width:
        segmentation = segmentation.reshape(shape)
    return width, height, colours, np.asarray(depth, np.float32).reshape(shape), segmentation
