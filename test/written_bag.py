"""A bag written by a test: real ROS messages, serialised as DDS would bring them, in the order given."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message

from rlfp_ros.nodes import messages as m
from rlfp_ros.recording.writer import BagWriter


def write_bag(folder: Path, rows: Iterable[tuple[m.Topic, Any, int]]) -> Path:
    """`rows`: topic, message and the time (ns) at which the recorder received it."""
    writer = BagWriter(folder)
    for topic, message, received_ns in rows:
        kind = type(message)
        name = topic.name if topic.name.startswith("/") else f"/{topic.name}"
        writer.add_topic(name, f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}")
        writer.write(name, serialize_message(message), received_ns, received_ns)
    writer.close()
    return folder
