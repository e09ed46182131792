"""Tests of recordings whose disk becomes full: the bag ends well, and what is lost is counted."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_bags import IMAGE, START, check_readable_by_others, image

from rlfp_ros.recording import recovery
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import RESERVE_NAME, BagWriter, DiskFullError


class FullDisk:
    """Lets `room` bytes through to files, then says that no space is left: as a file system does, mid-write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        from rlfp_ros.recording import writer

        disk = self
        original = writer.DiskStream.write

        def write(stream: object, data: object) -> int:
            size = len(memoryview(data).cast("B"))  # type: ignore[arg-type]
            if size > disk.room:
                original(stream, bytes(memoryview(data))[: disk.room])  # type: ignore[arg-type]
                disk.room = 0
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            disk.room -= size
            return original(stream, data)  # type: ignore[arg-type]

        monkeypatch.setattr(writer.DiskStream, "write", write)


@pytest.mark.parametrize("room", [3_000, 60_000, 200_001])
def test_a_full_disk_ends_the_bag_with_one_sentence_and_keeps_the_written_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    FullDisk(monkeypatch, room)
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/camera/image_raw", IMAGE)
    written = 0

    def fill() -> None:
        nonlocal written
        for number in range(100):
            writer.write("/camera/image_raw", image(START + number), START + number, START + number)
            writer.flush()
            written += 1

    with pytest.raises(DiskFullError, match="No space left on device") as caught:
        fill()
    assert writer.closed
    assert f"holds {written} messages" in str(caught.value)
    assert "\n" not in str(caught.value)
    check_readable_by_others(tmp_path / "bag", written)
    assert not (tmp_path / "bag" / RESERVE_NAME).exists()
    writer.close()  # does nothing


def test_a_file_size_limit_of_the_system_is_met_cleanly(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: a real failing write(2), in a process of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
from small_bags import IMAGE, START, image
from rlfp_ros.recording.writer import BagWriter, DiskFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
writer = BagWriter(Path({str(tmp_path)!r}) / "bag")
writer.add_topic("/camera/image_raw", IMAGE)
try:
    for number in range(1000):
        writer.write("/camera/image_raw", image(START + number), START + number, START + number)
        if number % 10 == 9:
            writer.flush()
except DiskFullError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "File too large" in result.stdout
    count = recovery.recover(tmp_path / "bag").message_count
    assert 60 <= count < 1000
    check_readable_by_others(tmp_path / "bag", count)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_that_fills_up_stops_the_recorder_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, 6_000_000)
    writer = BackgroundWriter()
    writer.roll(tmp_path / "bag")
    accepted = 0
    limit = time.monotonic() + 20
    while not writer.failure and time.monotonic() < limit:
        now = time.time_ns()
        accepted += writer.write("/camera/image_raw", IMAGE, (), image(now), now, now)
        time.sleep(0.002)
    assert "No space left on device" in writer.failure
    assert not writer.write("/camera/image_raw", IMAGE, (), image(START), START, START)
    assert writer.close()
    with BagReader(tmp_path / "bag") as bag:
        assert bag.complete
        kept = sum(1 for _ in bag.messages())
    assert kept > 0
    assert writer.written == {"/camera/image_raw": kept}
    assert writer.dropped == {"/camera/image_raw": accepted - kept + 1}
