"""Writes curves for TensorBoard in this process, so that a failed write raises an error at once.

TensorBoard's own writer uses a thread, whose errors cannot be caught.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rlfp_ros.files import RESUME, explained

FLUSH_EVERY_S = 5.0
_numbers = itertools.count()


class EventLog:
    """One event file in a run folder; a reader skips a record that a crash cut short.

    Parameters
    ----------
    folder
        The run folder; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        # The name that TensorBoard looks for; process and number tell apart the sessions of one second.
        self.file = folder / f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}.{next(_numbers)}"
        with explained(self.file, RESUME):
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = self.file.open("wb")
        self._records = RecordWriter(self._stream)
        self._flushed = 0.0
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point of the curve `name`. Raises ConfigurationError if the disk is full."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=float(value))])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is buffered and close the file. Raises ConfigurationError if the disk is full."""
        with explained(self.file, RESUME):
            self._stream.close()

    def _write(self, event: Event) -> None:
        with explained(self.file, RESUME):
            self._records.write(event.SerializeToString())
            if time.monotonic() - self._flushed > FLUSH_EVERY_S:
                self._stream.flush()
                self._flushed = time.monotonic()
