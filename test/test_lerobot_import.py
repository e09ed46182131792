"""Tests of `dataset --from-lerobot`: our own exports come back, and those of other programs through a mapping."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fixture_bundle import HEIGHT, WIDTH, make_bundle
from recorded_episodes import ARM, RecordedGraph, record_graph
from test_lerobot_export import LEAST_PSNR, moving_image, psnr, without_images

from rlfp_ros import cli, schema
from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.data.build import build_dataset
from rlfp_ros.data.dataset import DecidedBy, EpisodeArrays, load_dataset
from rlfp_ros.data.lerobot import convert, rows
from rlfp_ros.data.lerobot.convert import convert_lerobot
from rlfp_ros.data.lerobot.export import ExportOptions, export_lerobot
from rlfp_ros.data.lerobot.layout import Feature
from rlfp_ros.data.lerobot.mapping import LerobotMapping, ValueSource
from rlfp_ros.data.lerobot.writer import LerobotWriter
from rlfp_ros.recording.labels import BagLabel, Label, label_closed_bag

CAMERA = "observation.images.top"
THEIR_NAMES = tuple(f"motor_{number}.pos" for number in range(7))
MAPPING = {
    "image": CAMERA,
    "unit": "deg",
    "joints": dict(zip(ARM.joint_names, THEIR_NAMES, strict=True)),
    "gripper": {"name": "gripper.pos", "scale": 0.001},
    "command": "action",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as LeRobot records one: degrees, a gripper in mm, a larger camera image, no labels."""
    folder = tmp_path_factory.mktemp("foreign") / "theirs"
    names = (*THEIR_NAMES, "gripper.pos")
    features = {"observation.state": Feature("float32", (8,), names), "action": Feature("float32", (7,), THEIR_NAMES)}
    writer = LerobotWriter(folder, 30, features, {CAMERA: (2 * WIDTH, 2 * HEIGHT)}, "so_follower")
    for length in (40, 9, 30):
        state = np.column_stack([np.degrees(positions(length)), np.full(length, 40.0)])
        images = (cv2.resize(moving_image(number), (2 * WIDTH, 2 * HEIGHT)) for number in range(length))
        writer.add({"observation.state": state, "action": state[:, :7] + 1.0}, {CAMERA: images})
        writer.end_episode("Pick the cube", {})
    writer.close()
    return folder


def positions(count: int) -> np.ndarray:
    return np.array(ARM.home) + 0.2 * np.sin(0.1 * np.arange(count))[:, None]


def mapping_file(folder: Path, **changes: Any) -> Path:
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (MAPPING | changes).items() if value is not None}))
    return path


