"""Tests of the thread that writes bags: a slow disk, several bags, and topics that cannot be written."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from conftest import wait_until
from small_bags import IMAGE, START, STRING, check_readable_by_others, image, string

from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.metadata import custom_data
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import BagWriter


def test_a_slow_disk_drops_messages_and_counts_them_by_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BackgroundWriter(queue_bytes=100_000)
    original = BagWriter.write

    def slow(*arguments: object) -> None:
        time.sleep(0.005)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BagWriter, "write", slow)
    writer.roll(tmp_path / "bag")
    taken = sum(writer.write("/camera/image_raw", IMAGE, (), image(START + n), START + n, START + n) for n in range(40))
    assert writer.close()
    assert 0 < taken < 40
    assert writer.dropped == {"/camera/image_raw": 40 - taken}
    assert writer.written == {"/camera/image_raw": taken}
    check_readable_by_others(tmp_path / "bag", taken)
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["custom_data"] == {"dropped": f"/camera/image_raw: {40 - taken}"}


def test_a_bag_is_split_when_a_split_is_requested(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    answered: list[int] = []
    for episode in range(3):
        writer.roll(tmp_path / f"episode_{episode}", then=partial(answered.append, episode))
        for number in range(5):
            writer.write("/episode", STRING, (), string(f"{episode}.{number}"), START + number, START + number)
    wait_until(lambda: len(answered) == 3)
    assert writer.close()
    for episode in range(3):
        with BagReader(tmp_path / f"episode_{episode}") as bag:
            assert [bag.decode(message).data for message in bag.messages()] == [f"{episode}.{n}" for n in range(5)]
    assert writer.bags == [tmp_path / f"episode_{episode}" for episode in range(3)]


def test_a_topic_of_an_unknown_type_is_refused_and_the_others_are_recorded(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    writer.roll(tmp_path / "bag")
    writer.write("/odd", "unknown_msgs/msg/Odd", (), b"1234", START, START)
    writer.write("/episode", STRING, (), string("good"), START, START)
    assert writer.close()
    assert not writer.failure
    assert "unknown_msgs/msg/Odd is not known" in writer.refused["/odd"]
    assert writer.dropped == {"/odd": 1}
    with BagReader(tmp_path / "bag") as bag:
        assert [message.topic for message in bag.messages()] == ["/episode"]


def test_a_bag_that_gets_no_message_is_not_made(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    writer.roll(tmp_path / "nothing")
    assert writer.close()
    assert not (tmp_path / "nothing").exists()


def test_each_bag_says_what_was_lost_of_it_and_not_of_others(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    for number, name in enumerate(("first", "second", "third")):
        writer.roll(tmp_path / name)
        writer.write("/episode", STRING, (), string(name), START, START)
        if name == "second":
            writer.write("/odd", "unknown_msgs/msg/Odd", (), b"1234", START, START)
        writer.never_arrived["/joint_states"] += number
        wait_until(lambda: writer.waiting_bytes == 0)
    assert writer.close()
    found = [custom_data(tmp_path / name).get("dropped") for name in ("first", "second", "third")]
    assert found == [None, "/joint_states: 1, /odd: 1", "/joint_states: 2"]
