"""A process that plays for a learner, at the other end of a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rlfp_ros.learning.runs import processes


class Player:
    """Runs `play(what, connection)` in a separate process. A context manager that ends the process."""

    def __init__(self, play: Callable[..., None], what: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.send = self._connection.send
        self._process = context.Process(target=play, args=(what, theirs), daemon=True)

    def __enter__(self) -> Self:
        processes.start([self._process])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.end([self._process])

    def receive(self) -> Any:
        """Wait for the next object that the process sends. Raises RuntimeError if the process died."""
        try:
            while not self._connection.poll(0.2):
                if not self._process.is_alive():
                    raise EOFError
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(f"a collecting process died with exit code {self._process.exitcode}") from None
