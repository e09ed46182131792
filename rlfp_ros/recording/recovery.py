"""Repairs a bag that its recorder could not close because of kill -9, a power cut or a full disk.

An MCAP file is a sequence of records; a file that was cut lacks the last ones, perhaps half a chunk, and the index.
Everything up to the last whole chunk is kept in place, the rest is cut off, and index and metadata.yaml are written.

    python -m rlfp_ros.recording.recovery BAG...
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Message,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC

from rlfp_ros.recording.labels import newest_record
from rlfp_ros.recording.locking import held
from rlfp_ros.recording.metadata import FILE_NAME, BagMetadata, RecordedTopic, parse_offered_qos_profiles
from rlfp_ros.schema import ConfigurationError

_HEAD = struct.Struct("<BQ")  # opcode and length in front of every record
_FOOTER_BYTES = 8 + 8 + 4
_MESSAGE_HEAD_BYTES = 2 + 4 + 8 + 8  # channel, sequence, log time, publish time


@dataclass
class _Contents:
    """Result of a scan of the data section."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    end: int = 0  # offset of the end of the last whole chunk and its message indexes
    unindexed: dict[int, MessageIndex] = field(default_factory=dict)  # indexes of the last chunk that were cut off


def recover(directory: Path, custom: dict[str, str] | None = None) -> BagMetadata:
    """Repair the bag in `directory` in place. A complete bag does not change.

    Returns
    -------
    BagMetadata
        The content of the bag.

    Raises
    ------
    ConfigurationError
        If there is no MCAP file, it is still being written, or none of it is readable.
    """
    files = sorted(directory.glob("*.mcap"))
    if not files:
        raise ConfigurationError(f"{directory}: holds no .mcap file, expected a bag folder")
    if len(files) > 1:
        raise ConfigurationError(f"{directory}: holds {len(files)} .mcap files, expected one; use `ros2 bag reindex`")
    path = files[0]
    if held(path):
        raise ConfigurationError(f"{path}: is being written; stop its recorder first")
    with path.open("r+b") as file:
        try:
            contents = _scan(file)
        except (struct.error, ValueError, KeyError) as error:
            raise ConfigurationError(f"{path}: is not readable as MCAP ({error})") from None
        metadata = _metadata(path, contents, {**newest_record(path), **(custom or {})})
        if not _is_finished(file):
            file.seek(contents.end)
            file.truncate()
            try:
                _finish(file, contents, metadata)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), contents.end)
                raise
    metadata.write(directory)
    (directory / ".reserve").unlink(missing_ok=True)
    return metadata


def unfinished(parent: Path) -> list[Path]:
    """Bag folders directly in `parent` that have no metadata.yaml and that no process is writing."""
    return [
        path.parent
        for path in sorted(parent.glob("*/*.mcap"))
        if not (path.parent / FILE_NAME).exists() and not held(path)
    ]


def _is_finished(file: IO[bytes]) -> bool:
    file.seek(0, os.SEEK_END)
    size = file.tell()
    if size < 2 * len(MCAP0_MAGIC) + _HEAD.size + _FOOTER_BYTES:
        return False
    file.seek(size - len(MCAP0_MAGIC) - _FOOTER_BYTES - _HEAD.size)
    tail = file.read()
    return tail[0] == Opcode.FOOTER and tail.endswith(MCAP0_MAGIC)


def _scan(file: IO[bytes]) -> _Contents:
    file.seek(0)
    if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
        raise ValueError("it does not begin with MCAP's magic bytes")
    found = _Contents()
    for start, opcode, body in _records(file):
        end = start + _HEAD.size + len(body)
        stream = ReadDataStream(io.BytesIO(body))
        if opcode == Opcode.HEADER:
            found.end = end
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            found.schemas[schema.id] = schema
            found.end = end
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            found.channels[channel.id] = channel
            found.end = end
        elif opcode == Opcode.CHUNK:
            try:
                _enter_chunk(found, start, end - start, Chunk.read(stream))
            except ValueError:
                break  # the checksum does not fit: the power failed while the chunk was written
            found.end = end
        elif opcode == Opcode.MESSAGE_INDEX:
            index = MessageIndex.read(stream)
            if found.chunks and index.channel_id in found.unindexed:
                del found.unindexed[index.channel_id]
                chunk = found.chunks[-1]
                chunk.message_index_offsets[index.channel_id] = start
                chunk.message_index_length += end - start
                found.end = end
        elif opcode == Opcode.METADATA:
            record = Metadata.read(stream)
            found.metadata.append(MetadataIndex(offset=start, length=end - start, name=record.name))
            found.end = end
        elif opcode in (Opcode.DATA_END, Opcode.FOOTER):
            break
    if not found.end:
        raise ValueError("its header is cut")
    return found


