"""Writes a bag of real ROS messages, serialised as DDS delivers them, in the given order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from message_type import type_name
from rclpy.serialization import serialize_message

from rlfp_ros.nodes import messages as m
from rlfp_ros.recording.writer import BagWriter


def write_bag(
    folder: Path,
    rows: Iterable[tuple[m.Topic, Any, int]],
    numbered: bool = False,
    keep: Callable[[m.Topic, Any], bool] = lambda topic, message: True,
) -> Path:
    """Write messages to a bag.

    `rows`: topic, message and the time (ns) at which the recorder received it. `numbered`: each topic's messages carry
    the numbers of one publisher, as DDS counts them. `keep` says which of them the recorder got.
    """
    writer, counts = BagWriter(folder), Counter[str]()
    for topic, message, received_ns in rows:
        counts[topic.name] += numbered
        if not keep(topic, message):
            continue
        name = topic.name if topic.name.startswith("/") else f"/{topic.name}"
        writer.add_topic(name, type_name(message))
        writer.write(name, serialize_message(message), received_ns, received_ns, counts[topic.name])
    writer.close()
    return folder
