"""Figures of a training over its decisions and its time: rows of JSON in the run folder.

A row is written with each report of a stage. The rows of a training that was killed and resumed are read as those of
one training: what the resumed training repeats replaces what was lost.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rlfp_ros.files import RESUME, explained

FILE = "progress.jsonl"


@dataclass(frozen=True)
class ProgressRow:
    """One report of a stage."""

    session: int  # 0 for the training's first session, one more with each --resume
    stage: str
    done: int  # units of the stage
    total: int
    seconds: float  # of training until then, over all stages and sessions
    figures: dict[str, float]
    unit: str = "decisions"  # what the stage counts


class HistoryWriter:
    """Appends rows to `progress.jsonl`; a killed process loses none.

    Parameters
    ----------
    run
        The run folder; made if it is missing.
    """

    def __init__(self, run: Path) -> None:
        self._file = run / FILE
        before = read_history(run)
        self.session = before[-1].session + 1 if before else 0
        with explained(self._file, RESUME):
            run.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = self._file.open("ab")
            if self._stream.tell():
                self._stream.write(b"\n")  # ends a row that a kill cut short

    def add(self, stage: str, done: int, total: int, seconds: float, figures: dict[str, float], unit: str) -> None:
        """Write a row. Raises ConfigurationError if the disk is full."""
        row = ProgressRow(self.session, stage, done, total, round(seconds, 2), figures, unit)
        with explained(self._file, RESUME):
            self._stream.write(json.dumps(asdict(row)).encode() + b"\n")
            self._stream.flush()

    def close(self) -> None:
        """Close the file. Raises ConfigurationError if the disk is full."""
        with explained(self._file, RESUME):
            self._stream.close()


def read_history(run: Path) -> list[ProgressRow]:
    """Read the rows of a training, without those that a later session repeated; empty if there are none.

    A row that is damaged is left out.
    """
    try:
        lines = (run / FILE).read_bytes().splitlines()
    except OSError:
        return []
    rows: list[ProgressRow] = []
    for line in lines:
        row = _row(line)
        if row is None:
            continue
        if rows and rows[-1].session != row.session:
            rows = [old for old in rows if old.stage != row.stage or old.done < row.done]
        rows.append(row)
    return rows


def _row(line: bytes) -> ProgressRow | None:
    try:
        row = ProgressRow(**json.loads(line))
        numbers = (row.session, row.done, row.total, row.seconds, *row.figures.values())
        valid = (
            isinstance(row.stage, str)
            and isinstance(row.unit, str)
            and all(isinstance(number, int | float) for number in numbers)
        )
        return row if valid else None
    except (ValueError, TypeError, AttributeError):
        return None
