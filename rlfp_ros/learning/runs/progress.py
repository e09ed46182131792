"""Progress of a training: bars on a terminal, a line every 15 s otherwise, figures for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

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

from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.learning.runs.event_log import EventLog
from rlfp_ros.schema import ConfigurationError

LINE_EVERY_S = 15.0  # if the output is not a terminal


class Show(Protocol):
    """Reports the progress of a stage; `TrainingProgress.show` is one."""

    def __call__(self, done: int, text: str, **figures: float) -> None:
        """Report units done, a text, and figures for TensorBoard."""


class TrainingProgress:
    """Stages one after the other. A context manager.

    Parameters
    ----------
    console
        Where the bars are drawn.
    run
        Folder for TensorBoard's event file; None writes none.
    """

    def __init__(self, console: Console, run: Path | None = None) -> None:
        self._events = EventLog(run) if run else None
        self._console = console
        columns = (
            TextColumn("{task.description:8}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._events:
            self._events.close()

    def stage(self, name: str, total: int, text: str) -> None:
        """Start a stage of `total` units."""
        self._name, self._total, self._began, self._printed = name, total, time.monotonic(), 0.0
        self._first: int | None = None
        self._task = self._bars.add_task(name, total=total, text=text)

    def show(self, done: int, text: str, **figures: float) -> None:
        """Report units done in this stage, a text, and figures by name."""
        assert self._task is not None
        if self._events:
            for name, value in figures.items():
                self._events.scalar(f"{self._name}/{name}", value, done)
        self._bars.update(self._task, completed=done, text=text)
        if self._first is None:
            self._first = done  # a resumed stage does not begin at zero
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._printed >= LINE_EVERY_S or done >= self._total):
            self._printed = now
            elapsed = now - self._began
            times = f"{elapsed:.0f} s"
            if done > self._first:  # before that, the speed is unknown
                times += f", {elapsed * (self._total - done) / (done - self._first):.0f} s left"
            print(f"{self._name:8} {done}/{self._total}  {times}  {text}", flush=True)


class RunClock:
    """Measures the time that a training took, over all of its sessions. A context manager."""

    def __init__(self, run: Path) -> None:
        self._file = run / "seconds.txt"
        try:
            self._before = float(self._file.read_text())
        except (OSError, ValueError):  # a new training, or a damaged file, which is no reason to lose the training
            self._before = 0.0

    def __enter__(self) -> RunClock:
        self._start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.total = self._before + time.monotonic() - self._start
        try:
            write_whole(self._file, f"{self.total:.1f}", RESUME)
        except ConfigurationError:
            if error is None:  # or the full disk that ended the training is what the user reads about
                raise
