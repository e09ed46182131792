"""How far a training is: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 15.0  # where the output is no terminal


class TrainingProgress:
    """Stages one after the other. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:8}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int, text: str) -> None:
        """Start a stage of `total` units."""
        self._name, self._total, self._began, self._said = name, total, time.monotonic(), 0.0
        self._first: int | None = None
        self._task = self._bars.add_task(name, total=total, text=text)

    def show(self, done: int, text: str) -> None:
        """Units done in this stage, and what to say about it."""
        assert self._task is not None
        self._bars.update(self._task, completed=done, text=text)
        if self._first is None:
            self._first = done  # a resumed stage does not begin at zero
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._said >= LINE_EVERY_S or done >= self._total):
            self._said = now
            elapsed = now - self._began
            left = elapsed * (self._total - done) / max(1, done - self._first)
            print(f"{self._name:8} {done}/{self._total}  {elapsed:.0f} s, {left:.0f} s left  {text}", flush=True)
