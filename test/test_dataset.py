"""Tests of `dataset`: what the policy saw and did, nothing that only a simulator knows, and no half-written folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixture_bundle import SCALE, make_bundle
from recorded_episodes import ARM, SECRET, START, RecordedGraph, Rows, graph_rows, record_graph
from std_msgs.msg import String

from rlfp_ros import cli
from rlfp_ros.contract import Bundle, sha256
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.data.admission import GAP_S
from rlfp_ros.data.build import build_dataset
from rlfp_ros.data.dataset import Dataset, DecidedBy, EpisodeArrays, load_dataset
from rlfp_ros.nodes import messages as m
from rlfp_ros.recording import decode
from rlfp_ros.recording.labels import BagLabel, Label, label_closed_bag
from rlfp_ros.recording.metadata import add_custom_data
from rlfp_ros.schema import ConfigurationError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


def built(folder: Path, bundle: Bundle, graph: RecordedGraph) -> Dataset:
    return build_dataset([record_graph(folder / "bag", bundle, graph)], bundle, ARM, folder / "dataset")


def remarks(folder: Path, bundle: Bundle, graph: RecordedGraph) -> tuple[str, ...]:
    return built(folder, bundle, graph).document.remarks


def without(topic: m.Topic) -> RecordedGraph:
    return RecordedGraph(change=lambda rows: [row for row in rows if row[0] is not topic])


def test_episodes_hold_what_the_policy_saw_and_did(bundle: Bundle, tmp_path: Path) -> None:
    dataset = built(tmp_path, bundle, RecordedGraph())
    assert [(entry.frames, entry.outcome) for entry in dataset.document.episodes] == [(20, "won"), (20, "lost")]
    assert dataset.document.remarks == ()
    images = [decode.image_from_message(row[1]) for row in graph_rows(bundle, RecordedGraph()) if row[0] is m.IMAGE]
    for number, episode in enumerate(dataset.episodes()):
        numbers = np.arange(20) + 20 * number
        np.testing.assert_array_equal(episode.stamps_ns, [RecordedGraph().stamp(int(place)) for place in numbers])
        np.testing.assert_array_equal(episode.images, np.stack(images[20 * number : 20 * (number + 1)]))
        positions = np.array(ARM.home) + 0.3 * np.sin(0.1 * numbers)[:, None]  # at the image's stamp, not later ones
        np.testing.assert_allclose(episode.positions, positions)
        np.testing.assert_allclose(episode.proprioception[:, :7], positions, rtol=1e-6)
        tools = [Kinematics(ARM).tool_position(row) for row in positions]
        np.testing.assert_allclose(episode.proprioception[:, 15:18], tools, atol=1e-6)
        np.testing.assert_allclose(episode.gripper_widths, 0.04)
        asked = np.tile([0.01 / SCALE[0], 0.02 / SCALE[1], 0, 0.02 / SCALE[3] - 1], (20, 1))
        asked[:, 2] = 0.001 * np.arange(20) / SCALE[2]
        np.testing.assert_allclose(episode.asked, asked, rtol=1e-5)
        np.testing.assert_allclose(episode.applied[:, :3], asked[:, :3] / 2, rtol=1e-5)
        assert np.isnan(episode.applied[:, 3]).all()  # a twist does not carry the gripper
        np.testing.assert_allclose(episode.commands[1:], positions[:-1] + 0.5)


def test_what_only_the_simulator_knows_never_enters_a_dataset(bundle: Bundle, tmp_path: Path) -> None:
    """Two bags that differ in nothing but the simulator's truth give the same files, byte for byte."""
    told = built(tmp_path / "a", bundle, RecordedGraph())
    other = built(tmp_path / "b", bundle, RecordedGraph(truth="red table", distance_m=0.9, seed=77))
    assert sorted(path.name for path in told.directory.iterdir()) == sorted(
        path.name for path in other.directory.iterdir()
    )
    for path in told.directory.iterdir():
        assert sha256(path) == sha256(other.directory / path.name)
        assert SECRET.encode() not in path.read_bytes()
    assert {field.name for field in dataclasses.fields(EpisodeArrays)} == {
        "stamps_ns",
        "images",
        "positions",
        "velocities",
        "gripper_widths",
        "proprioception",
        "asked",
        "applied",
        "commands",
        "decided_by",
    }