def _records(file: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """(offset, opcode, body) of every whole record."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    start = len(MCAP0_MAGIC)
    while start + _HEAD.size <= size:
        file.seek(start)
        opcode, length = _HEAD.unpack(file.read(_HEAD.size))
        if opcode == 0 or start + _HEAD.size + length > size:
            return
        yield start, opcode, file.read(length)
        start += _HEAD.size + length


def _enter_chunk(found: _Contents, start: int, length: int, chunk: Chunk) -> None:
    records = breakup_chunk(chunk, validate_crc=True)
    offset = 0
    found.unindexed = {}
    for record in records:
        if isinstance(record, Message):
            found.counts[record.channel_id] = found.counts.get(record.channel_id, 0) + 1
            index = found.unindexed.setdefault(record.channel_id, MessageIndex(record.channel_id, []))
            index.records.append((record.log_time, offset))
            offset += _HEAD.size + _MESSAGE_HEAD_BYTES + len(record.data)
            continue
        if isinstance(record, Schema):
            found.schemas[record.id] = record
        elif isinstance(record, Channel):
            found.channels[record.id] = record
        builder = RecordBuilder()
        record.write(builder)
        offset += builder.count
    found.chunks.append(
        ChunkIndex(
            message_start_time=chunk.message_start_time,
            message_end_time=chunk.message_end_time,
            chunk_start_offset=start,
            chunk_length=length,
            message_index_offsets={},
            message_index_length=0,
            compression=chunk.compression,
            compressed_size=len(chunk.data),
            uncompressed_size=chunk.uncompressed_size,
        )
    )


def _metadata(path: Path, contents: _Contents, custom: dict[str, str]) -> BagMetadata:
    topics = tuple(
        RecordedTopic(
            channel.topic,
            contents.schemas[channel.schema_id].name,
            parse_offered_qos_profiles(channel.metadata.get("offered_qos_profiles", "")),
            contents.counts.get(channel.id, 0),
        )
        for channel in contents.channels.values()
    )
    return BagMetadata(
        file_name=path.name,
        start_ns=min((chunk.message_start_time for chunk in contents.chunks), default=0),
        end_ns=max((chunk.message_end_time for chunk in contents.chunks), default=0),
        message_count=sum(contents.counts.values()),
        topics=topics,
        custom=custom,
    )


def _finish(file: IO[bytes], contents: _Contents, metadata: BagMetadata) -> None:
    """Write the end of a file like mcap's Writer.finish(), from a scan: end of the data section, summary, footer."""
    data: Any = RecordBuilder()  # its methods have no annotations
    if contents.unindexed and contents.chunks:
        chunk = contents.chunks[-1]
        for channel_id, index in contents.unindexed.items():
            chunk.message_index_offsets[channel_id] = contents.end + data.count
            index.write(data)
        chunk.message_index_length += data.count
    if not any(entry.name == "rosbag2" for entry in contents.metadata):
        before = data.count
        Metadata(name="rosbag2", metadata=metadata.record()).write(data)
        contents.metadata.append(MetadataIndex(contents.end + before, data.count - before, "rosbag2"))
    DataEnd(0).write(data)
    summary_start = contents.end + data.count
    file.write(data.end())

    summary: Any = RecordBuilder()
    offsets: list[SummaryOffset] = []
    statistics = Statistics(
        attachment_count=0,
        channel_count=len(contents.channels),
        channel_message_counts=contents.counts,
        chunk_count=len(contents.chunks),
        message_count=metadata.message_count,
        message_end_time=metadata.end_ns,
        message_start_time=metadata.start_ns,
        metadata_count=len(contents.metadata),
        schema_count=len(contents.schemas),
    )
    groups: tuple[tuple[Opcode, list[Any]], ...] = (
        (Opcode.SCHEMA, list(contents.schemas.values())),
        (Opcode.CHANNEL, list(contents.channels.values())),
        (Opcode.STATISTICS, [statistics]),
        (Opcode.CHUNK_INDEX, contents.chunks),
        (Opcode.METADATA_INDEX, contents.metadata),
    )
    for opcode, records in groups:
        before = summary.count
        for record in records:
            record.write(summary)
        if records:
            offsets.append(
                SummaryOffset(
                    group_opcode=opcode, group_start=summary_start + before, group_length=summary.count - before
                )
            )
    offset_start = summary_start + summary.count
    for offset in offsets:
        offset.write(summary)
    content = summary.end()
    head = struct.pack("<BQQQ", Opcode.FOOTER, _FOOTER_BYTES, summary_start, offset_start)
    footer: Any = RecordBuilder()
    Footer(
        summary_start=summary_start,
        summary_offset_start=offset_start,
        summary_crc=zlib.crc32(head, zlib.crc32(content)),
    ).write(footer)
    file.write(content + footer.end() + MCAP0_MAGIC)


def main(arguments: list[str] | None = None) -> int:
    """Recover the bags named on the command line."""
    for name in sys.argv[1:] if arguments is None else arguments:
        try:
            metadata = recover(Path(name))
        except (ConfigurationError, OSError) as error:
            print(f"recover: {error}", file=sys.stderr)
            return 2
        seconds = (metadata.end_ns - metadata.start_ns) / 1e9
        print(f"{name}: {metadata.message_count} messages on {len(metadata.topics)} topics, {seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
