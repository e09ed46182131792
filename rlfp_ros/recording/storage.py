"""Files of a rosbag2 bag: MCAP (whole or cut short) and SQLite (.db3), plain or as a whole compressed with zstd."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import zstandard
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import MCAP0_MAGIC
from rosbags.typesys import TypesysError

from rlfp_ros.recording.message_types import register
from rlfp_ros.schema import ConfigurationError

SUFFIXES = (".mcap", ".db3")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins with it: their first byte is 0
# Exceptions of the libraries below for damaged files; lz4 raises RuntimeError.
DAMAGE = (
    McapError,
    sqlite3.Error,
    zstandard.ZstdError,
    struct.error,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    LookupError,
)


@dataclass(frozen=True)
class RecordedMessage:
    """One message as it was recorded."""

    topic: str
    type: str  # pkg/msg/Type
    log_time_ns: int  # when the recorder received it
    publish_time_ns: int  # when it was published; equal to log_time_ns in bags that do not store it
    data: bytes  # CDR
    sequence: int = 0  # number of the message, which its publisher counts from 1; 0 in bags that do not store it


class BagFile(Protocol):
    """One file of a bag."""

    topics: dict[str, str]  # absolute name -> pkg/msg/Type
    complete: bool  # False if the file was cut; the complete part is read

    def messages(self, topics: Collection[str] | None) -> Iterator[RecordedMessage]:
        """Messages of `topics` (None: all) in the order of their log times; of a cut file, in the file's order."""

    def close(self) -> None:
        """Close the file."""


def bag_files(path: Path) -> list[Path]:
    """Files of the bag at `path`, a folder or a single file.

    Of a compressed file beside its decompressed copy only the copy counts. Raises ConfigurationError if there are none.
    """
    if path.suffix == ".bag":
        raise ConfigurationError(f"{path}: is a ROS 1 bag; convert it with `rosbags-convert` (pip install rosbags)")
    candidates = [path] if path.is_file() else sorted(path.glob("*"))
    # "._NAME" beside a file is what macOS keeps of it on foreign disks.
    seen = [file for file in candidates if file == path or not file.name.startswith(".")]
    files = [file for file in seen if file.name.removesuffix(".zstd").endswith(SUFFIXES)]
    plain = {file.name for file in files}
    files = [file for file in files if file.suffix != ".zstd" or file.stem not in plain]
    if not files:
        raise ConfigurationError(f"{path}: holds no bag, expected a folder with an .mcap or .db3 file")
    return files


def open_file(path: Path) -> BagFile:
    """Open one file of a bag. Raises ConfigurationError if it is not readable."""
    try:
        if path.suffix != ".zstd":
            return Db3File(path) if path.suffix == ".db3" else McapFile(path.open("rb"), path)
        with tempfile.NamedTemporaryFile(prefix="rlfp_ros_bag_", suffix=Path(path.stem).suffix) as copy:
            _decompress(path, copy)
            name = Path(copy.name)
            # The open file remains readable without its name, and no file is left if the process is killed.
            return Db3File(name) if name.suffix == ".db3" else McapFile(name.open("rb"), path)
    except DAMAGE as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{path}: is not a readable bag ({error or type(error).__name__})") from None


def _decompress(path: Path, copy: IO[bytes]) -> None:
    with path.open("rb") as compressed, zstandard.ZstdDecompressor().stream_reader(compressed) as stream:
        try:
            shutil.copyfileobj(stream, copy)
            copy.flush()
        except OSError as error:
            raise ConfigurationError(
                f"{path}: cannot be decompressed into {Path(copy.name).parent} ({error.strerror}); free space there "
                f"or decompress it yourself (zstd -d {path.name})"
            ) from None


