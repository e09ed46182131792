"""Small bags with strings and images, and a check that other libraries read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from rlfp_ros.recording.message_types import typestore
from rlfp_ros.recording.metadata import QualityOfService
from rlfp_ros.recording.writer import BagWriter

STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/Image"
START = 1_790_000_000_000_000_000  # ns


def string(text: str) -> bytes:
    """Return a String message as it is stored."""
    return bytes(typestore().serialize_cdr(typestore().types[STRING](text), STRING))


def image(stamp: int, width: int = 84, height: int = 84) -> bytes:
    """Return an Image message as it is stored; its pixels depend on the stamp (ns)."""
    types = typestore().types
    header = types["std_msgs/msg/Header"](
        types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9), "camera_optical"
    )
    pixels = np.full(3 * width * height, stamp % 251, np.uint8)
    return bytes(typestore().serialize_cdr(types[IMAGE](header, height, width, "rgb8", 0, 3 * width, pixels), IMAGE))


def write_bag(folder: Path, count: int = 100) -> Path:
    """Write `count` strings and images, 10 ms apart, and a topic without messages."""
    writer = BagWriter(folder)
    writer.add_topic("/episode", STRING, [QualityOfService(durability="transient_local")])
    writer.add_topic("/camera/image_raw", IMAGE, [QualityOfService()])
    writer.add_topic("/silent", "sensor_msgs/msg/JointState")
    for number in range(count):
        stamp = START + number * 10_000_000
        writer.write("/episode", string(f"message {number}"), stamp + 300, stamp, number)
        writer.write("/camera/image_raw", image(stamp), stamp + 500, stamp, number)
    writer.close()
    return folder


def check_readable_by_others(folder: Path, expected: int) -> None:
    """Check that rosbags and mcap read `expected` messages with correct checksums, and that metadata.yaml agrees."""
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["message_count"] == expected
    (name,) = metadata["relative_file_paths"]
    with AnyReader([folder]) as reader:
        assert reader.message_count == expected
        found = [reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages()]
    assert len(found) == expected
    with (folder / name).open("rb") as file:
        records = make_reader(file, validate_crcs=True)
        assert records.get_header().profile == "ros2"
        assert sum(1 for _ in records.iter_messages()) == expected
        assert [record.name for record in records.iter_metadata()] == ["rosbag2"]
        summary = records.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == expected
