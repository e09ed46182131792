"""Progress of a training: a live table on a terminal, a line every 15 s otherwise, and figures in the run folder."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.learning.runs.event_log import EventLog
from rlfp_ros.learning.runs.history import HistoryWriter, ProgressRow, read_history
from rlfp_ros.schema import ConfigurationError

LINE_EVERY_S = 15.0  # if the output is not a terminal
RATE_WINDOW_S = 60.0  # time over which the displayed speed is measured
BAR_WIDTH = 10  # characters
WIDTH_WITH_BARS = 84  # characters of a terminal that is wide enough for them


class Show(Protocol):
    """Reports the progress of a stage; `TrainingProgress.show` is one."""

    def __call__(self, done: int, text: str, **figures: float) -> None:
        """Report units done, a text, and figures for curves; the table shows the figure `success_rate`.

        A report without figures may jump to the end of the stage.
        """


@dataclass
class StageProgress:
    """Progress of one stage, as the table shows it."""

    name: str
    total: int
    unit: str
    text: str
    began: float  # of this session, s on the monotonic clock
    earlier_s: float = 0.0  # duration in earlier sessions
    done: int = 0
    success: float | None = None  # share of recent episodes
    rate: float | None = None  # units per second, recently
    duration_s: float | None = None  # over all sessions, once the stage has ended
    reports: deque[tuple[float, int]] = field(default_factory=deque)  # recent times and units done

    def report(self, done: int, figures: dict[str, float], now: float) -> None:
        """Take a report at the time `now`."""
        self.done = done
        self.success = figures.get("success_rate", self.success)
        if figures or done < self.total:  # else it may have jumped to the end
            self.reports.append((now, done))
            while len(self.reports) > 2 and now - self.reports[0][0] > RATE_WINDOW_S:
                self.reports.popleft()
            then, units = self.reports[0]
            if now > then and done > units:
                self.rate = (done - units) / (now - then)

    def end(self, now: float) -> None:
        """End the stage; it counts as complete."""
        self.done, self.duration_s = self.total, self.elapsed_s(now)

    def elapsed_s(self, now: float) -> float:
        """Return the duration over all sessions, s."""
        return self.earlier_s + now - self.began if self.duration_s is None else self.duration_s

    @property
    def left_s(self) -> float | None:
        """The time that the rest takes at the present speed, s, or None if the speed is unknown."""
        if self.done >= self.total:
            return 0.0
        return None if self.rate is None else (self.total - self.done) / self.rate


class TrainingProgress:
    """Shows and records stages one after the other, and measures their time over all sessions. A context manager.

    Parameters
    ----------
    console
        Where the table is drawn.
    run
        Folder for TensorBoard's event file, `progress.jsonl` and `seconds.txt`; None writes none.
    """

    def __init__(self, console: Console, run: Path | None = None) -> None:
        self._console = console
        self._before = read_history(run) if run else []
        self._clock = RunClock(run, self._before[-1].seconds if self._before else 0.0)
        self._events = EventLog(run) if run else None
        self._history = HistoryWriter(run) if run else None
        self._stages: list[StageProgress] = []
        self._printed = 0.0
        self._resources = ExitStack()

    def __enter__(self) -> TrainingProgress:
        self._resources.enter_context(self._clock)
        for log in (self._events, self._history):
            if log is not None:
                self._resources.callback(log.close)
        if self._console.is_terminal:
            self._resources.enter_context(Live(get_renderable=self.table, console=self._console, refresh_per_second=2))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stages and error is None:
            self._stages[-1].end(time.monotonic())
        self._resources.__exit__(kind, error, trace)

    @property
    def seconds(self) -> float:
        """Time of the training until now, over all sessions, s."""
        return self._clock.total

    def stage(self, name: str, total: int, text: str, unit: str = "decisions") -> None:
        """Start a stage of `total` units; the one before has ended."""
        now = time.monotonic()
        if self._stages:
            self._stages[-1].end(now)
        stage = StageProgress(name, total, unit, text, now)
        rows = [row for row in self._before if row.stage == name]
        if rows:  # of earlier sessions
            stage.done, stage.earlier_s = min(rows[-1].done, total), rows[-1].seconds - self._start_of(rows[0])
            stage.success = next(
                (row.figures["success_rate"] for row in rows[::-1] if "success_rate" in row.figures), None
            )
        self._stages.append(stage)
        self._printed = 0.0

    def _start_of(self, row: ProgressRow) -> float:
        """Return when the stage began whose first row this is, s of the training."""
        return max((other.seconds for other in self._before[: self._before.index(row)]), default=0.0)

    def show(self, done: int, text: str, **figures: float) -> None:
        """Report units done in this stage, a text, and figures by name; see `Show`."""
        stage, now = self._stages[-1], time.monotonic()
        self.record(done, **figures)
        stage.text = text
        stage.report(done, figures, now)
        if not self._console.is_terminal and (now - self._printed >= LINE_EVERY_S or done >= stage.total):
            self._printed = now
            print(_line(stage, now), flush=True)

    def record(self, done: int, **figures: float) -> None:
        """Record figures by name after `done` units of this stage, for curves, and show nothing."""
        stage = self._stages[-1]
        if self._events:
            for name, value in figures.items():
                self._events.scalar(f"{stage.name}/{name}", value, done)
        if self._history:
            self._history.add(stage.name, done, stage.total, self.seconds, figures, stage.unit)

    def table(self) -> RenderableType:
        """Return the table of all stages that have begun, and the text of the present one."""
        now, bars = time.monotonic(), self._console.width >= WIDTH_WITH_BARS
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("stage", no_wrap=True)
        if bars:
            table.add_column("", width=BAR_WIDTH)
        for heading in ("done", "per second", "last 100", "elapsed", "left"):
            table.add_column(heading, justify="right", no_wrap=True)
        for stage in self._stages:
            ended = stage.duration_s is not None
            cells: list[RenderableType] = [Text(stage.name, style="" if ended else "bold")]
            if bars:
                cells.append(ProgressBar(max(1, stage.total), stage.done, width=BAR_WIDTH))
            cells += [
                f"{stage.done}/{stage.total}",
                _rate(stage.rate),
                "" if stage.success is None else f"{stage.success:.0%}",
                _time(stage.elapsed_s(now)),
                "done" if ended else _time(stage.left_s),
            ]
            table.add_row(*cells)
        if not self._stages:
            return table
        return Group(table, Text(f"{self._stages[-1].name}: {self._stages[-1].text}", style="dim"))


def _line(stage: StageProgress, now: float) -> str:
    """Return a stage's progress on one line."""
    times = f"{stage.elapsed_s(now):.0f} s"
    if stage.rate is not None and stage.left_s is not None:
        times += f", {_rate(stage.rate)}/s, {stage.left_s:.0f} s left"
    return f"{stage.name:8} {stage.done}/{stage.total}  {times}  {stage.text}"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _time(seconds: float | None) -> str:
    """Return a duration as minutes:seconds, with hours if there are any."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RunClock:
    """Measures the time that a training took, over all of its sessions. A context manager.

    Parameters
    ----------
    run
        The run folder, which keeps the time in `seconds.txt`; None keeps nothing.
    least_s
        The time of earlier sessions as far as known otherwise: a killed session leaves no file.
    """

    def __init__(self, run: Path | None, least_s: float = 0.0) -> None:
        self._file = run / "seconds.txt" if run else None
        self._before, self._start, self._ended = least_s, time.monotonic(), False
        if self._file is not None:
            # The training may be new; and a damaged file is not a reason to lose it.
            with suppress(OSError, ValueError):
                self._before = max(least_s, float(self._file.read_text()))

    def __enter__(self) -> RunClock:
        self._start = time.monotonic()
        return self

    @property
    def total(self) -> float:
        """The time until now, or until the clock was stopped, s."""
        return self._before if self._ended else self._before + time.monotonic() - self._start

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before, self._ended = self.total, True
        if self._file is None:
            return
        try:
            write_whole(self._file, f"{self._before:.1f}", RESUME)
        except ConfigurationError:
            if error is None:  # or the full disk that ended the training is what the user reads about
                raise


def described(success: float, figures: Mapping[str, float]) -> str:
    """Return a text of a success rate and of figures by name."""
    return f"success {success:.2f}" + "".join(
        f", {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items()
    )