def test_an_export_comes_back_as_the_dataset_of_its_bags(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = RecordedGraph(image=moving_image, frames=30, wins=(True, False), change=without_images(40))
    bag = record_graph(tmp_path / "bag", bundle, graph)
    label_closed_bag(bag, BagLabel(label=Label.SUCCESS, note="clean", operator="Ada"))
    direct = build_dataset([bag], bundle, ARM, tmp_path / "direct")
    export_lerobot([bag], bundle, ARM, tmp_path / "export", ExportOptions(gaps="repeat"))
    monkeypatch.setattr(convert, "MOST_FRAMES", 30)
    back = convert_lerobot(tmp_path / "export", bundle, ARM, tmp_path / "back")
    ours, theirs = direct.document, back.document
    assert [(entry.outcome, entry.label, entry.bag) for entry in theirs.episodes] == [
        (entry.outcome, entry.label, entry.bag) for entry in ours.episodes
    ]
    assert [entry.repeated for entry in theirs.episodes] == [(), (10,)]
    skipped = {"episodes", "remarks"}
    assert theirs.model_dump(exclude=skipped) == ours.model_dump(exclude=skipped)
    for number, (first, second) in enumerate(zip(direct.episodes(), back.episodes(), strict=True)):
        kept = np.isin(second.stamps_ns, first.stamps_ns) if number == 0 else np.arange(30) != 10
        assert np.abs(second.stamps_ns[kept] - first.stamps_ns).max() < 1000
        for name in ("positions", "velocities", "gripper_widths", "proprioception", "asked", "applied"):
            found, wanted = getattr(second, name)[kept], getattr(first, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
        known = np.isfinite(first.commands).all(axis=1)
        known[0] = False  # the first image's command is before the first action
        np.testing.assert_allclose(second.commands[kept][known], first.commands[known], rtol=1e-6)
        assert min(map(psnr, second.images[kept], first.images)) > LEAST_PSNR


def test_who_decided_survives_the_way_there_and_back(bundle: Bundle, tmp_path: Path) -> None:
    bag = record_graph(tmp_path / "bag", bundle, RecordedGraph(image=moving_image, episodes=1))
    built = build_dataset([bag], bundle, ARM, tmp_path / "built")
    arrays = next(built.episodes())
    deciders = np.repeat([DecidedBy.POLICY, DecidedBy.PERSON, DecidedBy.NEITHER], [8, 7, 5]).astype(np.uint8)
    columns = rows.columns_of(dataclasses.replace(arrays, decided_by=deciders), bundle.contract, None, True, True)
    columns |= {rows.IS_NEW: np.ones(20, bool), rows.TIME: np.arange(20) / 30, rows.DECIDED_BY: deciders}
    writer = LerobotWriter(
        tmp_path / "export", 30, rows.features_of(bundle.contract, ARM), {rows.IMAGES: (WIDTH, HEIGHT)}, "panda"
    )
    writer.add(columns, {rows.IMAGES: arrays.images})
    writer.end_episode("reach", {})
    writer.close()
    back = convert_lerobot(tmp_path / "export", bundle, ARM, tmp_path / "back")
    assert next(back.episodes()).decided_by.tolist() == deciders.tolist()
    assert [entry.by_person for entry in back.document.episodes] == [7]


def test_a_dataset_of_another_program_is_read_through_a_mapping(
    bundle: Bundle, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--mapping", str(mapping_file(tmp_path)), "--bundle", str(bundle.directory), "--out"]
    assert cli.main(["dataset", "--from-lerobot", str(foreign), *words, str(tmp_path / "ours")]) == 0
    output = capsys.readouterr().out
    assert "2 episodes, 70 images" in output
    assert "theirs: has no joint velocities; they are differences of the positions" in output
    assert "theirs: refused episode 1 of 9 images, expected 15" in output
    dataset = load_dataset(tmp_path / "ours")
    assert [entry.outcome for entry in dataset.document.episodes] == ["unknown", "unknown"]
    first: EpisodeArrays = next(dataset.episodes())
    np.testing.assert_allclose(first.positions, positions(40), atol=1e-5)
    np.testing.assert_allclose(first.gripper_widths, 0.04, rtol=1e-6)
    np.testing.assert_allclose(first.commands[1:], positions(39) + np.radians(1), atol=1e-5)
    assert np.isnan(first.commands[0]).all()
    np.testing.assert_allclose(first.velocities[1:-1], (positions(40)[2:] - positions(40)[:-2]) * 15, atol=1e-3)
    assert first.images.shape == (40, HEIGHT, WIDTH, 3)
    assert min(psnr(image, moving_image(number)) for number, image in enumerate(first.images)) > LEAST_PSNR
    np.testing.assert_array_equal(first.stamps_ns, np.round(np.arange(40) * 1e9 / 30))
    assert np.isnan(first.asked).all()


def test_images_that_are_stored_in_rows_are_read(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rows"
    shutil.copytree(foreign, copy)
    info = json.loads((copy / "meta/info.json").read_text())
    info["features"][CAMERA]["dtype"] = "image"
    (copy / "meta/info.json").write_text(json.dumps(info))
    path = copy / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    frames = table.column("frame_index").to_pylist()
    cells = [
        {"bytes": cv2.imencode(".png", moving_image(number)[..., ::-1])[1].tobytes(), "path": None} for number in frames
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(table.append_column(CAMERA, pa.array(cells, kind)), path)
    dataset = convert_lerobot(copy, bundle, ARM, tmp_path / "ours", mapping_file(tmp_path))
    wanted = np.stack([moving_image(number) for number in range(40)])
    np.testing.assert_array_equal(next(dataset.episodes()).images, wanted)


def change_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_video(folder: Path) -> None:
    path = next(folder.glob("videos/*/chunk-000/file-000.mp4"))
    path.write_bytes(path.read_bytes()[:-2000])


def shift_rows(folder: Path) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    stamps = table.column("timestamp").to_numpy().copy()
    stamps[20:] += 0.5
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), path)


@pytest.mark.parametrize(
    ("damage", "changes", "words"),
    [
        (lambda folder: change_info(folder, fps=15), {}, "has 15 images per second, expected 30, the rate of bundle"),
        (None, {"joints": {"panda_joint1": "motor_0.pos"}}, "joints has no panda_joint2, expected each joint of arm"),
        (None, {"joints": {"elbow": "motor_0.pos"}}, "joints has 'elbow', expected the joints of arm panda"),
        (None, {"gripper": "jaw.pos"}, "feature observation.state has no value 'jaw.pos'; it has: motor_0.pos"),
        (None, {"unit": "rad"}, "expected -3.07 to -0.0698 rad; correct the mapping's joints, unit, scale or offset"),
        (None, {"image": "observation.images.wrist"}, "has no images 'observation.images.wrist'; give the mapping's"),
        (None, {"state": "state"}, "has no feature 'state', expected one of: observation.images.top"),
        (None, {"camera": {"fx": 400, "fy": 400, "cx": 64, "cy": 48}}, "of the bundle's image, expected all of its"),
        (lambda folder: change_info(folder, codebase_version="v2.1"), {}, "codebase_version is 'v2.1', expected v3.0"),
        (lambda folder: change_info(folder, data_path="../../{chunk_index}"), {}, "data_path is '../../{chunk_index}'"),
        (lambda folder: change_info(folder, total_episodes=4), {}, "lists 3 episodes, but meta/info.json says 4"),
        (cut_video, {}, "cannot be decoded as a video"),
        (shift_rows, {}, "row 20 of episode 0 is of 1.167 s, expected 0.667 s at 30 Hz"),
        (lambda folder: (folder / "meta/info.json").write_text("{"), {}, "meta/info.json: is not JSON"),
        (lambda folder: shutil.rmtree(folder / "meta/episodes"), {}, "has no files in meta/episodes"),
        (lambda folder: shutil.rmtree(folder / "videos"), {}, "no such file, but"),
        (
            lambda folder: (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"),
            {},
            "cannot be read as Parquet",
        ),
    ],
)
def test_a_dataset_that_does_not_fit_is_one_sentence(
    bundle: Bundle,
    foreign: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], Any] | None,
    changes: dict[str, Any],
    words: str,
) -> None:
    copy = tmp_path / "theirs"
    shutil.copytree(foreign, copy)
    if damage is not None:
        damage(copy)
    given = ["--mapping", str(mapping_file(tmp_path, **changes)), "--bundle", str(bundle.directory)]
    out = tmp_path / "ours"
    assert cli.main(["dataset", "--from-lerobot", str(copy), *given, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_dataset_of_another_program_needs_a_mapping_and_bags_are_not_mixed_with_it(
    bundle: Bundle, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(bundle.directory), "--out", str(tmp_path / "ours")]
    assert cli.main(["dataset", "--from-lerobot", str(foreign), *words]) == 2
    assert "give a mapping file with --mapping (observation.state has: motor_0.pos" in capsys.readouterr().err
    assert cli.main(["dataset", "bag", "--from-lerobot", str(foreign), *words]) == 2
    assert "has 1 bags and a --from-lerobot, expected either" in capsys.readouterr().err
    assert cli.main(["dataset", *words]) == 2
    assert "has 0 bags and no --from-lerobot, expected either" in capsys.readouterr().err
    assert cli.main(["dataset", "--from-lerobot", str(tmp_path), *words]) == 2
    assert "is not a LeRobot dataset, it has no meta/info.json" in capsys.readouterr().err


def test_the_mapping_on_the_page_is_one_for_the_arm_that_it_names() -> None:
    page = Path(__file__).resolve().parents[1] / "docs/how-to/lerobot.md"
    arm = load_arm("so101")
    text = page.read_text().split("```yaml")[1].split("```")[0]
    mapping = schema.validate(yaml.safe_load(text), LerobotMapping, "page")
    assert tuple(mapping.joints) == arm.joint_names
    assert mapping.joints["shoulder_lift"] == ValueSource(name="shoulder_lift.pos", scale=0.0174533, offset=1.5708)


def test_the_gap_doctor_compares_what_a_dataset_holds(
    bundle: Bundle, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_lerobot(foreign, bundle, ARM, tmp_path / "ours", mapping_file(tmp_path))
    words = ["gap", "--data", str(tmp_path / "ours"), "--json", str(tmp_path / "gap.json"), "--bundle"]
    assert cli.main([*words, str(bundle.directory)]) == 0
    stages = {row["stage"]: row for row in json.loads((tmp_path / "gap.json").read_text())["stages"]}
    assert stages["rate"]["found"] == "30.0 Hz"
    assert [stages[name]["judged"] for name in ("rate", "size", "units", "latency", "crop")] == [True] * 3 + [False] * 2
    capsys.readouterr()
    assert cli.main([*words, "reach_panda"]) == 2
    assert "was made with bundle tiny, expected reach_panda" in capsys.readouterr().err
