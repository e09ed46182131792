"""Tests of the bag reader: every form that rosbag2 writes is read in the order of recording; the rest is refused."""

from __future__ import annotations

import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import zstandard
from foreign_bags import WRITERS, Row, row, write_db3, write_foreign_bag, write_mcap
from mcap.writer import CompressionType, IndexType, Writer
from std_msgs.msg import String

from rlfp_ros.recording.reader import BagReader
from rlfp_ros.schema import ConfigurationError

START = 1_790_000_000_000_000_000
ROWS = [row("/chatter", String(data=f"message {number}"), START + number * 10_000_000) for number in range(48)]
TEXTS = [f"message {number}" for number in range(48)]


def texts(path: Path) -> list[str]:
    with BagReader(path) as bag:
        return [bag.decode(message).data for message in bag.messages({"/chatter"})]


@pytest.mark.parametrize("kind", ["mcap", "db3"])
@pytest.mark.parametrize("compressed", ["", "FILE", "MESSAGE"])
def test_split_bags_are_read_in_the_order_of_recording(tmp_path: Path, kind: str, compressed: str) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, kind, files=12, compressed=compressed)
    names = sorted(path.name for path in folder.iterdir())
    assert names[1].startswith("bag_1.")
    assert names[2].startswith("bag_10.")  # the trap: in the order of their names, file 10 follows file 1
    assert texts(folder) == TEXTS
    with BagReader(folder) as bag:
        times = [message.log_time_ns for message in bag.messages()]
    assert times == [entry.log_time_ns for entry in ROWS]


def test_files_that_overlap_in_time_are_merged(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    write_mcap(folder / "bag_0.mcap", [entry for number, entry in enumerate(ROWS) if number % 3])
    write_mcap(folder / "bag_1.mcap", ROWS[::3])
    assert texts(folder) == TEXTS


@pytest.mark.parametrize("kind", ["mcap", "db3"])
@pytest.mark.parametrize("suffix", ["", ".zstd"])
def test_a_single_file_is_a_bag(tmp_path: Path, kind: str, suffix: str) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, kind, compressed="FILE" if suffix else "")
    assert texts(folder / f"bag_0.{kind}{suffix}") == TEXTS


@pytest.mark.parametrize("compression", [CompressionType.LZ4, CompressionType.ZSTD])
def test_compressed_chunks_are_read(tmp_path: Path, compression: CompressionType) -> None:
    write_mcap(tmp_path / "bag.mcap", ROWS, compression)
    assert texts(tmp_path / "bag.mcap") == TEXTS


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_a_bag_without_metadata_is_read_and_reindexing_advised(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, kind)
    assert texts(folder) == TEXTS
    assert caplog.messages == []
    (folder / "metadata.yaml").unlink()
    assert texts(folder) == TEXTS
    assert f"`ros2 bag reindex {folder}`" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_a_file_that_metadata_lists_but_is_not_there_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, files=3)
    (folder / "bag_1.mcap").unlink()
    assert texts(folder) == TEXTS[:16] + TEXTS[32:]
    assert "lists bag_1.mcap, which is not there; its messages are missing" in caplog.text


def test_a_file_that_is_cut_short_is_read_to_the_cut_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, files=3)
    whole = (folder / "bag_2.mcap").read_bytes()
    (folder / "bag_2.mcap").write_bytes(whole[: len(whole) - 200])
    found = texts(folder)
    assert found == TEXTS[: len(found)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'bag_2.mcap'}: is cut short; everything before the cut is read, what followed is missing"
    ]


def test_files_that_macos_leaves_beside_a_bag_are_not_read(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS)
    (folder / "._bag_0.mcap").write_bytes(b"\0\5\x16\7" + bytes(100))
    assert texts(folder) == TEXTS


def test_a_decompressed_copy_beside_the_compressed_file_is_not_read_twice(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, compressed="FILE")
    (folder / "bag_0.mcap").write_bytes(zstandard.decompress((folder / "bag_0.mcap.zstd").read_bytes()))
    assert texts(folder) == TEXTS


def test_the_write_ahead_log_of_a_killed_recorder_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bag" / "bag_0.db3"
    path.parent.mkdir()
    write_db3(path, ROWS[:20])
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    for entry in ROWS[20:]:
        values = (1, entry.log_time_ns, entry.data)
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", values)
    database.commit()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("bag_0.db3", "bag_0.db3-wal"):  # as they lie while the recorder is killed
        (copy / name).write_bytes((path.parent / name).read_bytes())
    database.close()
    assert texts(copy) == TEXTS


def test_complete_records_of_a_truncated_last_file_are_read(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ROWS, files=3)
    last = folder / "bag_2.mcap"
    last.write_bytes(last.read_bytes()[:400])
    with BagReader(folder) as bag:
        assert not bag.complete
    assert texts(folder) == TEXTS[:32]


