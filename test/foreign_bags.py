"""Writes bags as other recorders write them: split, in SQLite, compressed, without metadata."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
import zstandard
from mcap.writer import CompressionType, Writer
from message_type import type_name
from rclpy.serialization import serialize_message

from rlfp_ros.recording.message_types import definition


class Row(NamedTuple):
    """One message of a bag."""

    topic: str
    type: str
    log_time_ns: int
    data: bytes


def row(topic: str, message: object, log_time_ns: int) -> Row:
    """A message as ROS itself serialises it."""
    return Row(topic, type_name(message), log_time_ns, serialize_message(message))


def write_mcap(path: Path, rows: Sequence[Row], compression: CompressionType = CompressionType.NONE) -> None:
    with path.open("wb") as file:
        writer = Writer(file, compression=compression)
        writer.start(profile="ros2", library="test")
        schemas: dict[str, int] = {}
        channels: dict[str, int] = {}
        for entry in rows:
            if entry.type not in schemas:
                schemas[entry.type] = writer.register_schema(entry.type, "ros2msg", definition(entry.type).encode())
            if entry.topic not in channels:
                channels[entry.topic] = writer.register_channel(entry.topic, "cdr", schemas[entry.type])
            writer.add_message(channels[entry.topic], entry.log_time_ns, entry.data, entry.log_time_ns)
        writer.finish()


def write_db3(path: Path, rows: Sequence[Row]) -> None:
    """The tables of ROS 2 Humble."""
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
        "serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL)"
    )
    database.execute(
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, "
        "data BLOB NOT NULL)"
    )
    topics: dict[str, int] = {}
    for entry in rows:
        if entry.topic not in topics:
            topics[entry.topic] = len(topics) + 1
            values = (topics[entry.topic], entry.topic, entry.type, "cdr", "")
            database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", values)
        database.execute(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)",
            (topics[entry.topic], entry.log_time_ns, entry.data),
        )
    database.commit()
    database.close()


WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {"mcap": write_mcap, "db3": write_db3}


def write_metadata(folder: Path, files: Sequence[str], rows: Sequence[Row], compression_mode: str = "") -> None:
    """metadata.yaml, version 5 (ROS 2 Humble)."""
    start, end = min(row.log_time_ns for row in rows), max(row.log_time_ns for row in rows)
    topics = [
        {
            "topic_metadata": {
                "name": name,
                "type": kind,
                "serialization_format": "cdr",
                "offered_qos_profiles": "",
            },
            "message_count": count,
        }
        for (name, kind), count in Counter((row.topic, row.type) for row in rows).items()
    ]
    document = {
        "version": 5,
        "storage_identifier": "sqlite3" if ".db3" in files[0] else "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": len(rows),
        "topics_with_message_count": topics,
        "compression_format": "zstd" if compression_mode else "",
        "compression_mode": compression_mode,
        "relative_file_paths": list(files),
        "files": [],
    }
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": document}))


def write_foreign_bag(
    folder: Path, rows: Sequence[Row], kind: str = "mcap", files: int = 1, compressed: str = ""
) -> Path:
    """A folder of `files` files of `kind` (mcap or db3), plain or compressed (`FILE` or `MESSAGE`)."""
    folder.mkdir(parents=True)
    names = []
    for number in range(files):
        part = rows[number * len(rows) // files : (number + 1) * len(rows) // files]
        if compressed == "MESSAGE":
            part = [entry._replace(data=zstandard.compress(entry.data)) for entry in part]
        path = folder / f"{folder.name}_{number}.{kind}"
        WRITERS[kind](path, part)
        if compressed == "FILE":
            path.with_name(f"{path.name}.zstd").write_bytes(zstandard.compress(path.read_bytes()))
            path.unlink()
            path = path.with_name(f"{path.name}.zstd")
        names.append(path.name)
    write_metadata(folder, names, rows, compressed)
    return folder
