"""Writes one rosbag2 bag: a folder with one MCAP file and metadata.yaml, readable by `ros2 bag` and without ROS 2.

Messages are collected in chunks. `flush` ends the chunk and hands it to the operating system, so that `kill -9` costs
only the messages since; the file is synchronised with the disk once a second, so that a power cut costs little more.
A file that was cut lacks only its index, which `recovery.recover` writes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from rlfp_ros import __version__
from rlfp_ros.recording import recovery
from rlfp_ros.recording.labels import RECORD_NAME, BagLabel
from rlfp_ros.recording.locking import hold
from rlfp_ros.recording.message_types import definition, type_hash
from rlfp_ros.recording.metadata import BagMetadata, QualityOfService, RecordedTopic, offered_qos_profiles
from rlfp_ros.schema import ConfigurationError

FLUSH_S = 0.25  # longest time that kill -9 costs; well below the second that the documentation promises
SYNC_S = 1.0  # longest time that a power cut costs; an SD card needs 0.1 s per synchronisation
CHUNK_BYTES = 4 << 20
# A file of this size is deleted when the disk is full, so that there is room for the index and metadata.yaml.
RESERVE_BYTES = 1 << 20
RESERVE_NAME = ".reserve"
LIBRARY = f"rlfp_ros {__version__}"


class DiskFullError(ConfigurationError):
    """Writing failed; the bag was closed and holds everything up to the last chunk. One sentence."""


class BagWriter:
    """One bag. Not thread-safe: one thread writes."""

    def __init__(self, directory: Path) -> None:
        """Create the folder and the file `<folder's name>_0.mcap` in it.

        Raises ConfigurationError if the folder exists or cannot be made.
        """
        self.directory = directory
        self.path = directory / f"{directory.name}_0.mcap"
        self.message_count = 0
        self.custom: dict[str, str] = {}  # into metadata.yaml's custom_data
        self._channels: dict[str, int] = {}
        self._topics: dict[str, tuple[str, tuple[QualityOfService, ...]]] = {}
        self._counts: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()  # messages by topic that are safe from a crash or a full disk
        self._schemas: dict[str, int] = {}
        self._start_ns = 0
        self._end_ns = 0
        self._pending = 0
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            raise ConfigurationError(
                f"{directory}: exists, and a bag is never written over; choose another folder"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"{directory}: cannot be made ({error.strerror}); choose another folder") from None
        try:
            self._stream = DiskStream(self.path)
            with (directory / RESERVE_NAME).open("wb") as reserve:
                os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)
            stream: Any = self._stream
            self._writer: Any = Writer(stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
            self._writer.start(profile="ros2", library=LIBRARY)
            self._stream.commit()
        except OSError as error:
            self._discard()
            raise DiskFullError(
                f"{directory}: cannot write ({error.strerror}); free space or choose another disk"
            ) from None
        self._flushed_at = self._synced_at = time.monotonic()

    @property
    def closed(self) -> bool:
        """True after `close` and after a DiskFullError."""
        return self._stream.closed

    @property
    def bytes_written(self) -> int:
        """Size of the MCAP file without the chunk in progress."""
        return self._stream.tell()

    def add_topic(self, name: str, type: str, qos: Sequence[QualityOfService] = ()) -> None:
        """Announce a topic (absolute name, `pkg/msg/Type`); announcing it again does nothing.

        Raises ConfigurationError if the message type is not known.
        """
        if name in self._channels:
            return
        if type not in self._schemas:
            self._schemas[type] = self._writer.register_schema(type, "ros2msg", definition(type).encode())
        self._topics[name] = (type, tuple(qos))
        self._channels[name] = self._guarded(
            lambda: self._writer.register_channel(
                name,
                "cdr",
                self._schemas[type],
                {"offered_qos_profiles": offered_qos_profiles(qos), "topic_type_hash": type_hash(type)},
            )
        )

    def write(self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int, sequence: int = 0) -> None:
        """Write one serialised (CDR) message.

        `log_time_ns` is when it was received, `publish_time_ns` when it was published, in ns since the epoch. Raises
        DiskFullError if the disk is full.
        """
        self._guarded(
            lambda: self._writer.add_message(self._channels[topic], log_time_ns, data, publish_time_ns, sequence)
        )
        self._start_ns = min(self._start_ns, log_time_ns) if self.message_count else log_time_ns
        self._end_ns = max(self._end_ns, log_time_ns)
        self._counts[topic] += 1
        self.message_count += 1
        self._pending += 1
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if the last flush is long ago. Call it when no messages come, so that none stays in the buffer."""
        now = time.monotonic()
        if now - self._flushed_at >= FLUSH_S:
            self.flush(sync=now - self._synced_at >= SYNC_S)

    def flush(self, sync: bool = False) -> None:
        """End the chunk and hand everything to the operating system; with `sync`, wait until the disk has it."""
        self._flushed_at = time.monotonic()
        if self._pending:
            self._guarded(self._writer.flush)
            self._commit()
        if sync:
            self._guarded(self._stream.sync)
            self._synced_at = time.monotonic()

    def label(self, label: BagLabel) -> None:
        """Label the bag: in the file at once, and in metadata.yaml when the bag is closed.

        Raises DiskFullError if the disk is full; the bag is then closed, and its metadata.yaml has the label.
        """
        self.custom |= label.custom()

        def write() -> None:
            self._writer.flush()
            self._writer.add_metadata(RECORD_NAME, label.custom())

        self._guarded(write)
        self._commit()
        self.flush(sync=True)

    def close(self) -> None:
        """Write the index and metadata.yaml. Does nothing if the bag is closed already."""
        if self.closed:
            return

        def finish() -> None:
            self._writer.flush()
            self._commit()
            self._writer.add_metadata("rosbag2", self._metadata().record())
            self._writer.finish()
            self._stream.sync()

        self._guarded(finish)
        self._stream.close()
        try:
            self._metadata().write(self.directory)
        except OSError as error:
            (self.directory / RESERVE_NAME).unlink(missing_ok=True)
            self._finish_full_disk(error)
        (self.directory / RESERVE_NAME).unlink(missing_ok=True)

    def _commit(self) -> None:
        self._stream.commit()
        self.kept = self._counts.copy()
        self._pending = 0

    def _metadata(self) -> BagMetadata:
        topics = tuple(RecordedTopic(name, type, qos, self._counts[name]) for name, (type, qos) in self._topics.items())
        return BagMetadata(self.path.name, self._start_ns, self._end_ns, self.message_count, topics, self.custom)

    def _guarded(self, operation: Any) -> Any:
        try:
            return operation()
        except OSError as error:
            self._finish_full_disk(error)

    def _finish_full_disk(self, error: OSError) -> None:
        """Cut back to the last whole chunk, free the reserve, and write index and metadata.yaml into it."""
        self._stream.cut()
        self._stream.close()
        (self.directory / RESERVE_NAME).unlink(missing_ok=True)
        kept = self.kept.total()
        try:
            recovery.recover(self.directory, self.custom)
            state = f"the bag is closed and holds {kept} messages, the last {self.message_count - kept} are lost"
        except (OSError, ConfigurationError):
            state = f"its index does not fit, so run `python -m rlfp_ros.recording.recovery {self.directory}` later"
        raise DiskFullError(
            f"{self.path}: cannot write any more ({error.strerror or error}); {state}; "
            "free space or choose another disk"
        ) from None

    def _discard(self) -> None:
        for name in (self.path, self.directory / RESERVE_NAME):
            name.unlink(missing_ok=True)
        self.directory.rmdir()


class DiskStream:
    """The file, unbuffered, and the offset up to which it is whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        hold(self._file)
        self._whole = 0
        self._place = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view:
            written = self._file.write(view)
            self._place += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""

    def commit(self) -> None:
        self._whole = self._place

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def cut(self) -> None:
        if not self._file.closed:
            os.ftruncate(self._file.fileno(), self._whole)

    def close(self) -> None:
        self._file.close()
