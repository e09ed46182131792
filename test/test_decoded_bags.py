"""Tests of bags with unusual joints, stamps or images: the tools read or refuse them as the live node does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_bags import row, write_foreign_bag
from sample_messages import BGR_ROWS, PANDA, PNG, RGB, ROWS, image, joints, padded
from sensor_msgs.msg import CompressedImage, Image, JointState

from rlfp_ros.commissioning.recorded_run import read_run
from rlfp_ros.contract import load_bundle
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.evaluation.report import read_episodes
from rlfp_ros.nodes import messages
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.snapshots import Snapshot, read_snapshots, standing_snapshots
from rlfp_ros.schema import ConfigurationError

START = 1_790_000_000_000_000_000
STEP = 10_000_000  # ns between joint states


def first_joint(snapshots: Iterable[Snapshot]) -> list[float]:
    """Return the first joint's position in each snapshot, rad."""
    joints = [snapshot.joints for snapshot in snapshots]
    return [float(state.positions[0]) for state in joints if state is not None]


def recording(
    folder: Path,
    joint_state: Callable[[int], JointState],
    stamp: Callable[[int], int] = lambda ns: ns,
    kind: str = "mcap",
) -> Path:
    """One second: joints at 100 Hz that stand in one posture, then in another; an image every 50 ms."""
    rows = []
    for number in range(200):
        time_ns = START + number * STEP
        state = joint_state(number)
        state.header.stamp = messages.stamp_message(time_ns)
        rows.append(row("/joint_states", state, time_ns))
        if number % 5 == 0:
            image = messages.image_message(stamp(time_ns), np.full((8, 8, 3), number, np.uint8), "camera")
            rows.append(row("/camera/image_raw", image, time_ns + 1))
    return write_foreign_bag(folder, rows, kind)


def still(number: int, **fields: Any) -> JointState:
    message = joints(**fields)
    message.position = [0.5 * (number >= 100)] * len(message.position)
    message.velocity = [0.0] * len(message.velocity)
    return message


def test_joints_without_velocities_are_refused_in_a_bag_as_by_the_live_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recording(tmp_path / "bag", lambda number: still(number, velocity=0))
    with pytest.raises(ConfigurationError, match=r"velocity has 0 values, expected 9.*let the arm's driver publish"):
        standing_snapshots(folder, PANDA)
    assert "200 joint states are refused" in caplog.text
    assert all(snapshot.joints is None for snapshot in read_snapshots(folder, PANDA))


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_joints_without_efforts_and_of_other_devices_do_not_matter(tmp_path: Path, kind: str) -> None:
    def state(number: int) -> JointState:
        return still(number, effort=0) if number % 2 else JointState(name=["wheel"], position=[1.0])

    snapshots = standing_snapshots(recording(tmp_path / "bag", state, kind=kind), PANDA)
    assert first_joint(snapshots) == [0.0, 0.5]


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (lambda ns: 0, "message 1 has stamp 0"),
        (lambda ns: ns if ns < START + 100 * STEP else ns - 10**12, "the stamp of message 21 goes back by 1e+03 s"),
        (lambda ns: START, "39 of 40 messages have the stamp of the message before"),
        (lambda ns: 0 if ns == START + 50 * STEP else ns, "message 11 has stamp 0"),
    ],
)
def test_images_with_unusable_stamps_are_ordered_by_the_times_of_recording(
    tmp_path: Path, stamp: Callable[[int], int], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [snapshot.stamp_ns for snapshot in standing_snapshots(recording(tmp_path / "good", still), PANDA)]
    assert caplog.messages == []
    folder = recording(tmp_path / "bag", still, stamp)
    found = list(read_snapshots(folder, PANDA))
    assert len(found) == 40
    assert len({snapshot.stamp_ns for snapshot in found}) == 40
    assert reason in caplog.text
    assert "the times of recording are used" in caplog.text
    snapshots = standing_snapshots(folder, PANDA)
    assert first_joint(snapshots) == [0.0, 0.5]
    np.testing.assert_allclose([snapshot.stamp_ns for snapshot in snapshots], expected, atol=STEP)


def test_gap_refuses_a_bag_whose_images_have_no_stamps_instead_of_losing_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recording(tmp_path / "bag", still, lambda ns: 0)
    with pytest.raises(ConfigurationError, match="message 1 has stamp 0; the graph matches images, joints and actions"):
        read_run(folder, PANDA, load_bundle("reach_panda").contract)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "message",
    [
        image("bgr8", BGR_ROWS),
        image("rgb8", padded(ROWS)),
        image("bgr8", padded(BGR_ROWS)),
        CompressedImage(format="bgr8; png compressed bgr8", data=PNG),
    ],
)
def test_the_report_shows_the_colours_that_the_node_saw(tmp_path: Path, message: Image | CompressedImage) -> None:
    message.header.stamp.sec = 4
    name = "/camera/image_raw" + ("/compressed" if isinstance(message, CompressedImage) else "")
    episode = Episode(id=0, seed=1, task="reach", phase="running", stamp=1)
    finished = episode.model_copy(update={"phase": Phase.FINISHED, "outcome": {"success": True}})
    folder = write_foreign_bag(
        tmp_path / "bag",
        [
            row("/episode", messages.episode_message(episode), START),
            row(name, message, START + 1),
            row("/episode", messages.episode_message(finished), START + 2),
        ],
    )
    (found,) = read_episodes(folder)
    np.testing.assert_array_equal(found.images[4 * 10**9], RGB)


def test_two_images_that_swapped_places_do_not_make_stamps_unusable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swapped = {START + 50 * STEP: START + 55 * STEP, START + 55 * STEP: START + 50 * STEP}
    folder = recording(tmp_path / "bag", still, lambda ns: swapped.get(ns, ns))
    found = [snapshot.stamp_ns for snapshot in read_snapshots(folder, PANDA)]
    assert sorted(found) != found
    assert caplog.messages == []


def test_a_bag_of_compressed_images_gives_the_same_images(tmp_path: Path) -> None:
    message = CompressedImage(format="rgb8; png compressed bgr8", data=PNG)
    message.header.stamp.sec = 1
    folder = write_foreign_bag(tmp_path / "bag", [row("/camera/image_raw/compressed", message, START)])
    (snapshot,) = read_snapshots(folder)
    np.testing.assert_array_equal(snapshot.image, RGB)
    with BagReader(folder) as bag:
        assert list(bag.topics) == ["/camera/image_raw/compressed"]
