"""Chooses the time that orders a bag's messages: their stamps, or the times at which they were recorded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from rlfp_ros.recording.decode import serialised_stamp_ns
from rlfp_ros.recording.reader import BagReader, RecordedMessage

REORDERED_NS = 100_000_000  # a stamp may be this much older than the last one, because best effort can swap messages
REPEATED_SHARE = 0.1  # accepted share of repeated messages, because lock step sometimes repeats an image

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
    """Choose the time that orders the messages of `topics`, which begin with a header.

    One topic with unusable stamps decides for all, because times of two clocks cannot be compared. The reason is
    logged as a warning.
    """
    reason = unusable_stamps(bag, topics)
    if reason:
        log.warning("%s: %s; the times of recording are used instead of the stamps", bag.path, reason)
    return BagClock(reason)


def unusable_stamps(bag: BagReader, topics: Collection[str]) -> str:
    """Read the stamps of `topics`, whose messages begin with a header.

    Returns
    -------
    str
        The reason why they cannot order the messages, or "" if they can.
    """
    newest: dict[str, int] = {}
    counts: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    for message in bag.messages(topics):
        topic, stamp = message.topic, serialised_stamp_ns(message.data)
        counts[topic] += 1
        last = newest.get(topic)
        if stamp <= 0:
            return f"topic {topic}: message {counts[topic]} has stamp 0"
        if last is not None and stamp < last - REORDERED_NS:
            back = (last - stamp) * 1e-9
            return f"topic {topic}: the stamp of message {counts[topic]} goes back by {back:.3g} s"
        repeated[topic] += stamp == last
        newest[topic] = stamp if last is None else max(stamp, last)
    for topic, count in repeated.items():
        if count > REPEATED_SHARE * counts[topic]:
            return f"topic {topic}: {count} of {counts[topic]} messages have the stamp of the message before"
    return ""
