"""Writes bags in a separate thread behind a bounded queue, so that a slow disk never delays a callback."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.recording.labels import BagLabel, label_closed_bag
from rlfp_ros.recording.metadata import QualityOfService, custom_data
from rlfp_ros.recording.writer import FLUSH_S, BagWriter, DiskFullError
from rlfp_ros.schema import ConfigurationError

QUEUE_BYTES = 128 << 20  # 4 s of VGA images at 30 Hz


@dataclass(frozen=True)
class _Message:
    topic: str
    type: str
    qos: Sequence[QualityOfService]
    data: bytes
    log_time_ns: int
    publish_time_ns: int
    sequence: int


@dataclass(frozen=True)
class _Roll:
    directory: Path | None  # of the next bag; None: no bag until the next roll
    then: Callable[[], None] | None
    lost_before: Counter[str]  # on the way to the writer's thread
    custom: dict[str, str]
    is_last: bool = False


@dataclass(frozen=True)
class _LabelBag:
    directory: Path
    label: BagLabel
    then: Callable[[str], None]


class BackgroundWriter:
    """Queues messages and writes them into consecutive bags. A bag without a message is not created.

    If the queue is full, messages are dropped and counted for their topic. If the disk is full, writing ends for good
    and everything that follows is counted as dropped.

    Attributes
    ----------
    failure : str
        The reason why writing ended, in one sentence, or "".
    written : collections.Counter
        Messages by topic, over all bags.
    never_arrived : collections.Counter
        Messages by topic that were lost on the way to the queue, over all bags, which the owner counts. metadata.yaml
        has those of each bag.
    custom : dict
        Entries of `custom_data` for the metadata.yaml of the bag that the messages go into; empty after each `roll`.
    refused : dict
        Topics that cannot be recorded -> the reason, in one sentence.
    bags : list of Path
        Folders that were made.
    """

    def __init__(self, queue_bytes: int = QUEUE_BYTES) -> None:
        self.failure = ""
        self.written: Counter[str] = Counter()
        self.never_arrived: Counter[str] = Counter()
        self.custom: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.bags: list[Path] = []
        self.bytes_written = 0
        self.slowest_write_s = 0.0
        self._limit = queue_bytes
        self._queue: queue.SimpleQueue[_Message | _Roll | _LabelBag] = queue.SimpleQueue()
        self._waiting = 0  # bytes in the queue
        self._lock = threading.Lock()
        self._closed = False
        self._in_bag: Counter[str] = Counter()  # messages that were handed to the open bag
        self._not_queued: Counter[str] = Counter()  # messages that `write` dropped
        self._not_written: Counter[str] = Counter()  # messages that this object's thread dropped
        self._lost_before: Counter[str] = Counter()  # before the open bag, on the way to the thread
        self._not_written_before: Counter[str] = Counter()  # before the open bag, in the thread
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> Counter[str]:
        """Messages by topic that were not written, over all bags."""
        return self._not_queued + self._not_written.copy()  # the other thread may add a topic meanwhile

    @property
    def waiting_bytes(self) -> int:
        """Bytes in the queue."""
        return self._waiting

    def roll(self, directory: Path | None, then: Callable[[], None] | None = None) -> None:
        """Close the bag, put the messages that follow into `directory`, and call `then`.

        Without a directory, the messages that follow are dropped until the next roll. `then` runs in the writer's
        thread and must not raise, because that would end the writing.
        """
        self._queue.put(self._roll(directory, then))

    def _roll(self, directory: Path | None, then: Callable[[], None] | None, is_last: bool = False) -> _Roll:
        custom, self.custom = self.custom, {}
        return _Roll(directory, then, self.never_arrived + self._not_queued, custom, is_last)

    def label(self, directory: Path, label: BagLabel, then: Callable[[str], None]) -> None:
        """Label a bag, the one that is being written or one that is closed, after everything that was queued before.

        `then` gets the reason why it could not be labelled, in one sentence, or "". It runs in the writer's thread and
        must not raise.
        """
        self._queue.put(_LabelBag(directory, label, then))

    def retry(self) -> None:
        """Write again from the next `roll` on, after a failure whose cause is gone."""
        self.failure = ""

    def write(
        self,
        topic: str,
        type: str,
        qos: Sequence[QualityOfService],
        data: bytes,
        log_time_ns: int,
        publish_time_ns: int,
        sequence: int = 0,
    ) -> bool:
        """Queue one message. Returns False if it was dropped."""
        if self._closed or self.failure or self._waiting + len(data) > self._limit:
            self._not_queued[topic] += 1
            return False
        with self._lock:
            self._waiting += len(data)
        self._queue.put(_Message(topic, type, qos, data, log_time_ns, publish_time_ns, sequence))
        return True

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write the queue and close the bag. Returns False if this takes longer than `timeout_s`."""
        if not self._closed:
            self._closed = True
            self._queue.put(self._roll(None, None, is_last=True))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        bag: BagWriter | None = None
        directory: Path | None = None  # of the bag that the next message begins
        while True:
            try:
                item = self._queue.get(timeout=FLUSH_S)
            except queue.Empty:
                bag = self._attempt(bag, lambda open_bag: open_bag.flush_if_due())
                continue
            if isinstance(item, _Message):
                with self._lock:
                    self._waiting -= len(item.data)
                if bag is None and directory is not None:
                    bag, directory = self._open(directory), None
                if bag is None:
                    self._not_written[item.topic] += 1
                    continue
                began = time.monotonic()
                bag = self._attempt(bag, functools.partial(self._write, message=item))
                self.slowest_write_s = max(self.slowest_write_s, time.monotonic() - began)
                continue
            if isinstance(item, _LabelBag):
                bag = self._label(bag, item)
                continue
            bag = self._attempt(bag, functools.partial(self._close, roll=item))
            self._lost_before, self._not_written_before = item.lost_before, self._not_written.copy()
            if item.is_last:
                return
            bag, directory = None, item.directory
            if item.then is not None:
                item.then()

    def _label(self, bag: BagWriter | None, item: _LabelBag) -> BagWriter | None:
        fault = ""
        if bag is not None and bag.directory == item.directory:
            bag = self._attempt(bag, lambda open_bag: open_bag.label(item.label))
            if bag is not None or item.label.custom().items() <= custom_data(item.directory).items():
                item.then("")
                return bag
        try:
            label_closed_bag(item.directory, item.label)
        except ConfigurationError as error:
            fault = str(error)
        item.then(fault)
        return bag

    def _write(self, bag: BagWriter, message: _Message) -> None:
        self._in_bag[message.topic] += 1
        self.written[message.topic] += 1
        before = bag.bytes_written
        try:
            bag.add_topic(message.topic, message.type, message.qos)
        except DiskFullError:
            raise
        except ConfigurationError as error:  # an unknown message type; the other topics are still recorded
            self.refused[message.topic] = str(error)
            self._lose(message.topic, 1)
            return
        bag.write(message.topic, message.data, message.log_time_ns, message.publish_time_ns, message.sequence)
        self.bytes_written += bag.bytes_written - before

    def _lose(self, topic: str, count: int) -> None:
        self._in_bag[topic] -= count
        self.written[topic] -= count
        self._not_written[topic] += count

    def _close(self, bag: BagWriter, roll: _Roll) -> None:
        bag.custom |= roll.custom
        lost = roll.lost_before - self._lost_before + (self._not_written - self._not_written_before)
        if lost:
            bag.custom["dropped"] = ", ".join(f"{topic}: {count}" for topic, count in sorted(lost.items()))
        bag.close()

    def _open(self, directory: Path) -> BagWriter | None:
        if self.failure:
            return None
        try:
            bag = BagWriter(directory)
        except ConfigurationError as error:
            self.failure = str(error)
            return None
        self.bags.append(directory)
        self._in_bag.clear()
        return bag

    def _attempt(self, bag: BagWriter | None, operation: Callable[[BagWriter], None]) -> BagWriter | None:
        """Run `operation` on the open bag. Returns the bag, or None if it is closed afterwards."""
        if bag is None:
            return None
        try:
            operation(bag)
        except ConfigurationError as error:
            self.failure = str(error)
            for topic, count in self._in_bag.copy().items():
                if count > bag.kept[topic]:
                    self._lose(topic, count - bag.kept[topic])
        return None if bag.closed else bag
