"""Many environments at once: one process and one thread each, pictures through shared memory.

Gymnasium's AsyncVectorEnv does the work; observations are views of the shared memory, valid until the next step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv

# Libraries read these when they are imported, so they have to be there before a worker's first import.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _Maker:
    """Builds an environment in the worker; a class, so that it travels to a spawned process."""

    def __init__(self, count: int, arguments: dict[str, Any]) -> None:
        self._count, self._arguments = count, arguments

    def __call__(self) -> ManipulationEnv:
        import cv2

        cv2.setNumThreads(1)
        return ManipulationEnv(**self._arguments, seed_step=self._count)


def make_vector(count: int, seed: int = 0, **arguments: Any) -> AsyncVectorEnv:
    """`count` environments with the arguments of `ManipulationEnv`, each in a process of its own.

    Environment i plays the seeds `seed + i`, `seed + i + count`, ...: together the ones that a single environment
    plays, and each episode bit for bit the same as there. `reset(seed=...)` starts that anew. A perceiver has to be
    picklable. Call it under `if __name__ == "__main__"` in scripts: the workers are spawned.
    """
    if count < 1:
        raise ConfigurationError(f"count is {count}, expected at least 1 environment")
    makers = [_Maker(count, {**arguments, "seed": seed + index}) for index in range(count)]
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