def test_a_compressed_file_that_was_cut_is_read_up_to_the_cut_or_refused(tmp_path: Path) -> None:
    for kind in ("mcap", "db3"):
        folder = write_foreign_bag(tmp_path / kind, ROWS, kind, compressed="FILE")
        (file,) = folder.glob("*.zstd")
        content = zstandard.decompress(file.read_bytes())
        compressor = zstandard.ZstdCompressor().compressobj()
        blocks = []
        for at in range(0, len(content), 1000):
            blocks += [
                compressor.compress(content[at : at + 1000]),
                compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
            ]
        file.write_bytes(b"".join(blocks[: len(blocks) // 2]))
    assert texts(tmp_path / "mcap") == []  # its only chunk is cut
    with pytest.raises(ConfigurationError, match=r"db3_0\.db3\.zstd: is not a readable bag"):
        texts(tmp_path / "db3")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    write_mcap(path, ROWS)
    path.write_bytes(path.read_bytes().replace(b"message 10", b"massage 10"))
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}: is damaged")) as caught:
        texts(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3", "bag.mcap.zstd", "bag.db3.zstd"])
@pytest.mark.parametrize("content", [b"\0", b"not a bag", bytes(4096)])
def test_files_that_are_no_bags_are_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(name)) as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_messages_of_ros_1_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "one.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros1", library="test")
        schema = writer.register_schema("std_msgs/String", "ros1msg", b"string data")
        channel = writer.register_channel("/chatter", "ros1", schema)
        writer.add_message(channel, START, b"\x01\x00\x00\x00a", START)
        writer.finish()
    with pytest.raises(ConfigurationError, match="holds ros1 messages, expected cdr of ROS 2"):
        BagReader(tmp_path / "one.mcap")
    (tmp_path / "one.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(ConfigurationError, match="is a ROS 1 bag; convert it with `rosbags-convert`"):
        BagReader(tmp_path / "one.bag")


@pytest.mark.parametrize(
    "options",
    [
        {"use_chunking": False},
        {"index_types": IndexType.NONE, "use_statistics": False},
        {"use_statistics": False, "repeat_channels": False, "repeat_schemas": False},
        {"index_types": IndexType.NONE, "use_statistics": False, "repeat_channels": False, "repeat_schemas": False}
        | {"use_summary_offsets": False},
    ],
)
def test_complete_files_without_chunks_or_index_are_read_in_the_order_of_recording(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """As the profile `fastwrite` and other writers of MCAP make them; here with the messages in reverse."""
    with (tmp_path / "bag.mcap").open("wb") as file:
        writer = Writer(file, **options)
        writer.start("ros2", "test")
        schema = writer.register_schema(ROWS[0].type, "ros2msg", b"string data")
        channel = writer.register_channel("/chatter", "cdr", schema)
        for entry in reversed(ROWS):
            writer.add_message(channel, entry.log_time_ns, entry.data, entry.log_time_ns)
        writer.finish()
    assert texts(tmp_path / "bag.mcap") == TEXTS
    with BagReader(tmp_path / "bag.mcap") as bag:
        assert bag.complete


@pytest.mark.parametrize(
    ("encoding", "name", "text"),
    [
        ("ros2msg", "my_text/msg/Count", "int32 count"),
        (
            "ros2idl",
            "my_idl/msg/Count",
            "=" * 80 + "\nIDL: my_idl/msg/Count\nmodule my_idl { module msg { struct Count { int32 count; }; }; };\n",
        ),
    ],
)
def test_types_of_the_user_s_own_are_learnt_from_the_bag(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    with (tmp_path / "bag.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", "test")
        channel = writer.register_channel("/count", "cdr", writer.register_schema(name, encoding, text.encode()))
        writer.add_message(channel, START, b"\0\1\0\0\x05\0\0\0", START)
        odd = writer.register_schema("my_text/msg/Odd", "ros2msg", b"this ** is not a definition")
        writer.add_message(writer.register_channel("/odd", "cdr", odd), START, b"\0\1\0\0", START)
        writer.finish()
    with BagReader(tmp_path / "bag.mcap") as bag:
        assert [bag.decode(message).count for message in bag.messages({"/count"})] == [5]
        (message,) = bag.messages({"/odd"})
        with pytest.raises(ConfigurationError, match="topic /odd has the unknown type 'my_text/msg/Odd'; source the"):
            bag.decode(message)


def test_folders_with_odd_names_and_files_of_old_distributions_are_read(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "a b#c%20?d", ROWS, "db3")
    assert texts(folder) == TEXTS
    database = sqlite3.connect(folder / "a b#c%20?d_0.db3")
    database.execute("ALTER TABLE topics DROP COLUMN offered_qos_profiles")  # as in Dashing and Foxy
    database.commit()
    database.close()
    assert texts(folder) == TEXTS


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_filter_that_matches_no_topic_gives_no_message(tmp_path: Path, kind: str) -> None:
    with BagReader(write_foreign_bag(tmp_path / "bag", ROWS, kind)) as bag:
        assert list(bag.messages({"/other"})) == []
        assert list(bag.messages(set())) == []


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0", b"\0\1\0\0\xff\xff\xff\x7f", b"\0\7\0\0\1\0\0\0\0", b"\1" * 40])
def test_messages_that_are_damaged_are_named(tmp_path: Path, data: bytes) -> None:
    write_mcap(tmp_path / "bag.mcap", [Row("/chatter", "std_msgs/msg/String", START, data)])
    with pytest.raises(ConfigurationError, match="a message on /chatter cannot be decoded"):
        texts(tmp_path / "bag.mcap")
