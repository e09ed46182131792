"""Many environments at once: one process and one thread each, images through shared memory.

The vector is Gymnasium's AsyncVectorEnv. Observations are views of the shared memory, valid until the next step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import CountedSeeds
from rlfp_ros.simulation.environment import ManipulationEnv

# Libraries read these when they are imported, so they have to be set before a worker's first import.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _Maker:
    """Builds an environment in the worker; a class, so that it can be sent to a spawned process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments

    def __call__(self) -> ManipulationEnv:
        import cv2

        cv2.setNumThreads(1)
        return ManipulationEnv(**self._arguments)


def make_vector(count: int, seed: int = 0, **arguments: Any) -> AsyncVectorEnv:
    """Return `count` environments, each in a process of its own.

    Environment i plays the seeds `seed + i`, `seed + i + count`, ...: together the ones that a single environment
    plays with `CountedSeeds(seed)`, and each episode bit for bit the same. `reset(seed=...)` starts the count again.
    The workers are spawned, so call it under `if __name__ == "__main__"` in scripts.

    Parameters
    ----------
    count
        Number of environments.
    seed
        Seed of the first episode.
    **arguments
        Arguments of `ManipulationEnv`. A perceiver has to be picklable.
    """
    if count < 1:
        raise ConfigurationError(f"count is {count}, expected at least 1 environment")
    makers = [_Maker({**arguments, "seeds": CountedSeeds(seed + index, count)}) for index in range(count)]
    with _environment(ONE_THREAD):
        return AsyncVectorEnv(
            makers, shared_memory=True, copy=False, context="spawn", autoreset_mode=AutoresetMode.NEXT_STEP
        )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
