"""Reads rosbag2 bags without ROS 2: topics, messages in the order they were received, and their content.

with BagReader("runs/today/bags/episode_0003") as bag:
    for message in bag.messages({"/joint_states"}):
        state = bag.decode(message)
        print(message.log_time_ns, state.name, state.position)
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard
from rosbags.typesys import TypesysError

from rlfp_ros.recording import metadata
from rlfp_ros.recording.message_types import deserialise
from rlfp_ros.recording.storage import DAMAGE, ZSTD_MAGIC, BagFile, bag_files, open_file
from rlfp_ros.recording.storage import RecordedMessage as RecordedMessage
from rlfp_ros.schema import ConfigurationError

log = logging.getLogger(__name__)


class BagReader:
    """One bag: a folder with .mcap or .db3 files, or a single one of them, also compressed with zstd.

    Attributes
    ----------
    path : Path
        The folder or file.
    topics : dict
        Absolute name -> pkg/msg/Type.
    complete : bool
        False if a file was cut short; everything before the cut is read.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the bag. Raises ConfigurationError if `path` holds no readable one."""
        self.path = Path(path)
        self._exits = ExitStack()
        self._files: list[tuple[Path, BagFile]] = []
        self.topics: dict[str, str] = {}
        try:
            for name in bag_files(self.path):
                file = open_file(name)
                self._exits.callback(file.close)
                self._files.append((name, file))
                self.topics |= file.topics
        except ConfigurationError:
            self.close()
            raise
        self.complete = all(file.complete for _, file in self._files)
        for name, file in self._files:
            if not file.complete:
                log.warning("%s: is cut short; everything before the cut is read, what followed is missing", name)
        if self.path.is_dir() and self.complete:
            self._compare_with_metadata()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._exits.close()

    def _compare_with_metadata(self) -> None:
        listed = metadata.listed_files(self.path)
        if listed is None:
            log.warning(
                "%s: has no readable %s, which other tools need; `ros2 bag reindex %s` writes it",
                self.path,
                metadata.FILE_NAME,
                self.path,
            )
            return
        found = {name.name for name, _ in self._files}
        missing = [name for name in listed if name not in found and name.removesuffix(".zstd") not in found]
        if missing:
            log.warning(
                "%s: %s lists %s, which is not there; its messages are missing",
                self.path,
                metadata.FILE_NAME,
                ", ".join(missing),
            )

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RecordedMessage]:
        """Messages of `topics` (None: all) in the order of their log times, across all files.

        A cut file is read in its own order. Raises ConfigurationError if a file is damaged.
        """
        rows = [_checked(name, file, topics) for name, file in self._files]
        yield from rows[0] if len(rows) == 1 else heapq.merge(*rows, key=lambda message: message.log_time_ns)

    def decode(self, message: RecordedMessage) -> Any:
        """The message's fields as an object; sequences of numbers are numpy arrays. Raises ConfigurationError."""
        try:
            return deserialise(message.data, message.type)
        except (ValueError, TypesysError) as error:
            raise ConfigurationError(f"{self.path}: a message on {message.topic} cannot be decoded ({error})") from None
        except KeyError:
            raise ConfigurationError(
                f"{self.path}: topic {message.topic} has the unknown type {message.type!r}; source the workspace that "
                "defines it"
            ) from None


def _checked(name: Path, file: BagFile, topics: Collection[str] | None) -> Iterator[RecordedMessage]:
    """Messages of one file, each decompressed if the bag was recorded with compression_mode `message`."""
    try:
        for message in file.messages(topics):
            if message.data[:4] == ZSTD_MAGIC:
                message = replace(message, data=_decompressed(message.data))
            yield message
    except DAMAGE as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{name}: is damaged ({error or type(error).__name__}); copy it again") from None


def _decompressed(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:  # also of a frame that does not give its size
        return stream.read()
