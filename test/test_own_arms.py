"""Tests of an arm given as a file: its name, content and task values, and the limits that a bundle accepts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import load_or_skip
from fixture_bundle import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from rlfp_ros import paths, plugins
from rlfp_ros.contract import load_bundle, write_bundle
from rlfp_ros.control.arm import ARMS, LIMITS, Arm, differences, load_arm, read_arm
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.control.trained_arm import choose_arm, trained_arm, wider_limits
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.urdf import read_urdf

SHIPPED = paths.share_directory() / "config" / "arms"
PANDA, FR3 = load_arm("panda"), load_arm("fr3")


def own_file(folder: Path, file_name: str, of: str = "panda", **changes: Any) -> Path:
    """A copy of a shipped arm's file with changed fields; a dotted name reaches into a section."""
    document = yaml.safe_load((SHIPPED / f"{of}.yaml").read_text())
    for field, value in changes.items():
        section, _, key = field.rpartition("__")
        (document[section] if section else document)[key] = value
    path = folder / f"{file_name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_file_that_takes_a_shipped_arms_name_with_other_limits_is_refused(tmp_path: Path) -> None:
    slow = own_file(tmp_path, "panda_slow", limits__velocity=[0.2] * 7)
    with pytest.raises(ConfigurationError) as refused:
        load_arm(slow)
    assert str(refused.value) == (
        f"{slow}: name is 'panda', which is the name of config/arms/panda.yaml, but limits.velocity differs; give this "
        "arm a name of its own, for example 'panda_slow'"
    )
    with pytest.raises(ConfigurationError, match=r"limits.velocity differs"):
        ManipulationEnv("reach", str(slow), "none", "state")
    assert (
        load_arm(own_file(tmp_path, "panda_slow", name="panda_slow", limits__velocity=[0.2] * 7)).name == "panda_slow"
    )


def test_the_same_content_under_another_path_is_the_same_arm(tmp_path: Path) -> None:
    copy = load_arm(own_file(tmp_path, "copied"))
    assert copy.digest == PANDA.digest
    assert not differences(copy, PANDA)
    other = load_arm(own_file(tmp_path, "mine", name="mine"))
    assert other.digest != PANDA.digest


@pytest.mark.parametrize("name", ["", "two words", "../up", "a/b", "x" * 65])
def test_a_name_that_cannot_be_part_of_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name is"):
        load_arm(own_file(tmp_path, "mine", name=name))


def test_messages_name_the_file_of_the_arm(tmp_path: Path) -> None:
    assert PANDA.origin == "config/arms/panda.yaml"
    path = own_file(tmp_path, "mine", name="mine", urdf="missing.urdf")
    with pytest.raises(ConfigurationError, match=rf"{path}: urdf is 'missing.urdf', but there is no such file beside"):
        _ = load_arm(path).urdf_path
    with pytest.raises(
        ConfigurationError, match=r"none.yaml: no such file; give the YAML file of an arm, or a name: fr3"
    ):
        load_arm(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match=r"octopus.*it has: fr3, .*--plugin FILE"):
        load_arm("octopus")


def test_a_urdf_is_found_beside_the_arms_file_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.urdf").write_bytes(FR3.urdf_path.read_bytes())
    path = own_file(tmp_path, "mine", of="fr3", name="mine", urdf="my.urdf")
    monkeypatch.chdir("/")
    assert load_arm(path).urdf_path == (tmp_path / "my.urdf").resolve()


def test_a_plugin_registers_an_arm_by_file_or_as_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_file(tmp_path, "plugged_arm", name="plugged_arm", limits__velocity=[0.5] * 7)
    plugin = tmp_path / "arms_plugin.py"
    plugin.write_text(
        "from pathlib import Path\nfrom rlfp_ros.control.arm import ARMS, load_arm\n"
        "ARMS.add('plugged_arm', Path(__file__).with_name('plugged_arm.yaml'))\n"
        "ARMS.add('plugged_object', load_arm('panda').model_copy(update={'name': 'plugged_object'}))\n"
        "ARMS.add('plugged_wrong', load_arm('panda'))\n"
    )
    monkeypatch.setenv(plugins.VARIABLE, os.fspath(plugin))
    try:
        assert load_arm("plugged_arm").limits.velocity == (0.5,) * 7
        assert load_arm("plugged_object").limits == PANDA.limits
        assert not differences(load_arm(path), load_arm("plugged_arm"))
        with pytest.raises(ConfigurationError, match="name is 'panda', but the arm is registered as 'plugged_wrong'"):
            load_arm("plugged_wrong")
    finally:
        for name in ("plugged_arm", "plugged_object", "plugged_wrong"):
            ARMS.remove(name)


# --- values for tasks and the scene ----------------------------------------------------------------------------------


