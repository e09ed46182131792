"""Tests of every configuration file: each mistake in it gives one sentence that names the file and the field."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlfp_ros import paths, schema
from rlfp_ros.contract import Contract, load_bundle
from rlfp_ros.control.arm import load_arm, read_arm
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import PARAMETERS, load_profile, sample
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import TASKS

SHARE = paths.share_directory()
CAMERA = load_bundle("reach_panda").contract.camera
REPLACEMENTS = [
    None,
    "",
    "x",
    -1,
    0,
    math.nan,
    math.inf,
    1e30,
    True,
    [],
    {},
    [1, 2],
    [None] * 3,
    ["a"] * 7,
    {"a": 1},
    "ünï",
]


def _task(name: str) -> Callable[[Path], object]:
    return lambda path: schema.load(path, TASKS[name].settings_schema)


def _extrinsics(path: Path) -> None:
    assert all(math.isfinite(value) for value in load_extrinsics(path, CAMERA).flat)


KINDS: dict[str, tuple[Path, Callable[[Path], object]]] = {
    "arm": (SHARE / "config/arms/fr3.yaml", read_arm),
    "small arm": (SHARE / "config/arms/so101.yaml", read_arm),
    "reach": (SHARE / "sim/tasks/reach.yaml", _task("reach")),
    "push": (SHARE / "sim/tasks/push.yaml", _task("push")),
    "place": (SHARE / "sim/tasks/place.yaml", _task("place")),
    "stack": (SHARE / "sim/tasks/stack.yaml", _task("stack")),
    "drawer": (SHARE / "sim/tasks/drawer.yaml", _task("drawer")),
    "scene": (SHARE / "sim/scenes/table.yaml", load_scene),
    "cell": (SHARE / "cells/mug.yaml", lambda path: load_scene(arm=load_arm(path))),
    "profile": (SHARE / "sim/randomization/harsh.yaml", lambda path: sample(load_profile(path), 0)),
    "room": (SHARE / "sim/scenes/twin_clutter.yaml", lambda path: load_room(path).draw(0)),
    "bundle": (SHARE / "models/reach_panda/bundle.yaml", lambda path: schema.load(path, Contract)),
    "extrinsics": (Path(), _extrinsics),
}
DOCUMENTS: dict[str, Any] = {
    kind: {"T_base_camera": CAMERA.T_base_camera.model_dump(mode="json")}
    if kind == "extrinsics"
    else schema.read_yaml(file)
    for kind, (file, _) in KINDS.items()
}


def _places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in parts:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _changed(document: Any, place: tuple[Any, ...], change: tuple[str, Any]) -> Any:
    document = copy.deepcopy(document)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if change[0] == "delete":
        del parent[place[-1]]
    elif change[0] == "replace":
        parent[place[-1]] = change[1]
    elif isinstance(parent, dict):
        parent[change[1]] = 1
    return document


CHANGES = st.one_of(
    st.just(("delete", None)),
    st.sampled_from(REPLACEMENTS).map(lambda value: ("replace", value)),
    st.sampled_from(["surplus", "Name", "ünï"]).map(lambda name: ("add", name)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_a_changed_field_is_accepted_or_refused_in_one_sentence_with_the_file_name(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    document, load = DOCUMENTS[kind], KINDS[kind][1]
    place = data.draw(st.sampled_from(list(_places(document))))
    path = tmp_path_factory.getbasetemp() / f"my {kind} ü.yaml"
    path.write_text(yaml.safe_dump(_changed(document, place, data.draw(CHANGES)), allow_unicode=True), encoding="utf-8")
    refused = ""
    try:
        load(path)
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or path.name in refused
    assert "\n" not in refused


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_file_loads_and_an_unknown_field_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(DOCUMENTS[kind]), encoding="utf-8")
    KINDS[kind][1](path)
    path.write_text(yaml.safe_dump(DOCUMENTS[kind] | {"surplus": 1}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"{kind}\.yaml: .*surplus"):
        KINDS[kind][1](path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 2020-13-45", "month must be in 1..12"),
        (b"a: !!int many", "many"),
        (b"[" * 3000, "nested too deeply"),
        (b"a: 1\nb: 2\na: 3", "line 3, column 1: not valid YAML .a is given twice; remove one"),
        (b"outer: {a: 1, a: 3}", "a is given twice"),
        (b"a: \x00", "not valid YAML"),
        (b"\xff\xfea\x00", "is not UTF-8 text"),
        (b"\ta: 1", "line 1, column 1"),
        (b"a: !!python/object:os.system x", "not valid YAML"),
        (b"a: 1\n---\na: 2", "not valid YAML"),
        (b"- 1", "is list, expected a mapping"),
        (b"", "is empty, expected a mapping"),
    ],
)
def test_text_that_is_not_a_document_gives_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said) as refused:
        schema.load(path, schema.Pose)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_merge_keys_and_anchors_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "pose.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\n", encoding="utf-8")
    assert schema.read_yaml(path) == {"base": {"x": 1, "y": 2}, "other": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    "load", [read_arm, load_scene, load_profile, load_room, lambda path: load_extrinsics(path, CAMERA)]
)
def test_folder_in_place_of_a_file_is_one_sentence(load: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match=r"folder\.yaml: (cannot be read|is a folder)"):
        load(folder)


def _refusal(kind: str, tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "mine.yaml"
    document = copy.deepcopy(DOCUMENTS[kind])
    for name, value in changes.items():
        parent = document
        *parents, last = name.split("__")
        for part in parents:
            parent = parent[part]
        parent[last] = value
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        KINDS[kind][1](path)
    return str(refused.value)


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0.5, 0]])
def test_an_orientation_that_is_not_a_rotation_is_refused(quaternion: list[float], tmp_path: Path) -> None:
    said = _refusal("extrinsics", tmp_path, T_base_camera__quaternion_xyzw=quaternion)
    assert "T_base_camera: quaternion_xyzw is" in said
    assert "expected length 1" in said


def test_yes_is_not_accepted_as_a_number(tmp_path: Path) -> None:
    said = _refusal("scene", tmp_path, camera__rate_hz=True)
    assert said == f"{tmp_path / 'mine.yaml'}: camera.rate_hz is true, expected a number; correct it"


@pytest.mark.parametrize("target", [[0.6, 0.1, 0.0], [0.6, 0.1, 0.9]])
def test_camera_without_a_defined_upper_side_is_refused(target: list[float], tmp_path: Path) -> None:
    said = _refusal("scene", tmp_path, camera__position=[0.6, 0.1, 0.9], camera__target=target)
    assert "straight up or down" in said
    assert "sideways" in said


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("jpeg_quality", 0, 100),
        ("shadows", 0, 1.5),
        ("blur", -1, 1),
        ("camera_latency", -0.1, 0),
        ("gamma", 0, 1),
        ("distractors", 0, 1e9),
        ("distractors", 0.5, 2),
    ],
)
def test_a_profile_outside_a_parameters_bounds_is_refused(name: str, low: float, high: float, tmp_path: Path) -> None:
    said = _refusal("profile", tmp_path, **{name: {"low": low, "high": high, "unit": PARAMETERS[name].unit}})
    assert f"{name} is {low:g} to {high:g}" in said
    assert "expected" in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("camera__exposure", [1.0, -1.0]),
        ("timing__camera_latency", -0.1),
        ("timing__dropped_frames", 2),
        ("camera__gamma", 0),
    ],
)
def test_a_room_outside_a_fields_bounds_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    assert field.replace("__", ".") in _refusal("room", tmp_path, **{field: value})