def test_each_decision_says_whether_it_is_the_policys_or_a_persons(bundle: Bundle, tmp_path: Path) -> None:
    """A person takes over before image 5, lets go before image 10, and gives the arm back before image 15."""
    graph = RecordedGraph(frames=20, episodes=1, wins=(True,))
    changes = [(0, ()), (4, ("handing_over",)), (5, ("jog",)), (10, ("waiting_for_resume",)), (15, ("residual_stale",))]

    def take_over(rows: Rows) -> Rows:
        for number, reasons in changes:
            state = SafetyState(state=State.ACTIVE, reasons=reasons)
            rows.append((m.SAFETY_STATE, String(data=state.to_json()), graph.stamp(number) + 1))
        rows.append((m.SAFETY_STATE, String(data="{}"), graph.stamp(19) + 1))
        return sorted(rows, key=lambda row: row[2])

    graph.change = take_over
    dataset = built(tmp_path, bundle, graph)
    (episode,) = dataset.episodes()
    expected = np.repeat([DecidedBy.POLICY, DecidedBy.PERSON, DecidedBy.NEITHER, DecidedBy.POLICY], 5)
    assert episode.decided_by.tolist() == expected.tolist()
    assert dataset.document.episodes[0].by_person == 5
    persons = episode.applied[episode.decided_by == DecidedBy.PERSON]
    assert np.isfinite(persons[:, :3]).all()  # what a policy learns to imitate


def test_an_episode_of_release_0_2_was_decided_by_its_policy(bundle: Bundle, tmp_path: Path) -> None:
    dataset = built(tmp_path, bundle, RecordedGraph())
    entry = dataset.document.episodes[0]
    path = dataset.directory / entry.file
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files if name != "decided_by"})
    assert dataset.episode(entry).decided_by.tolist() == [DecidedBy.POLICY] * entry.frames


def test_a_gap_splits_an_episode_and_is_said(bundle: Bundle, tmp_path: Path) -> None:
    def lose(rows: Rows) -> Rows:
        lost = {RecordedGraph().stamp(number) for number in range(30, 37)}
        return [row for row in rows if row[0] is not m.IMAGE or decode.stamp_ns(row[1].header.stamp) not in lost]

    dataset = built(tmp_path, bundle, RecordedGraph(frames=60, episodes=1, change=lose))
    assert [entry.frames for entry in dataset.document.episodes] == [30, 23]
    assert dataset.document.remarks == ("bag: split at a gap of 0.27 s between two images",)
    assert max(entry.longest_gap_s for entry in dataset.document.episodes) < GAP_S


