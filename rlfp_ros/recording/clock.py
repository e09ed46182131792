"""Chooses the time that orders a bag's messages: their stamps, or the times at which they were recorded."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from rlfp_ros.recording.decode import serialised_stamp_ns
from rlfp_ros.recording.reader import BagReader, RecordedMessage

REORDERED_NS = 100_000_000  # a stamp may be this much older than the one before: best effort can swap two messages
REPEATED_SHARE = 0.1  # of a topic's messages; lock step sends an image again now and then

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagClock:
    """Time of each message of a bag.

    Attributes
    ----------
    unusable : str
        The reason why the stamps are not used, or "" if they are.
    """

    unusable: str = ""

    def time_ns(self, message: RecordedMessage) -> int:
        """Time of a message that begins with a header, in ns: its stamp, or when it was recorded."""
        return message.log_time_ns if self.unusable else serialised_stamp_ns(message.data)


def bag_clock(bag: BagReader, topics: Collection[str]) -> BagClock:
    """Read the stamps of `topics`, whose messages begin with a header, and decide whether they can order the messages.

    One topic with unusable stamps decides for all, because times of two clocks cannot be compared. The reason is
    logged as a warning.
    """
    newest: dict[str, int] = {}
    counts = dict.fromkeys(topics, 0)
    repeated = dict.fromkeys(topics, 0)
    reason = ""
    for message in bag.messages(topics):
        stamp, last = serialised_stamp_ns(message.data), newest.get(message.topic)
        counts[message.topic] += 1
        if stamp <= 0:
            reason = f"topic {message.topic}: message {counts[message.topic]} has stamp 0"
            break
        if last is not None and stamp < last - REORDERED_NS:
            reason = (
                f"topic {message.topic}: the stamp of message {counts[message.topic]} goes back by "
                f"{(last - stamp) * 1e-9:.3g} s"
            )
            break
        repeated[message.topic] += stamp == last
        newest[message.topic] = stamp if last is None else max(stamp, last)
    for topic, count in repeated.items():
        if not reason and count > REPEATED_SHARE * counts[topic]:
            reason = f"topic {topic}: {count} of {counts[topic]} messages have the stamp of the message before"
    if reason:
        log.warning("%s: %s; the times of recording are used instead of the stamps", bag.path, reason)
    return BagClock(reason)
