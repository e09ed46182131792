"""How far a training is: bars on a terminal, a line now and then in a log, figures for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

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


class Show(Protocol):
    """What a stage tells: units done, what to say, and figures for TensorBoard."""

    def __call__(self, done: int, text: str, **figures: float) -> None:
        """`TrainingProgress.show`."""


class TrainingProgress:
    """Stages one after the other. A context manager. TensorBoard's events go into `run`, if given."""

    def __init__(self, console: Console, run: Path | None = None) -> None:
        self._board: Any = None
        if run:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run))
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
        if self._board:
            self._board.close()

    def stage(self, name: str, total: int, text: str) -> None:
        """Start a stage of `total` units."""
        self._name, self._total, self._began, self._said = name, total, time.monotonic(), 0.0
        self._first: int | None = None
        self._task = self._bars.add_task(name, total=total, text=text)

    def show(self, done: int, text: str, **figures: float) -> None:
        """Units done in this stage, what to say about it, and figures by name."""
        assert self._task is not None
        for name, value in figures.items() if self._board else ():
            self._board.add_scalar(f"{self._name}/{name}", value, done)
        self._bars.update(self._task, completed=done, text=text)
        if self._first is None:
            self._first = done  # a resumed stage does not begin at zero
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._said >= LINE_EVERY_S or done >= self._total):
            self._said = now
            elapsed = now - self._began
            said = f"{elapsed:.0f} s"
            if done > self._first:  # before, nothing says how fast it goes
                said += f", {elapsed * (self._total - done) / (done - self._first):.0f} s left"
            print(f"{self._name:8} {done}/{self._total}  {said}  {text}", flush=True)


class RunClock:
    """Minutes that a training took, over all of its sessions."""

    def __init__(self, run: Path) -> None:
        self._file = run / "seconds.txt"
        try:
            self._before = float(self._file.read_text())
        except (OSError, ValueError):  # a new training, or a file cut short: the minutes are not worth the training
            self._before = 0.0

    def __enter__(self) -> RunClock:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.total = self._before + time.monotonic() - self._start
        self._file.write_text(f"{self.total:.1f}")