def test_a_clock_that_is_set_splits_an_episode(bundle: Bundle, tmp_path: Path) -> None:
    def set_back(rows: Rows) -> Rows:
        jump = RecordedGraph().stamp(20)
        return [(topic, message, at + 2_000_000_000 if at >= jump else at) for topic, message, at in rows]

    dataset = built(tmp_path, bundle, RecordedGraph(frames=40, episodes=1, change=set_back, wins=(True,)))
    assert [entry.frames for entry in dataset.document.episodes] == [20, 20]
    assert dataset.document.remarks == ("bag: split where the age of the images jumps by 2.00 s: a clock was set",)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (RecordedGraph(rate_hz=15.0), "refused 20 images at 15.0 Hz, trained at 30 Hz; set the driver's rate"),
        (RecordedGraph(frames=9), "refused a run of 9 images, expected at least 15"),
        (RecordedGraph(delay_s=-2.0, announced=False), "40 images whose stamps lie in the future"),
        (
            RecordedGraph(change=lambda rows: [row for row in rows if row[0] is not m.JOINT_STATES or row[2] == START]),
            "36 images without joints of the last 0.1 s",
        ),
    ],
    ids=["rate", "short", "future", "joints"],
)
def test_a_bag_without_a_usable_episode_is_refused_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, graph: RecordedGraph, words: str
) -> None:
    bag = record_graph(tmp_path / "bag", bundle, graph)
    with pytest.raises(ConfigurationError, match=r"no episode could be used: .*" + words.replace(".", r"\.")):
        build_dataset([bag], bundle, ARM, tmp_path / "dataset")
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_bags_are_written_together_or_not_at_all(bundle: Bundle, tmp_path: Path) -> None:
    bag = record_graph(tmp_path / "bag", bundle)
    bare = record_graph(tmp_path / "bare", bundle, without(m.CAMERA_INFO))
    with pytest.raises(ConfigurationError, match=r"bare: holds no camera_info"):
        build_dataset([bag, bare], bundle, ARM, tmp_path / "dataset")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "bare"]
    dataset = build_dataset([bag, bag], bundle, ARM, tmp_path / "dataset")
    assert len(dataset.document.episodes) == 4
    before = {path.name: path.read_bytes() for path in dataset.directory.iterdir()}
    with pytest.raises(ConfigurationError, match=r"exists already; choose another folder"):
        build_dataset([bag], bundle, ARM, dataset.directory)
    assert {path.name: path.read_bytes() for path in dataset.directory.iterdir()} == before


def test_a_bag_that_was_cut_short_is_used_up_to_the_cut(bundle: Bundle, tmp_path: Path) -> None:
    bag = record_graph(tmp_path / "bag", bundle, RecordedGraph(frames=600, episodes=1))
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: int(0.9 * file.stat().st_size)])
    dataset = build_dataset([bag], bundle, ARM, tmp_path / "dataset")
    assert dataset.document.remarks[0] == "bag: is cut short; everything before the cut is used"
    assert [entry.outcome for entry in dataset.document.episodes] == ["unknown"]
    assert 60 < dataset.document.episodes[0].frames < 600


def test_a_bag_without_announcements_is_one_episode_without_an_outcome(bundle: Bundle, tmp_path: Path) -> None:
    dataset = built(tmp_path, bundle, RecordedGraph(announced=False))
    assert [(entry.frames, entry.outcome) for entry in dataset.document.episodes] == [(40, "unknown")]