def test_the_camera_is_the_same_for_an_arm_by_name_by_path_and_in_the_environment(tmp_path: Path) -> None:
    """An encoder that was trained on one camera saw another in the environment if the arm was given as a path."""
    load_or_skip("so101")
    by_name = load_scene(image_size=84, arm=load_arm("so101")).camera
    by_path = load_scene(image_size=84, arm=load_arm(SHIPPED / "so101.yaml")).camera
    env = ManipulationEnv("reach", str(SHIPPED / "so101.yaml"), "none", "state", image_size=84)
    place = env.world.camera.contract.T_base_camera.xyz
    env.close()
    assert by_name == by_path
    assert place == pytest.approx(by_name.position)


def test_an_arms_own_values_for_tasks_and_camera_win(tmp_path: Path) -> None:
    own = {"reach": {"success_distance": 0.05, "region": {"lower": [0.4, -0.1], "upper": [0.5, 0.1]}}}
    camera = {"position": [0.9, 0.2, 0.5], "target": [0.4, 0.0, 0.1]}
    arm = load_arm(own_file(tmp_path, "mine", name="mine", tasks=own, camera=camera))
    task = load_task("reach")
    task.fit_to(arm)
    assert task.settings.success_distance == 0.05
    assert task.settings.region.upper == (0.5, 0.1)
    assert load_scene(arm=arm).camera.position == (0.9, 0.2, 0.5)
    wrong = load_arm(own_file(tmp_path, "wrong", name="wrong", tasks={"reach": {"colour": "red"}}))
    with pytest.raises(ConfigurationError, match=r"wrong.yaml: tasks.reach: colour is not a known field"):
        load_task("reach").fit_to(wrong)


def test_an_own_arm_with_a_pointer_needs_no_second_file(tmp_path: Path) -> None:
    """A rod cannot get nearer to a block's centre than the block's surface; the shipped arms' files say 3 cm."""
    load_or_skip("xarm6")
    task = load_task("reach")
    task.fit_to(load_arm(own_file(tmp_path, "mine", of="xarm6", name="mine")))
    assert task.settings.success_distance == pytest.approx(0.03)
    shipped = load_task("reach")
    shipped.fit_to(load_arm("xarm6"))
    assert shipped.settings == task.settings.model_copy(update={"arms": shipped.settings.arms})


@pytest.mark.parametrize("name", ["reach", "push"])
def test_regions_of_a_small_own_arm_are_placed_in_its_tool_box(name: str, tmp_path: Path) -> None:
    load_or_skip("so101")
    arm = load_arm(own_file(tmp_path, "mine", of="so101", name="mine"))
    task = load_task(name)
    task.fit_to(arm)
    for region in task.settings.regions().values():
        assert (np.array(region.lower) > arm.tool_limits.lower[:2]).all()
        assert (np.array(region.upper) < arm.tool_limits.upper[:2]).all()
    camera, shipped = load_scene(arm=arm).camera, load_scene(arm=load_arm("so101")).camera
    near = [np.linalg.norm(np.subtract(each.position, each.target)) for each in (camera, shipped)]
    assert near[0] == pytest.approx(near[1], rel=0.3)
    again = task.settings
    task.fit_to(arm)
    assert task.settings == again


# --- the arm of a bundle ---------------------------------------------------------------------------------------------


def bundle_with(folder: Path, arm: Arm, arm_name: str = "panda") -> Path:
    """The fixture's bundle, made to carry `arm`."""
    plain = load_bundle(make_bundle(folder / "plain", arm_name=arm_name).directory)
    files = {name: plain.file(name).read_bytes() for name in plain.contract.files}
    return write_bundle(folder / "carrying", plain.contract, files | carried_files(arm)).directory


def scaled(arm: Arm, factor: float) -> Arm:
    """The arm with every limit allowed `factor` times as much."""
    limits, tool = arm.limits, arm.tool_limits
    middle = 0.5 * (np.array(limits.lower) + np.array(limits.upper))
    half = 0.5 * (np.array(limits.upper) - np.array(limits.lower)) * factor
    changed = {name: tuple(factor * value for value in getattr(limits, name)) for name in LIMITS[2:]}
    changed |= {"lower": tuple(middle - half), "upper": tuple(middle + half)}
    return arm.model_copy(
        update={
            "limits": limits.model_copy(update=changed),
            "tool_limits": tool.model_copy(update={"speed": factor * tool.speed}),
        }
    )


@given(factor=st.floats(0.05, 20.0), index=st.integers(0, 6), field=st.sampled_from(LIMITS))
@settings(max_examples=200, deadline=None)
def test_one_limit_of_one_joint_is_wider_exactly_if_it_allows_more(factor: float, index: int, field: str) -> None:
    values = list(getattr(PANDA.limits, field))
    outward = -1.0 if field == "lower" else 1.0
    values[index] += outward * abs(values[index]) * (factor - 1.0)
    arm = PANDA.model_copy(update={"limits": PANDA.limits.model_copy(update={field: tuple(values)})})
    change = outward * (values[index] - getattr(PANDA.limits, field)[index])
    assert bool(list(wider_limits(arm, PANDA))) == (change > 2e-9 * max(1, abs(values[index])) or change > 1e-8)
    assert not (list(wider_limits(arm, PANDA)) and list(wider_limits(PANDA, arm)))


