"""Tests of `export-lerobot`: layout, values and images of a LeRobotDataset v3.0 against the bag, and refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fixture_bundle import HEIGHT, SCALE, WIDTH, make_bundle
from recorded_episodes import ARM, RecordedGraph, Rows, record_graph

from rlfp_ros import cli
from rlfp_ros.contract import Bundle
from rlfp_ros.data import build
from rlfp_ros.data.lerobot.export import ExportOptions, export_lerobot
from rlfp_ros.data.lerobot.reader import LerobotDataset
from rlfp_ros.nodes import messages as m
from rlfp_ros.recording import decode
from rlfp_ros.recording.labels import BagLabel, Label, label_closed_bag
from rlfp_ros.schema import ConfigurationError

LEAST_PSNR = 30.0  # dB; the image before or after is below it
IMAGES = "observation.images.policy"
JOINTS = ARM.joint_names
FLOATS = {
    "observation.state": [*(f"{name}.pos_rad" for name in JOINTS), "gripper.width_m"],
    "observation.velocity": [f"{name}.vel_rad_s" for name in JOINTS],
    "action": [*(f"{name}.pos_rad" for name in JOINTS), "gripper.width_m"],
    "residual.asked": ["vx.m_s", "vy.m_s", "vz.m_s", "gripper.width_m"],
    "residual.applied": ["vx.m_s", "vy.m_s", "vz.m_s", "gripper.width_m"],
}
SCALARS = {
    "recorded.time": "double",
    "recorded.is_new": "bool",
    "recorded.decided_by": "int64",
    "next.done": "bool",
    "next.success": "bool",
    "timestamp": "float",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def moving_image(number: int) -> np.ndarray:
    """A smooth image in which a bright stripe moves, so that neighbours differ."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bright = 120 + 100 * np.sin(0.2 * x + 0.9 * number) * np.cos(0.1 * y)
    return np.stack([bright, 255 - bright, np.full_like(bright, 4 * (number % 50))], axis=-1).astype(np.uint8)


SMOOTH = RecordedGraph(image=moving_image)


def changed(**fields: Any) -> RecordedGraph:
    return dataclasses.replace(SMOOTH, **fields)