@pytest.mark.parametrize(
    ("graph", "arguments", "words"),
    [
        (RecordedGraph(alter_features=0.1), [], "the recorded features differ from those of bundle tiny by 0.1"),
        (without(m.CAMERA_INFO), [], "holds no camera_info for /camera/image_raw"),
        (without(m.IMAGE), [], "holds no images"),
        (without(m.JOINT_STATES), [], "holds no joint states of arm panda"),
        (RecordedGraph(), ["--bundle", "reach_so101"], "holds no joint states of arm so101"),
        (RecordedGraph(), ["--bundle", "reach_panda"], "the camera (64 x 48"),
        (RecordedGraph(change=lambda rows: []), [], "holds no images"),
    ],
    ids=["bundle", "camera_info", "images", "joints", "arm", "camera", "empty"],
)
def test_a_bag_that_does_not_fit_is_one_sentence(
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    graph: RecordedGraph,
    arguments: list[str],
    words: str,
) -> None:
    bag = record_graph(tmp_path / "bag", bundle, graph)
    options = arguments or ["--bundle", str(bundle.directory)]
    assert cli.main(["dataset", str(bag), "--out", str(tmp_path / "dataset"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "dataset").exists()


def test_info_prints_counts_and_writes_a_contact_sheet(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record_graph(tmp_path / "bag", bundle)
    folder = tmp_path / "dataset"
    assert cli.main(["dataset", str(bag), "--bundle", str(bundle.directory), "--out", str(folder)]) == 0
    assert "2 episodes, 40 images, 1.3 s: 1 won, 1 lost" in capsys.readouterr().out
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet is not None
    assert sheet.shape[1] == 8 * 96
    assert cli.main(["dataset", "info", str(folder)]) == 0
    assert "tiny (task reach) on arm panda" in capsys.readouterr().out


def label(bag: Path, name: Label, note: str = "") -> Path:
    label_closed_bag(bag, BagLabel(label=name, note=note, operator="Ada"))
    return bag


def test_labels_reach_the_episodes_and_discarded_bags_are_skipped(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = RecordedGraph(announced=False)
    bags = [record_graph(tmp_path / name, bundle, single) for name in ("won", "lost", "bad", "plain")]
    label(bags[0], Label.SUCCESS, "clean [push]")
    label(bags[1], Label.FAILURE)
    label(bags[2], Label.DISCARD)
    options = ["--bundle", str(bundle.directory), "--out", str(tmp_path / "dataset")]
    assert cli.main(["dataset", *map(str, bags), *options]) == 0
    document = load_dataset(tmp_path / "dataset").document
    found = [(entry.bag, entry.outcome, entry.label and entry.label.label) for entry in document.episodes]
    assert found == [("won", "won", Label.SUCCESS), ("lost", "lost", Label.FAILURE), ("plain", "unknown", None)]
    assert document.episodes[0].label == BagLabel(label=Label.SUCCESS, note="clean [push]", operator="Ada")
    assert document.remarks == ("bad: is labelled discard and was skipped; --discarded uses it",)
    output = capsys.readouterr().out
    assert "labels: 1 success, 1 failure, 1 without a label" in output
    assert "bad: is labelled discard and was skipped" in output
    options[-1] = str(tmp_path / "all")
    assert cli.main(["dataset", *map(str, bags), *options, "--discarded"]) == 0
    (entry,) = [entry for entry in load_dataset(tmp_path / "all").document.episodes if entry.bag == "bad"]
    assert entry.label is not None
    assert (entry.label.label, entry.outcome) == (Label.DISCARD, "unknown")


def test_a_label_never_changes_what_the_episodes_announced(bundle: Bundle, tmp_path: Path) -> None:
    bag = label(record_graph(tmp_path / "bag", bundle), Label.SUCCESS)
    document = build_dataset([bag], bundle, ARM, tmp_path / "dataset").document
    assert [entry.outcome for entry in document.episodes] == ["won", "lost"]


def test_a_dataset_of_discarded_bags_alone_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    bag = label(record_graph(tmp_path / "bag", bundle), Label.DISCARD)
    with pytest.raises(ConfigurationError, match=r"no episode could be used: bag: is labelled discard and was skipped"):
        build_dataset([bag], bundle, ARM, tmp_path / "dataset")


def test_a_label_of_another_program_is_said_and_the_bag_is_used(bundle: Bundle, tmp_path: Path) -> None:
    bag = record_graph(tmp_path / "bag", bundle)
    add_custom_data(bag, {"label": "kitchen"})
    document = build_dataset([bag], bundle, ARM, tmp_path / "dataset").document
    assert [entry.label for entry in document.episodes] == [None, None]
    assert "has a label that is not one of ours" in document.remarks[0]


def test_a_dataset_that_was_changed_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    directory = built(tmp_path, bundle, RecordedGraph()).directory
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "episode_0001.npz").unlink()
    with pytest.raises(ConfigurationError, match=r"episode_0001\.npz: no such file, but dataset\.yaml lists it"):
        load_dataset(copy)
    shutil.copy(directory / "episode_0000.npz", copy / "episode_0001.npz")
    with pytest.raises(ConfigurationError, match=r"differs from what dataset\.yaml lists"):
        load_dataset(copy)
