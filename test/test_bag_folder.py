"""Tests of a recorder's folder: the list of its bags, names for new ones, and a disk without room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_bags import START, write_bag

from rlfp_ros.recording import bag_folder
from rlfp_ros.recording.bag_folder import LISTED, BagFolder
from rlfp_ros.recording.labels import BagLabel, Label, label_closed_bag
from rlfp_ros.recording.metadata import BagSummary, add_custom_data, bag_summary
from rlfp_ros.schema import ConfigurationError


def names(folder: BagFolder) -> list[str]:
    return [bag.name for bag in folder.listing().bags]


def test_closed_bags_are_listed_with_what_their_metadata_says(tmp_path: Path) -> None:
    folder = BagFolder(tmp_path / "bags")
    assert folder.listing().bags == ()  # it does not exist yet
    label = BagLabel(label=Label.SUCCESS, note="ok")
    label_closed_bag(write_bag(tmp_path / "bags" / "a", 101), label)
    add_custom_data(tmp_path / "bags" / "a", {"episodes": "1 won", "dropped": "/joint_states: 3"})
    (tmp_path / "bags" / "no_bag").mkdir()
    (tmp_path / "bags" / "open").mkdir()
    (tmp_path / "bags" / "open" / "open_0.mcap").write_bytes(b"")  # it is being written
    (bag,) = folder.listing().bags
    assert (bag.name, bag.label, bag.episodes, bag.dropped) == ("a", label, "1 won", "/joint_states: 3")
    assert (bag.messages, bag.start_ms) == (202, START // 1_000_000)
    assert bag.duration_s == pytest.approx(1.0, abs=0.01)
    assert bag.megabytes == pytest.approx((tmp_path / "bags" / "a" / "a_0.mcap").stat().st_size / 1e6)


@pytest.mark.parametrize(
    ("found", "put"),
    [
        ("nanoseconds_since_epoch: 1790000000000000300", "nanoseconds_since_epoch: 99999999999999999999999999"),
        ("message_count: 6", "message_count: many"),
        ("version: 9", "version: [" + 2000 * "["),
    ],
    ids=["time", "word", "brackets"],
)
def test_a_bag_with_damaged_metadata_is_not_listed_and_hides_no_other(tmp_path: Path, found: str, put: str) -> None:
    for name in ("good", "damaged"):
        write_bag(tmp_path / name, 3)
    path = tmp_path / "damaged" / "metadata.yaml"
    assert found in path.read_text()
    path.write_text(path.read_text().replace(found, put))
    assert names(BagFolder(tmp_path)) == ["good"]


def test_a_label_of_another_program_is_not_shown(tmp_path: Path) -> None:
    add_custom_data(write_bag(tmp_path / "bag", 2), {"label": "kitchen", "note": "a\nb"})
    (bag,) = BagFolder(tmp_path).listing().bags
    assert bag.label is None


def test_the_newest_bags_are_listed_and_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_bag(tmp_path / "bag_00", 2)
    for number in range(1, LISTED + 3):
        copy = tmp_path / f"bag_{number:02d}"
        copy.mkdir()
        for file in first.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    for number in range(LISTED + 3):
        time_ns = START + number * 10**9
        os.utime(tmp_path / f"bag_{number:02d}" / "bag_00_0.mcap", ns=(time_ns, time_ns))
    folder = BagFolder(tmp_path)
    listing = folder.listing()
    assert {bag.name for bag in listing.bags} == {f"bag_{number:02d}" for number in range(3, LISTED + 3)}
    assert listing.more == 3
    read: list[str] = []

    def noted(path: Path) -> BagSummary | None:
        read.append(path.name)
        return bag_summary(path)

    monkeypatch.setattr(bag_folder, "bag_summary", noted)
    label_closed_bag(tmp_path / "bag_07", BagLabel(label=Label.FAILURE))
    labelled = {bag.name: bag.label for bag in folder.listing().bags}
    assert labelled["bag_07"] == BagLabel(label=Label.FAILURE)
    assert read == ["bag_07"]


def test_names_are_given_once(tmp_path: Path) -> None:
    folder = BagFolder(tmp_path)
    (tmp_path / "recording_0001").mkdir()
    assert folder.numbered_name() == "recording_0002"
    assert folder.free_name("recording_0002") == tmp_path / "recording_0002"
    assert folder.numbered_name() == "recording_0003"  # the writer has not made the second one yet
    assert [folder.free_name("run").name for _ in range(3)] == ["run", "run_2", "run_3"]


def test_a_disk_without_room_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BagFolder(tmp_path)
    folder.check_room()
    monkeypatch.setattr(bag_folder, "MIN_FREE_MB", 10**12)
    with pytest.raises(ConfigurationError, match=r"MB of disk are free, expected at least 1000000000000; free some"):
        folder.check_room()
