"""Tests of labels: what is accepted, where they are kept, and that a crash or a full disk loses none."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_bags import START, STRING, string, write_bag
from test_full_disk import FullDisk

from rlfp_ros.recording import recovery
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.labels import MAX_NOTE, BagLabel, Label, count_labels, label_closed_bag, read_label
from rlfp_ros.recording.metadata import custom_data
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import BagWriter, DiskFullError
from rlfp_ros.schema import ConfigurationError

WON = BagLabel(label=Label.SUCCESS, note="büyük 'quoted': {x} # ✓", operator="Ada")
LOST = BagLabel(label=Label.FAILURE, note="it fell")


@pytest.mark.parametrize(
    "note", ["a" * (MAX_NOTE + 1), "a\nb", "a\x00b", "\x1b[31m", "\ud800", "a\u2028b"], ids=lambda text: ascii(text)[:8]
)
def test_a_note_that_is_not_one_short_line_is_refused(note: str) -> None:
    for field in ("note", "operator"):
        with pytest.raises(ValueError, match=r"at most|control character or a line break|valid string"):
            BagLabel.model_validate({"label": "success", field: note})


def test_a_closed_bag_is_labelled_and_labelled_again(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 5)
    before = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    content = (bag / "bag_0.mcap").read_bytes()
    assert read_label(bag) is None
    for label in (WON, LOST):
        label_closed_bag(bag, label)
        assert read_label(bag) == label
        assert read_label(bag / "bag_0.mcap") == label
    after = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert after.pop("custom_data") == {"label": "failure", "note": "it fell", "operator": ""}
    assert before.pop("custom_data") is None
    assert after == before
    assert (bag / "bag_0.mcap").read_bytes() == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(note=st.text(max_size=30))
def test_every_accepted_note_comes_back_as_it_was(tmp_path: Path, note: str) -> None:
    bag = tmp_path / "bag"
    if not bag.exists():
        write_bag(bag, 2)
    try:
        label = BagLabel(label=Label.DISCARD, note=note)
    except ValueError:
        return
    label_closed_bag(bag, label)
    assert read_label(bag) == label


def test_a_folder_that_is_no_closed_bag_is_not_labelled(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing: has no readable metadata.yaml, so it is no closed bag"):
        label_closed_bag(tmp_path / "nothing", WON)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_label_of_a_closed_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "bag", 3)
    label_closed_bag(bag, WON)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigurationError, match=r"No space left on device.*free space on its disk, then label"):
        label_closed_bag(bag, LOST)
    assert read_label(bag) == WON
    assert sorted(path.name for path in bag.iterdir()) == ["bag_0.mcap", "metadata.yaml"]


def test_a_label_on_a_full_disk_is_in_the_metadata_of_the_bag_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/episode", STRING)
    writer.write("/episode", string("a"), START, START)
    writer.flush()
    FullDisk(monkeypatch, 10)
    with pytest.raises(DiskFullError, match="No space left on device"):
        writer.label(WON)
    assert read_label(tmp_path / "bag") == WON
    with BagReader(tmp_path / "bag") as bag:
        assert [bag.decode(message).data for message in bag.messages()] == ["a"]


class Recording:
    """A background writer, and what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.writer = folder, BackgroundWriter()
        self.answers: list[str] = []

    def bag(self, name: str, *texts: str) -> None:
        self.writer.roll(self.folder / name)
        for number, text in enumerate(texts):
            self.writer.write("/episode", STRING, (), string(text), START + number, START + number)

    def label(self, name: str, label: BagLabel) -> str:
        before = len(self.answers)
        self.writer.label(self.folder / name, label, self.answers.append)
        wait_until(lambda: len(self.answers) > before)
        return self.answers[-1]


def test_open_and_closed_bags_are_labelled_in_the_order_of_the_recording(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    recording.bag("first", "a")
    assert recording.label("first", LOST) == ""
    assert read_label(tmp_path / "first") == LOST  # it is still open
    assert recording.label("first", WON) == ""
    recording.bag("second", "b")
    recording.writer.roll(None)
    assert recording.label("second", LOST) == ""
    assert "no closed bag" in recording.label("third", LOST)
    assert recording.writer.close()
    assert [read_label(tmp_path / name) for name in ("first", "second")] == [WON, LOST]
    for name in ("first", "second"):
        with BagReader(tmp_path / name) as bag:
            assert bag.complete
            assert len(list(bag.messages())) == 1


def test_writing_continues_after_a_failure_whose_cause_is_gone(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    (tmp_path / "taken").mkdir()
    recording.bag("taken", "a")
    wait_until(lambda: recording.writer.failure)
    recording.writer.retry()
    recording.bag("free", "b")
    assert recording.writer.close()
    assert recording.writer.failure == ""
    with BagReader(tmp_path / "free") as bag:
        assert [bag.decode(message).data for message in bag.messages()] == ["b"]
    assert "dropped" not in custom_data(tmp_path / "free")  # what was lost before is not lost in this bag


KILLED = """
import os, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from small_bags import START, STRING, string
from rlfp_ros.recording.labels import BagLabel
from rlfp_ros.recording.writer import BagWriter
writer = BagWriter(Path(sys.argv[1]) / "bag")
writer.add_topic("/episode", STRING)
for number in range(3):
    writer.write("/episode", string(str(number)), START + number, START + number)
    writer.label(BagLabel(label="success" if number == 2 else "failure", note=f"note {number}"))
writer.write("/episode", string("not on the disk yet"), START + 9, START + 9)
print("labelled", flush=True)
time.sleep(60)
"""


def test_a_label_survives_kill_9_before_and_after_the_repair(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), *paths], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "labelled\n"
        process.send_signal(signal.SIGKILL)
    bag = tmp_path / "bag"
    expected = BagLabel(label=Label.SUCCESS, note="note 2")
    assert not (bag / "metadata.yaml").exists()
    assert read_label(bag) == expected
    assert recovery.recover(bag).message_count == 3
    assert read_label(bag) == expected
    (bag / "metadata.yaml").unlink()
    assert read_label(bag) == expected  # as it is after the file alone was copied
    with BagReader(bag) as read:
        assert [read.decode(message).data for message in read.messages()] == ["0", "1", "2"]


def test_entries_that_are_not_a_label_are_one_sentence(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 2)
    label_closed_bag(bag, WON)
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace("label: success", "label: great"))
    with pytest.raises(ConfigurationError, match=r"metadata.yaml: label is 'great'.*'success', 'failure' or 'discard'"):
        read_label(bag)
    shutil.rmtree(bag)
    assert read_label(bag) is None


def test_counts_are_words() -> None:
    assert count_labels(["success", "", "failure", "success"]) == "2 success, 1 failure, 1 without a label"
    assert count_labels([]) == ""
