"""Reads rosbag2 bags without ROS 2: topics, messages in the order they were received, and their content.

with BagReader("runs/today/bags/episode_0003") as bag:
    for message in bag.messages({"/joint_states"}):
        state = bag.decode(message)
        print(message.log_time_ns, state.name, state.position)
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader
from rosbags.highlevel.anyreader import AnyReaderError
from rosbags.typesys import get_types_from_msg

from rlfp_ros.recording.message_types import typestore
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class RecordedMessage:
    """One message as it was recorded."""

    topic: str
    type: str  # pkg/msg/Type
    log_time_ns: int  # when the recorder received it
    publish_time_ns: int  # when it was published; equal to log_time_ns in bags that do not say
    data: bytes  # CDR


class BagReader:
    """One bag: a folder with .mcap files (whole or cut short), a single .mcap file, or a folder with .db3 files."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigurationError where there is no readable bag."""
        self.path = Path(path)
        self._exits = ExitStack()
        self._files: list[IO[bytes]] = []
        self._any: AnyReader | None = None
        self.topics: dict[str, str] = {}  # absolute name -> pkg/msg/Type
        self.complete = True  # False: the file was cut; what is whole is read
        names = [self.path] if self.path.suffix == ".mcap" else sorted(self.path.glob("*.mcap"))
        try:
            if names:
                self._files = [self._exits.enter_context(name.open("rb")) for name in names]
                self._read_topics()
            elif self.path.is_dir() and any(self.path.glob("*.db3*")):
                self._any = self._exits.enter_context(AnyReader([self.path], default_typestore=typestore()))
                self.topics = {connection.topic: connection.msgtype for connection in self._any.connections}
            else:
                raise ConfigurationError(f"{self.path}: holds no bag, expected a folder with an .mcap or .db3 file")
        except (OSError, McapError, AnyReaderError, struct.error, ValueError) as error:
            self.close()
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"{self.path}: is not a readable bag ({error})") from None

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._exits.close()

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RecordedMessage]:
        """Messages of `topics` (None: all) in the order of their log times; of a cut file, in the file's order."""
        if self._any is not None:
            chosen = [c for c in self._any.connections if topics is None or c.topic in topics]
            for connection, time_ns, data in self._any.messages(chosen):
                yield RecordedMessage(connection.topic, connection.msgtype, time_ns, time_ns, data)
            return
        for file in self._files:
            file.seek(0)
            rows: Iterator[tuple[Schema | None, Channel, Message]]
            if self.complete:
                rows = SeekingReader(file).iter_messages(topics=None if topics is None else list(topics))
            else:
                rows = _cut_rows(file, topics)
            for schema, channel, message in rows:
                name = schema.name if schema else ""
                yield RecordedMessage(channel.topic, name, message.log_time, message.publish_time, message.data)

    def decode(self, message: RecordedMessage) -> Any:
        """The message's fields as an object; sequences of numbers are numpy arrays. Raises ConfigurationError."""
        try:
            return typestore().deserialize_cdr(message.data, message.type)
        except Exception as error:  # rosbags raises several kinds for damaged data
            raise ConfigurationError(f"{self.path}: a message on {message.topic} cannot be decoded ({error})") from None

    def _read_topics(self) -> None:
        for file in self._files:
            try:
                summary = SeekingReader(file).get_summary()
            except (McapError, struct.error, ValueError, OSError):
                summary = None
            if summary is None:
                self.complete = False
                file.seek(0)
                for schema, channel, _ in _cut_rows(file, None):
                    self._learn(schema)
                    self.topics[channel.topic] = schema.name if schema else ""
            else:
                for channel in summary.channels.values():
                    known = summary.schemas.get(channel.schema_id)
                    self._learn(known)
                    self.topics[channel.topic] = known.name if known else ""

    @staticmethod
    def _learn(schema: Schema | None) -> None:
        """A type of the user's own: the bag brings its definition along."""
        if schema is not None and schema.encoding == "ros2msg" and schema.name not in typestore().fielddefs:
            types = get_types_from_msg(schema.data.decode(), schema.name)
            typestore().register({name: fields for name, fields in types.items() if name not in typestore().fielddefs})


def _cut_rows(file: IO[bytes], topics: Collection[str] | None) -> Iterator[tuple[Schema | None, Channel, Message]]:
    """Messages of a file without an index, up to where it was cut."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    try:
        for record in StreamReader(file, validate_crcs=True).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                if topics is None or channel.topic in topics:
                    yield schemas.get(channel.schema_id), channel, record
    except (McapError, struct.error, ValueError):
        return
