"""The folder of a recorder: names for new bags, repair of those that were not closed, and the list of all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from rlfp_ros.files import check_writable_folder
from rlfp_ros.recording import recovery
from rlfp_ros.recording.bag_list import BagListing, ListedBag
from rlfp_ros.recording.labels import label_in
from rlfp_ros.recording.metadata import FILE_NAME, BagMetadata, bag_summary
from rlfp_ros.schema import ConfigurationError

LISTED = 50  # bags, the newest
MIN_FREE_MB = 50  # to begin a bag: a minute of small images


class BagFolder:
    """The folder of a recorder.

    Parameters
    ----------
    directory
        The folder, which need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._given: set[Path] = set()  # folders that the writer may not have made yet
        self._read: dict[tuple[Path, int], ListedBag] = {}

    def make(self) -> None:
        """Make the folder if it is missing. Raises ConfigurationError if it cannot be made."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"recorder parameters: directory is {str(self.directory)!r}, which cannot be made ({error.strerror}); "
                "choose another folder"
            ) from None

    def check_room(self) -> None:
        """Check that a bag can be begun. Raises ConfigurationError if the disk is nearly full or read-only."""
        check_writable_folder(self.directory)
        free_mb = shutil.disk_usage(self.directory).free / 1e6
        if free_mb < MIN_FREE_MB:
            raise ConfigurationError(
                f"{self.directory}: {free_mb:.0f} MB of disk are free, expected at least {MIN_FREE_MB}; free some"
            )

    def recover(self) -> Iterator[tuple[Path, BagMetadata | str]]:
        """Repair bags that were not closed, and yield each with its content, or with the reason if it is lost."""
        for bag in recovery.unfinished(self.directory):
            try:
                yield bag, recovery.recover(bag)
            except (ConfigurationError, OSError) as error:
                yield bag, str(error)

    def free_name(self, name: str) -> Path:
        """Return a folder that does not exist and that was not returned before: `name`, or `name` with a number."""
        path, number = self.directory / name, 2
        while path.exists() or path in self._given:
            path, number = self.directory / f"{name}_{number}", number + 1
        self._given.add(path)
        return path

    def numbered_name(self) -> str:
        """Return the first unused of the names `recording_0001`, `recording_0002` and so on."""
        number = 1
        while (path := self.directory / f"recording_{number:04d}").exists() or path in self._given:
            number += 1
        return path.name

    def listing(self) -> BagListing:
        """Return the newest closed bags. What was read once is read again only after it has changed."""
        found = sorted(self._closed(), reverse=True)
        chosen = found[:LISTED]
        read = {(folder, changed): self._entry(folder, changed, size) for _, folder, changed, size in chosen}
        self._read = {key: bag for key, bag in read.items() if bag is not None}
        bags = sorted(self._read.values(), key=lambda bag: bag.start_ms, reverse=True)
        return BagListing(bags=tuple(bags), more=len(found) - len(chosen))

    def _closed(self) -> list[tuple[int, Path, int, int]]:
        """Return when each bag was last written to, its folder, the time of its metadata.yaml, and its size, bytes."""
        closed = []
        for metadata in self.directory.glob(f"*/{FILE_NAME}"):
            try:
                sizes = [file.stat() for file in metadata.parent.iterdir() if file.suffix in (".mcap", ".db3", ".zstd")]
                written = max((status.st_mtime_ns for status in sizes), default=0)
                changed = metadata.stat().st_mtime_ns
            except OSError:
                continue  # it has just been moved away
            closed.append((written, metadata.parent, changed, sum(status.st_size for status in sizes)))
        return closed

    def _entry(self, folder: Path, changed: int, size: int) -> ListedBag | None:
        if (folder, changed) in self._read:
            return self._read[folder, changed]
        summary = bag_summary(folder)
        if summary is None:
            return None
        try:
            label = label_in(summary.custom, folder.name)
        except ConfigurationError:
            label = None  # of another program
        try:
            return ListedBag(
                name=folder.name,
                start_ms=max(0, summary.start_ns // 1_000_000),
                duration_s=max(0, summary.duration_ns) * 1e-9,
                messages=max(0, summary.message_count),
                megabytes=size / 1e6,
                label=label,
                episodes=summary.custom.get("episodes", "")[:100],
                dropped=summary.custom.get("dropped", "")[:200],
            )
        except ValidationError:
            return None  # its times are not possible