@pytest.mark.parametrize(
    "changes",
    [
        {"limits__velocity": [5.0] + [0.1] * 6},
        {"limits__upper": [2.9, 2.0, 2.0, -0.1, 2.0, 3.0, 2.0]},
        {"tool_limits__speed": 0.6},
        {"tool_limits__angular_speed": 1.6},
        {"tool_limits__lower": [0.2, -0.35, 0.014]},
        {"tool_limits__upper": [0.75, 0.35, 0.7]},
        {"gripper__effort": 50.0},
        {"gripper__open_width": 0.1},
    ],
)
def test_an_arm_with_any_wider_limit_is_refused_by_the_bundle(changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = load_bundle(bundle_with(tmp_path, PANDA))
    wide = own_file(tmp_path, "wide", name="wide", **changes)
    with pytest.raises(ConfigurationError, match=r"wide.yaml: wider than in the training of carrying: ") as refused:
        choose_arm(bundle, wide)
    assert next(iter(changes)).split("__")[1] in str(refused.value)


def test_an_arm_without_the_speed_limits_near_the_ends_is_wider() -> None:
    bare = FR3.model_copy(update={"limits": FR3.limits.model_copy(update={"velocity_near_ends": None})})
    assert list(wider_limits(bare, FR3)) == ["limits.velocity_near_ends is missing"]
    assert not list(wider_limits(FR3, bare))


def test_a_bundle_runs_with_the_limits_of_training_and_reports_narrower_ones(tmp_path: Path) -> None:
    """Limits of 0.2 rad/s in training became 2.175 rad/s when the bundle ran."""
    slow = load_arm(own_file(tmp_path, "panda_slow", name="panda_slow", limits__velocity=[0.2] * 7))
    bundle = load_bundle(bundle_with(tmp_path, slow))
    assert trained_arm(bundle).limits.velocity == (0.2,) * 7
    assert choose_arm(bundle, None).limits.velocity == (0.2,) * 7
    with pytest.raises(
        ConfigurationError, match=r"config/arms/panda.yaml: wider .* limits.velocity of panda_joint1 is"
    ):
        choose_arm(bundle, "panda")
    remarks: list[str] = []
    slower = own_file(tmp_path, "slower", name="slower", limits__velocity=[0.1] * 7, table_height=0.1)
    assert choose_arm(bundle, slower, remarks.append).limits.velocity == (0.1,) * 7
    assert "narrower than in training: limits.velocity of panda_joint1 is 0.2 instead of 0.1" in remarks[0]
    assert "not as in training: table_height" in remarks[1]


def test_a_bundle_refuses_an_arm_with_other_joints(tmp_path: Path) -> None:
    bundle = load_bundle(bundle_with(tmp_path, PANDA))
    with pytest.raises(
        ConfigurationError, match=r"arm is 'fr3' .* was trained for arm 'panda': joint_names is fr3_joint1"
    ):
        choose_arm(bundle, "fr3")


def test_a_bundle_carries_the_urdf_of_an_own_arm(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    urdf = home / "my.urdf"
    urdf.write_bytes(FR3.urdf_path.read_bytes())
    arm = load_arm(own_file(home, "mine", of="fr3", name="mine", urdf="my.urdf"))
    files = carried_files(arm)
    assert set(files) == {"arm.yaml", "arm.urdf"}
    moved = tmp_path / "moved"
    moved.mkdir()
    for name, content in files.items():
        (moved / name).write_bytes(content)
    urdf.unlink()
    carried = read_arm(moved / "arm.yaml")
    assert not differences(carried, arm.model_copy(update={"urdf": str(moved / "arm.urdf")}))
    assert carried.urdf_path == (moved / "arm.urdf").resolve()
    assert set(carried_files(PANDA)) == {"arm.yaml"}
    assert set(carried_files(FR3)) == {"arm.yaml"}


@pytest.mark.parametrize("name", ["meshes/", "package://my_description/meshes/"])
def test_meshes_near_an_own_urdf_are_found_from_the_bundles_copy(name: str, tmp_path: Path) -> None:
    """A training ended with an error because the copy in its run folder named meshes relative to the original."""
    home = tmp_path / "my description"
    home.mkdir()
    (home / "meshes").symlink_to(PANDA.urdf_path.parent / "meshes" / "collision")
    text = FR3.urdf_path.read_text()
    prefix = text.partition('<mesh filename="')[2].partition("link0")[0]
    (home / "my.urdf").write_text(text.replace(prefix, name))
    arm = load_arm(own_file(home, "mine", of="fr3", name="mine", urdf="my.urdf"))
    bundle = load_bundle(bundle_with(tmp_path, arm, arm_name="fr3"))
    trained = trained_arm(bundle)
    assert trained.urdf_path.parent == bundle.directory
    expected, found = ([mesh.get("filename") for mesh in read_urdf(each).iter("mesh")] for each in (arm, trained))
    assert found == expected
    assert differences(trained, arm) == []
    assert carried_files(trained) == carried_files(arm)
