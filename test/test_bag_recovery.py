"""Tests of the recovery of bags whose recorder was killed, and of files that were cut or damaged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_bags import START, STRING, check_readable_by_others, string, write_bag

from rlfp_ros.recording import recovery
from rlfp_ros.recording.metadata import QualityOfService
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import BagWriter
from rlfp_ros.schema import ConfigurationError

KILLED = """
import sys, time
from pathlib import Path
from rlfp_ros.recording.background_writer import BackgroundWriter
from small_bags import IMAGE, image
writer = BackgroundWriter()
writer.roll(Path(sys.argv[1]))
number = 0
while True:
    now = time.time_ns()
    writer.write("/camera/image_raw", IMAGE, (), image(now), now, now, number)
    number += 1
    print(now, flush=True)
    time.sleep(0.01)
"""


def test_kill_9_costs_less_than_the_last_second(tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    folder = tmp_path / "bag"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    written = [int(process.stdout.readline()) for _ in range(150)]
    with pytest.raises(ConfigurationError, match="is being written"):
        recovery.recover(folder)
    assert recovery.unfinished(tmp_path) == []
    process.send_signal(signal.SIGKILL)
    written += [int(line) for line in process.stdout.read().split()]
    process.wait()
    killed_at = written[-1]

    assert recovery.unfinished(tmp_path) == [folder]
    with BagReader(folder) as bag:
        assert not bag.complete
        as_it_lies = [message.log_time_ns for message in bag.messages()]
    metadata = recovery.recover(folder)
    with BagReader(folder) as bag:
        assert bag.complete
        kept = [message.log_time_ns for message in bag.messages()]
    assert kept == as_it_lies == written[: len(kept)]
    assert killed_at - kept[-1] < 1e9
    check_readable_by_others(folder, metadata.message_count)
    assert recovery.unfinished(tmp_path) == []


def test_every_complete_chunk_of_a_truncated_file_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "whole" / "bag"
    writer = BagWriter(folder)
    writer.add_topic("/episode", STRING, [QualityOfService()])
    whole_at = {}  # file size -> messages before it
    for number in range(30):
        writer.write("/episode", string(f"message {number}"), START + number, START + number)
        if number % 10 == 9:
            writer.flush()
            whole_at[writer.bytes_written] = number + 1
    writer.close()
    content = writer.path.read_bytes()
    generator = np.random.default_rng(11)
    ends = sorted({*generator.integers(60, len(content), 25).tolist(), *whole_at, len(content) - 1})
    for end in ends:
        cut = tmp_path / f"cut_{end}" / "bag"
        cut.mkdir(parents=True)
        (cut / "bag_0.mcap").write_bytes(content[:end])
        expected = max((count for size, count in whole_at.items() if size <= end), default=0)
        metadata = recovery.recover(cut)
        assert metadata.message_count >= expected
        assert metadata.message_count % 10 == 0
        check_readable_by_others(cut, metadata.message_count)
        with BagReader(cut) as bag:
            texts = [bag.decode(message).data for message in bag.messages()]
        assert texts == [f"message {number}" for number in range(metadata.message_count)]


def test_a_damaged_last_chunk_is_left_out(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/episode", STRING)
    writer.write("/episode", string("first"), START, START)
    writer.flush()
    before = writer.bytes_written
    writer.write("/episode", string("second"), START + 1, START + 1)
    writer.flush()
    content = bytearray(writer.path.read_bytes())
    content[before + 80] ^= 0xFF
    shutil.rmtree(tmp_path / "bag")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(content)
    assert recovery.recover(tmp_path / "bag").message_count == 1


def test_recovering_a_complete_bag_changes_nothing(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "bag")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    recovery.recover(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "magic bytes"), (b"not a bag at all", "magic bytes"), (b"\x89MCAP0\r\n", "header is cut")],
)
def test_files_that_are_not_bags_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(ConfigurationError, match=r"holds no \.mcap file"):
        recovery.recover(tmp_path / "bag")
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        recovery.recover(tmp_path / "bag")
    assert recovery.main([str(tmp_path / "bag")]) == 2
    assert (tmp_path / "bag" / "bag_0.mcap").read_bytes() == content
    with pytest.raises(ConfigurationError, match="holds no bag"):
        BagReader(tmp_path / "nowhere")