class McapFile:
    """One MCAP file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self.topics: dict[str, str] = {}
        encodings: set[str] = set()
        if not MCAP0_MAGIC.startswith(file.read(len(MCAP0_MAGIC))):  # an empty file is one that was cut early
            self.close()
            raise ConfigurationError(f"{path}: is not an MCAP file, it begins with other bytes")
        file.seek(0)
        try:
            summary = SeekingReader(file).get_summary()
        except (McapError, struct.error, ValueError):
            summary = None
        self._indexed = summary is not None and bool(summary.channels)
        if summary is not None and self._indexed:
            for channel in summary.channels.values():
                self._learn(summary.schemas.get(channel.schema_id), channel, encodings)
        else:
            for schema, channel, _ in _cut_rows(file, None):
                self._learn(schema, channel, encodings)
        self.complete = self._indexed or _ends_whole(file)
        if encodings and "cdr" not in encodings:
            self.close()
            raise ConfigurationError(f"{path}: holds {', '.join(sorted(encodings))} messages, expected cdr of ROS 2")

    def _learn(self, schema: Schema | None, channel: Channel, encodings: set[str]) -> None:
        encodings.add(channel.message_encoding)
        if channel.message_encoding == "cdr":
            self.topics[channel.topic] = schema.name if schema else ""
            if schema is not None:
                _register(schema.name, schema.encoding, schema.data.decode(errors="replace"))

    def close(self) -> None:
        self._file.close()

    def messages(self, topics: Collection[str] | None) -> Iterator[RecordedMessage]:
        rows: Iterator[tuple[Schema | None, Channel, Message]]
        if self.complete:
            self._file.seek(0)
            kind = SeekingReader if self._indexed else NonSeekingReader  # the second takes all messages into memory
            rows = kind(self._file, validate_crcs=True).iter_messages(topics=None if topics is None else list(topics))
        else:
            rows = _cut_rows(self._file, topics)
        for schema, channel, message in rows:
            if channel.message_encoding == "cdr":
                name = schema.name if schema else ""
                yield RecordedMessage(
                    channel.topic, name, message.log_time, message.publish_time, message.data, message.sequence
                )


def _ends_whole(file: IO[bytes]) -> bool:
    """Whether a file was closed by its writer, although perhaps without an index."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MCAP0_MAGIC)))
    return size > 2 * len(MCAP0_MAGIC) and file.read() == MCAP0_MAGIC


def _cut_rows(file: IO[bytes], topics: Collection[str] | None) -> Iterator[tuple[Schema | None, Channel, Message]]:
    """Messages of a file without an index, up to where it was cut."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    file.seek(0)
    with contextlib.suppress(*DAMAGE):
        for record in StreamReader(file, validate_crcs=True).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                if topics is None or channel.topic in topics:
                    yield schemas.get(channel.schema_id), channel, record


class Db3File:
    """One SQLite file. With its write-ahead log, if a recorder that was killed left one beside it."""

    complete = True

    def __init__(self, path: Path) -> None:
        self.topics: dict[str, str] = {}
        self._database = _open_database(path)
        try:
            rows = self._database.execute("SELECT name, type, serialization_format FROM topics").fetchall()
            self.topics = {name: kind for name, kind, encoding in rows if encoding == "cdr"}
            self._database.execute("SELECT id FROM messages LIMIT 1")
        except sqlite3.Error:
            self.close()
            raise
        if rows and not self.topics:
            self.close()
            encodings = ", ".join(sorted({encoding for _, _, encoding in rows}))
            raise ConfigurationError(f"{path}: holds {encodings} messages, expected cdr")
        with contextlib.suppress(sqlite3.Error):  # files of Humble and older have no definitions
            for name, encoding, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                _register(name, encoding, text)

    def close(self) -> None:
        self._database.close()

    def messages(self, topics: Collection[str] | None) -> Iterator[RecordedMessage]:
        names = [name for name in self.topics if topics is None or name in topics]
        query = (
            "SELECT topics.name, topics.type, messages.timestamp, messages.data FROM messages "
            f"JOIN topics ON messages.topic_id = topics.id WHERE topics.name IN ({','.join('?' * len(names))}) "
            "ORDER BY messages.timestamp, messages.id"
        )
        for topic, kind, time_ns, data in self._database.execute(query, names):
            yield RecordedMessage(topic, kind, time_ns, time_ns, data)


def _open_database(path: Path) -> sqlite3.Connection:
    """Read-only; a file on a read-only disk that has no write-ahead log cannot be opened but as immutable."""
    name = f"file:{path.resolve().as_posix().replace('%', '%25').replace('?', '%3f').replace('#', '%23')}"
    log = Path(f"{path}-wal")
    mode = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{name}?{mode}", uri=True)


def _register(name: str, encoding: str, text: str) -> None:
    """Learn a type of the user's own from the definition in the bag; one that cannot be read is refused on decoding."""
    with contextlib.suppress(TypesysError, ValueError):
        register(name, encoding, text)