def without_images(*numbers: int) -> Callable[[Rows], Rows]:
    """Lose some images, and everything that perception and policy made of them."""
    lost = {SMOOTH.stamp(number) for number in numbers}
    made = (m.IMAGE, m.FEATURES, m.RESIDUAL, m.RESIDUAL_APPLIED, m.GRIPPER)
    return lambda rows: [row for row in rows if row[0] not in made or decode.stamp_ns(row[1].header.stamp) not in lost]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def export(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags, one of them labelled: three episodes."""
    folder = tmp_path_factory.mktemp("export")
    single = changed(announced=False, episodes=1, frames=24)
    bags = [record_graph(folder / "bag", bundle, SMOOTH), record_graph(folder / "labelled", bundle, single)]
    label_closed_bag(bags[1], BagLabel(label=Label.FAILURE, note="too slow", operator="Ada"))
    out = folder / "out"
    words = ["--bundle", str(bundle.directory), "--task", "Reach the block", "--out", str(out)]
    assert cli.main(["export-lerobot", *map(str, bags), *words]) == 0
    return out


def rows_of(export: Path) -> Any:
    return pq.read_table(export / "data/chunk-000/file-000.parquet")


def values(table: Any, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist())


def episodes_of(export: Path) -> list[dict[str, Any]]:
    return pq.read_table(export / "meta/episodes/chunk-000/file-000.parquet").to_pylist()


def info_of(export: Path) -> Any:
    return json.loads((export / "meta/info.json").read_text())


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((image.astype(float) - other) ** 2))))


def test_the_data_file_has_the_layout_of_the_format(export: Path) -> None:
    table = rows_of(export)
    schema = {field.name: str(field.type) for field in table.schema}
    width = {name: f"fixed_size_list<element: float>[{len(names)}]" for name, names in FLOATS.items()}
    width["policy.proprioception"] = "fixed_size_list<element: float>[18]"
    width |= {f"residual.{name}_known": "fixed_size_list<element: bool>[4]" for name in ("asked", "applied")}
    assert {name: kind.replace("item", "element") for name, kind in schema.items()} == width | SCALARS
    file = pq.ParquetFile(export / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [20, 20, 24]
    np.testing.assert_array_equal(values(table, "index"), np.arange(64))
    np.testing.assert_array_equal(values(table, "episode_index"), np.repeat([0, 1, 2], [20, 20, 24]))
    frames = np.concatenate([np.arange(20), np.arange(20), np.arange(24)])
    np.testing.assert_array_equal(values(table, "frame_index"), frames)
    np.testing.assert_array_equal(values(table, "timestamp").astype(np.float32), (frames / 30).astype(np.float32))


def test_info_tasks_and_episodes_have_the_layout_of_the_format(export: Path) -> None:
    info = info_of(export)
    assert {name: info[name] for name in ("codebase_version", "robot_type", "fps")} == {
        "codebase_version": "v3.0",
        "robot_type": "panda",
        "fps": 30,
    }
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 64, 1)
    assert info["splits"] == {"train": "0:3"}
    assert isinstance(info["fps"], int)  # LeRobot divides by it
    features = info["features"]
    for name, names in FLOATS.items():
        assert features[name] == {"dtype": "float32", "shape": [len(names)], "names": names}
    assert set(features) == {IMAGES, "policy.proprioception", *FLOATS, *SCALARS} | {
        "residual.asked_known",
        "residual.applied_known",
    }
    video = features[IMAGES]
    assert (video["dtype"], video["shape"]) == ("video", [HEIGHT, WIDTH, 3])
    assert video["names"] == ["height", "width", "channels"]
    assert (video["info"]["video.codec"], video["info"]["video.pix_fmt"]) == ("h264", "yuv420p")
    assert not any("/" in name for name in features)
    # LeRobot's aggregate_datasets takes everything with `image` in its name for an image.
    assert [name for name in features if "image" in name] == [IMAGES]
    tasks = pq.read_table(export / "meta/tasks.parquet")
    pandas = json.loads(tasks.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]  # as a plain column LeRobot would take the task for the number 0
    assert tasks.to_pydict() == {"task_index": [0], "task": ["Reach the block"]}
    episodes = episodes_of(export)
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in episodes] == [
        (0, 20, 20),
        (20, 40, 20),
        (40, 64, 24),
    ]
    place = [(row[f"videos/{IMAGES}/from_timestamp"], row[f"videos/{IMAGES}/to_timestamp"]) for row in episodes]
    assert place == [(0.0, 20 / 30), (20 / 30, 40 / 30), (40 / 30, 64 / 30)]
    for row in episodes:
        assert row["tasks"] == ["Reach the block"]
        assert [row[f"{kind}/{of}"] for kind in ("data", "meta/episodes") for of in ("chunk_index", "file_index")] == [
            0
        ] * 4


def test_rows_hold_state_command_and_residuals_in_units(export: Path) -> None:
    table = rows_of(export)
    numbers = np.arange(40)
    positions = np.array(ARM.home) + 0.3 * np.sin(0.1 * numbers)[:, None]
    state = values(table, "observation.state")[:40]
    np.testing.assert_allclose(state[:, :7], positions, rtol=1e-6)
    np.testing.assert_allclose(state[:, 7], 0.04, rtol=1e-6)
    action = values(table, "action")[:40]
    for episode in (slice(0, 20), slice(20, 40)):  # the command that was in force when the next image was taken
        np.testing.assert_allclose(action[episode][:-1, :7], positions[episode][:-1] + 0.5, rtol=1e-6)
        np.testing.assert_allclose(action[episode][-1, :7], positions[episode][-2] + 0.5, rtol=1e-6)
    np.testing.assert_allclose(action[:, 7], 0.02, rtol=1e-6)
    asked, applied = values(table, "residual.asked")[:20], values(table, "residual.applied")[:20]
    twist = np.column_stack([np.full(20, 0.01), np.full(20, 0.02), 0.001 * np.arange(20)])
    np.testing.assert_allclose(asked[:, :3], twist, atol=1e-8)
    np.testing.assert_allclose(applied[:, :3], twist / 2, atol=1e-8)
    assert values(table, "residual.asked_known").all()
    known = values(table, "residual.applied_known")
    assert known[:, :3].all()
    assert not known[:, 3].any()  # a twist does not carry the gripper
    assert (applied[:, 3] == 0).all()
    assert abs(asked).max() < max(SCALE)


def test_outcomes_and_labels_are_in_columns_of_their_own(export: Path) -> None:
    table, episodes = rows_of(export), episodes_of(export)
    last = [19, 39, 63]
    assert np.flatnonzero(values(table, "next.done")).tolist() == last
    assert np.flatnonzero(values(table, "next.success")).tolist() == [19]
    assert [row["rlfp/outcome"] for row in episodes] == ["won", "lost", "lost"]
    assert [row["rlfp/bag"] for row in episodes] == ["bag", "bag", "labelled"]
    assert [(row["rlfp/label"], row["rlfp/note"], row["rlfp/operator"]) for row in episodes] == [
        ("", "", ""),
        ("", "", ""),
        ("failure", "too slow", "Ada"),
    ]
    assert int(episodes[1]["rlfp/start_ns"]) == SMOOTH.stamp(20)
    provenance = json.loads((export / "meta/rlfp/provenance.json").read_text())
    assert (provenance["bundle"], provenance["bags"]) == ("tiny", ["bag", "labelled"])
    assert str(export.parent) not in "".join(path.read_text() for path in (export / "meta/rlfp").iterdir())
    card = (export / "README.md").read_text()
    assert "`residual.applied`" in card
    assert "nothing was resampled" in card


def test_statistics_are_those_of_the_data(export: Path) -> None:
    stats, table = json.loads((export / "meta/stats.json").read_text()), rows_of(export)
    assert set(stats) == set(info_of(export)["features"])
    for name in table.column_names:
        rows = values(table, name).astype(float).reshape(64, -1)
        found = stats[name]
        np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose([found["min"], found["max"]], [rows.min(axis=0), rows.max(axis=0)], rtol=1e-6)
        np.testing.assert_allclose(found["q90"], np.quantile(rows, 0.9, axis=0), rtol=1e-5, atol=1e-9)
        assert found["count"] == [64]
    images = np.stack([moving_image(number) for number in [*range(40), *range(24)]]) / 255
    for name, wanted in {"mean": images.mean((0, 1, 2)), "std": images.std((0, 1, 2))}.items():
        assert np.shape(stats[IMAGES][name]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(stats[IMAGES][name]), wanted, atol=1e-9)
    median = np.quantile(images, 0.5, axis=(0, 1, 2), method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(stats[IMAGES]["q50"]), median)
    second = episodes_of(export)[1]
    np.testing.assert_allclose(
        second["stats/observation.state/mean"], values(table, "observation.state")[20:40].mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(np.ravel(second[f"stats/{IMAGES}/mean"]), images[20:40].mean((0, 1, 2)))


def test_every_decoded_frame_is_that_of_the_bag(export: Path) -> None:
    dataset = LerobotDataset(export)
    wanted = [range(20), range(20, 40), range(24)]
    for episode, numbers in zip(dataset.episodes, wanted, strict=True):
        decoded = list(dataset.images(episode, IMAGES))
        assert len(decoded) == len(numbers)
        for image, number in zip(decoded, numbers, strict=True):
            assert psnr(image, moving_image(number)) > LEAST_PSNR
            assert psnr(image, moving_image(number + 1)) < LEAST_PSNR


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (changed(change=without_images(9)), "split after 0.27 s, at a gap of 0.07 s between two images"),
        (changed(rate_hz=29.2), "its images come at 29.20 Hz, expected 30 Hz, that of bundle tiny, to within 2%"),
        (
            changed(change=lambda rows: [row for row in rows if row[0] is not m.ARM_COMMAND]),
            "holds no command to the arm",
        ),
    ],
    ids=["gap", "rate", "commands"],
)
def test_a_bag_that_would_have_to_be_resampled_is_refused_in_one_sentence(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], graph: RecordedGraph, words: str
) -> None:
    bag = record_graph(tmp_path / "bag", bundle, graph)
    out = ["--bundle", str(bundle.directory), "--out", str(tmp_path / "out")]
    assert cli.main(["export-lerobot", str(bag), *out]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_an_unfinished_bag_an_existing_folder_and_a_missing_package_are_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record_graph(tmp_path / "bag", bundle, changed(frames=60, episodes=1))
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: int(0.9 * file.stat().st_size)])
    words = ["export-lerobot", str(bag), "--bundle", str(bundle.directory), "--out"]
    assert cli.main([*words, str(tmp_path / "out")]) == 2
    assert "is unfinished: its recorder still runs or was killed" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert cli.main([*words, str(tmp_path / "there")]) == 2
    assert "there: exists already; choose another folder for the LeRobot dataset with --out" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("rlfp_ros.data.lerobot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main([*words, str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "'pyarrow' is missing; it is in the requirement set 'lerobot'; run:" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "there"]


def test_a_rate_that_is_not_a_whole_number_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    camera = bundle.contract.camera.model_copy(update={"rate_hz": 29.97})
    other = copy.copy(bundle)
    other.contract = bundle.contract.model_copy(update={"camera": camera})
    with pytest.raises(ConfigurationError, match=r"rate_hz is 29\.97, but a LeRobot dataset has a whole number"):
        export_lerobot([tmp_path / "bag"], other, ARM, tmp_path / "out")


def test_gaps_split_episodes_or_are_filled_if_the_user_allows_it(bundle: Bundle, tmp_path: Path) -> None:
    lost = changed(frames=50, episodes=1, wins=(True,), change=without_images(20, 21))
    bag = record_graph(tmp_path / "bag", bundle, lost)
    parts = export_lerobot([bag], bundle, ARM, tmp_path / "split", ExportOptions(gaps="split"))
    assert parts.remarks == ("bag: split at a gap of 0.10 s between two images",)
    table, rows = rows_of(parts.directory), episodes_of(parts.directory)
    assert [(row["length"], row["rlfp/outcome"]) for row in rows] == [(20, "unknown"), (28, "won")]
    assert np.flatnonzero(values(table, "next.done")).tolist() == [47]  # the first part is not the episode's end

    filled = export_lerobot([bag], bundle, ARM, tmp_path / "filled", ExportOptions(gaps="repeat"))
    assert filled.remarks == ("bag: 2 images were lost; the image before each stands for it",)
    card = (filled.directory / "README.md").read_text()
    assert "2 images were lost" in card
    assert "resampled" not in card
    table, dataset = rows_of(filled.directory), LerobotDataset(filled.directory)
    assert np.flatnonzero(~values(table, "recorded.is_new")).tolist() == [20, 21]
    np.testing.assert_allclose(values(table, "recorded.time"), np.arange(50) / 30, atol=1e-6)
    images = list(dataset.images(dataset.episodes[0], IMAGES))
    assert psnr(images[21], moving_image(19)) > LEAST_PSNR
    assert psnr(images[22], moving_image(22)) > LEAST_PSNR
    assert np.flatnonzero(~values(table, "residual.asked_known").any(axis=1)).tolist() == [20, 21]
    # Joints and commands are the real ones of that time: the arm moved while the images were lost.
    assert (np.diff(values(table, "observation.state")[:, 0]) != 0).all()


def test_an_episode_in_several_files_of_the_dataset_is_one_episode(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = record_graph(tmp_path / "bag", bundle, changed(frames=49, episodes=1, wins=(True,)))
    whole = export_lerobot([bag], bundle, ARM, tmp_path / "whole")
    monkeypatch.setattr(build, "MOST_FRAMES", 16)
    parts = export_lerobot([bag], bundle, ARM, tmp_path / "parts")
    assert (parts.outcomes, parts.shortest) == (("won",), 49) == (whole.outcomes, whole.shortest)
    assert rows_of(parts.directory).equals(rows_of(whole.directory))
