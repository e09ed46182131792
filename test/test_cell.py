"""Tests of cells: the file, the arm in it, what simulators draw of it, and the refusal of a bundle for another cell."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import yaml

from rlfp_ros.cli import main
from rlfp_ros.commissioning import cell_check
from rlfp_ros.commissioning.cell_file import set_camera
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import Arm, find_cell, load_arm, read_arm, read_cell
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import in_cell
from rlfp_ros.learning.cell import load_cell
from rlfp_ros.perception.camera_info_file import load_camera_info
from rlfp_ros.perception.extrinsics import is_estimated, load_extrinsics
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import Moved, load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "cells").glob("*.yaml"))
BUNDLE = load_bundle("reach_panda")


def write(path: Path, cell: str = "side", **changes: Any) -> Path:
    """Write a shipped cell with other fields; a dotted name is a field of the camera or of the object."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "cells" / f"{cell}.yaml").read_text())
    for name, value in changes.items():
        part, _, field = name.partition("__")
        places = {"camera": document["camera"], "object": document["objects"][0], "": document}
        places[part if field else ""][field or name] = value
    path.write_text(yaml.safe_dump(document))
    return path


def at_our_camera(path: Path, **changes: Any) -> Path:
    """Write a cell whose camera and object are those of the shipped bundle."""
    place = BUNDLE.contract.camera.T_base_camera.model_dump(mode="json")
    return write(path, camera__T_base_camera=place, **changes)


def middle_of_hue(image: np.ndarray, hue_deg: float) -> np.ndarray:
    """Return the mean pixel [2] of the parts of an image that have this hue and are clearly coloured."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    apart = np.abs((2 * hsv[..., 0] - hue_deg + 180) % 360 - 180)
    rows, columns = np.nonzero((apart < 25) & (hsv[..., 1] > 120))
    assert len(rows) > 5, f"nothing of hue {hue_deg:g} in the image"
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_object_has_its_colour_where_the_cell_s_camera_projects_it_in_both_simulators(name: str) -> None:
    arm = load_arm(find_cell(name))
    assert arm.workspace is not None
    load_cell("reach", str(find_cell(name)), "train")  # it can be trained
    hue = arm.workspace.object.hue
    for kind, conditions in ((PybulletWorld, load_profile("none")), (MujocoWorld, load_room("twin_near"))):
        task, make = load_task("reach"), cast(Any, kind)
        world = make(arm, task, conditions, load_scene(arm=arm))
        world.reset(3)
        world.move_arm(np.array(arm.home) + np.array([1.4, *[0.0] * (len(arm.home) - 1)]), 0.0)  # out of the way
        image, pixel = world.render(), world.camera.project(task.object_pose(world)[0][None])[0]
        camera = BUNDLE.contract.model_copy(update={"camera": load_scene(arm=arm).camera.contract()})
        K = camera.camera.intrinsics.matrix()
        if world.calibration is not None:  # the twin draws the live camera's image
            ray = world.calibration.rays(pixel[None])[0]
            image, pixel = Preprocessor(camera)(image, world.calibration), (K @ [*ray, 1.0])[:2]
        world.close()
        assert np.abs(middle_of_hue(image, hue) - pixel).max() < 2.5, kind


def test_a_policy_sees_the_view_and_not_the_whole_image(tmp_path: Path) -> None:
    arm = load_arm(find_cell("side"))
    assert arm.workspace is not None
    camera, view = load_scene(image_size=60, arm=arm).camera.contract(), arm.workspace.camera.view
    assert view is not None
    points = view.corners() @ np.linalg.inv(camera.T_base_camera.matrix())[:3, :3].T
    points = points + np.linalg.inv(camera.T_base_camera.matrix())[:3, 3]
    pixels = (points / points[:, 2:]) @ camera.intrinsics.matrix().T
    assert (pixels[:, :2] > -0.5).all()
    assert (pixels[:, :2] < 59.5).all()
    assert np.ptp(pixels[:, :2], axis=0).max() > 50, "the view fills the image"
    away = write(tmp_path / "away.yaml", camera__T_base_camera={"xyz": [0.45, 1.25, 0.55]})  # it looks up
    with pytest.raises(ConfigurationError, match=r"away\.yaml: the camera does not see camera\.view"):
        load_scene(arm=load_arm(away))


def test_a_cell_that_cannot_be_trained_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    slow = write(tmp_path / "slow.yaml", camera__rate_hz=15.0)
    with pytest.raises(ConfigurationError, match=r"slow\.yaml: camera\.rate_hz is 15, but the policies of reach act"):
        load_cell("reach", str(slow), "none")
    narrow = write(tmp_path / "narrow.yaml", camera__view={"lower": [0.3, -0.1, 0.0], "upper": [0.5, 0.1, 0.1]})
    with pytest.raises(ConfigurationError, match=r"narrow\.yaml: the policy's image does not show .* region of reach"):
        load_cell("reach", str(narrow), "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": {"centre": [0.4, 0.0, 0.0], "size": [1.0, 1.0, 0.04]}}, r"table has its top at z = 0\.0200 m"),
        ({"arm": "nothing"}, r"arm is 'nothing': config/arms/ has no 'nothing'"),
        ({"object__mesh": "cup.step"}, r"mesh is 'cup\.step', expected an \.obj or \.stl file"),
        ({"object__mesh": "cup.obj"}, r"objects\.0\.mesh is .*, but there is no file"),
        ({"object__hue_deg": [20, 10]}, r"hue_deg has low 20\.0 above high 10\.0"),
        ({"camera__lens": 1}, r"camera\.lens is not a known field"),
        ({"camera__view": {"lower": [0, 0, 0], "upper": [1, 1, 0]}}, r"lower is 0\.0 and upper is 0\.0 in z"),
        ({"tasks": {"reach": {"colour": 1}}}, r"tasks\.reach: colour is not a known field"),
    ],
)
def test_a_wrong_field_is_named_with_the_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.yaml", **changes)
    with pytest.raises(ConfigurationError, match=rf"wrong\.yaml.*{message}"):
        load_cell("reach", str(path), "none")


# --- a bundle for another cell ----------------------------------------------------------------------------------------


def test_a_bundle_is_accepted_in_the_cell_that_it_was_trained_for(tmp_path: Path) -> None:
    path = at_our_camera(tmp_path / "ours.yaml")
    assert choose_arm(BUNDLE, path).workspace is not None
    assert np.allclose(load_extrinsics(path, BUNDLE.contract.camera), BUNDLE.contract.camera.T_base_camera.matrix())
    assert is_estimated(path)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"object__size": [0.05, 0.05, 0.05]}, r"size is \(0\.05, 0\.05, 0\.05\) m, in training \(0\.035, "),
        ({"object__hue_deg": [205, 245]}, "hue is 225 degrees, in training 0 degrees"),
        ({"object__mesh": "pybullet_data:cube.obj"}, "mesh is pybullet_data:cube.obj, in training a box"),
        ({"tasks": {"reach": {"region": {"lower": [0.3, -0.3], "upper": [0.6, 0.2]}}}}, r"region is \(0\.3, -0\.3\)"),
    ],
)
def test_a_bundle_for_another_cell_is_refused_with_what_differs(
    changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    path = at_our_camera(tmp_path / "other.yaml", **changes)
    with pytest.raises(ConfigurationError, match=rf"reach_panda was trained for another cell: [^;]*{difference}"):
        choose_arm(BUNDLE, path)


def test_a_bundle_for_a_camera_elsewhere_is_refused_by_the_launch_command() -> None:
    with pytest.raises(ConfigurationError, match=r"the camera is 1\.\d+ m and \d+\.\d degrees from its place in train"):
        choose_arm(BUNDLE, find_cell("side"))


def test_the_arm_in_a_bundle_carries_its_cell(tmp_path: Path) -> None:
    arm = load_arm(find_cell("mug"))
    for name, data in carried_files(arm).items():
        (tmp_path / name).write_bytes(data)
    carried = read_arm(tmp_path / "arm.yaml")
    assert carried.digest == arm.digest
    assert carried.object_mesh == tmp_path / "object.obj"
    assert load_scene(arm=carried).camera == load_scene(arm=arm).camera


def test_an_arm_without_a_cell_is_what_it_was() -> None:
    arm = load_arm("panda")
    assert "workspace" not in arm.document()  # or the digests in run folders would change
    assert b"workspace" not in carried_files(arm)["arm.yaml"]
    assert arm.label == "panda"


# --- the rest of a cell -----------------------------------------------------------------------------------------------


def test_obstacles_reach_the_safety_controller_and_the_image(tmp_path: Path) -> None:
    post = {"name": "post", "size": [0.05, 0.05, 0.6], "pose": {"xyz": [0.45, 0.5, 0.3]}}
    arm = load_arm(write(tmp_path / "post.yaml", obstacles=[post]))
    names = Distances.with_margins_of(ControllerSettings(), Kinematics(arm)).names
    assert any("obstacle post" in pair for pair in names)
    images = []
    for each in (arm, load_arm(find_cell("side"))):
        env = ManipulationEnv("reach", each, "none")
        images.append(env.reset(seed=1)[0]["image"].astype(int))
        env.close()
    assert (np.abs(images[0] - images[1]).max(axis=-1) > 20).mean() > 0.05, "the post is in view"


def test_nothing_else_has_the_hue_of_the_object(tmp_path: Path) -> None:
    arm = load_arm(write(tmp_path / "blue.yaml", object__hue_deg=[205, 245]))
    env = ManipulationEnv("stack", arm, "train", "state")
    hues = []
    for seed in range(12):
        env.reset(seed=seed)
        parts = env.world.renderer.colours
        objects = {part for part, hue in env.world.bodies.hues.items() if hue.name == "OBJECT"}
        others = set(env.world.bodies.hues) - objects
        own = [colorsys.rgb_to_hsv(*colour)[0] * 360 for part in objects if (colour := parts[part]) is not None]
        assert all(205 - 1 <= hue <= 245 + 1 for hue in own)
        hues += [colorsys.rgb_to_hsv(*colour)[0] * 360 for part in others if (colour := parts[part]) is not None]
    env.close()
    assert hues
    assert min(abs((hue - 225 + 180) % 360 - 180) for hue in hues) > 40


def test_launch_arguments_come_from_the_cell_unless_they_are_given(tmp_path: Path) -> None:
    path = write(tmp_path / "desk.yaml", launch={"camera": "usb_cam", "joint_states_topic": "arm/joint_states"})
    found = in_cell(REAL_ARM, {"cell": str(path), "camera": "realsense"})
    assert found["camera"] == "realsense"
    assert found["joint_states_topic"] == "arm/joint_states"
    assert found["arm"] == found["extrinsics"] == str(path)
    assert "camera_info_file" not in found, "the ROS driver publishes its own"
    own = in_cell(REAL_ARM, {"cell": str(path), "camera": "uvc"})
    assert load_camera_info(own["camera_info_file"]) == read_cell(path).camera.intrinsics
    assert "extrinsics" not in in_cell(REAL_ARM, {"cell": str(path), "use_mock_hardware": True})
    with pytest.raises(ConfigurationError, match="the cell names its arm, leave out arm"):
        in_cell(REAL_ARM, {"cell": str(path), "arm": "panda"})
    with pytest.raises(ConfigurationError, match=r"launch\.bundle is not an argument that a cell may give"):
        in_cell(REAL_ARM, {"cell": str(write(path, launch={"bundle": "x"}))})


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_style", [False, True])
def test_calibrated_values_replace_those_in_the_file_and_keep_its_comments(block_style: bool, tmp_path: Path) -> None:
    path = tmp_path / "desk.yaml"
    path.write_text((ROOT / "cells" / "side.yaml").read_text())
    if block_style:
        path.write_text("# mine\n" + yaml.safe_dump(yaml.safe_load(path.read_text()), default_flow_style=False))
    before = read_cell(path)
    set_camera(path, T_base_camera="{xyz: [1, 2, 3], quaternion_xyzw: [1, 0, 0, 0]}", calibrated='"today: 3 px"')
    after = read_cell(path)
    assert list(after.camera.T_base_camera.xyz) == [1, 2, 3]
    assert after.camera.calibrated == "today: 3 px"
    changed = before.camera.model_copy(
        update={"T_base_camera": after.camera.T_base_camera, "calibrated": after.camera.calibrated}
    )
    assert after == before.model_copy(update={"camera": changed})
    assert not is_estimated(path)
    assert path.read_text().count("#") == (1 if block_style else (ROOT / "cells" / "side.yaml").read_text().count("#"))


def test_a_new_cell_asks_on_a_terminal_and_names_a_missing_option_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cell", "new", "desk"]) == 2
    assert "--camera-position is missing" in capsys.readouterr().err
    answers = iter(["so101", "0.5 0.25 0.33", "", "1280x720", "wide"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main(["cell", "new", "desk"]) == 2
    assert "--field-of-view is 'wide', expected a number" in capsys.readouterr().err
    answers = iter(["so101", "0.5 0.25 0.33", "", "1280x720", "70", "", "green"])
    assert main(["cell", "new", "desk"]) == 0
    assert "./rlfp cell check cells/desk.yaml" in capsys.readouterr().out
    arm = load_arm(tmp_path / "cells" / "desk.yaml")
    assert arm.workspace is not None
    assert (arm.name, arm.label, arm.workspace.camera.intrinsics.image_width) == ("so101", "desk", 1280)
    reach = load_task("reach")
    reach.fit_to(load_arm("so101"))
    assert arm.workspace.object.size == pytest.approx(reach.settings.block_size)
    load_cell("reach", "cells/desk.yaml", "none")
    assert main(["cell", "new", "desk"]) == 2
    assert "exists already" in capsys.readouterr().err


def recorded(arm: Arm, tmp_path: Path) -> tuple[Path, list[float]]:
    """Write an image of the twin's camera, which stands where the cell says; return it with the joints."""
    room = load_room("twin_near")
    room = room.model_copy(update={"camera": room.camera.model_copy(update={"moved": Moved()})})
    world = MujocoWorld(arm, load_task("reach"), room, load_scene(arm=arm))
    world.reset(2)
    joints = [*arm.home[:-1], arm.home[-1] + 0.2]
    world.move_arm(np.array(joints), 0.06)
    image = tmp_path / "seen.png"
    cv2.imwrite(str(image), world.render()[..., ::-1])
    world.close()
    return image, joints


def error_px(text: str) -> float:
    return float(" ".join(text.split()).split("misses by ")[1].split(" px")[0])


def test_check_measures_the_error_of_the_arm_s_outline_in_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "desk.yaml", "so101_desk")
    arm = load_arm(path)
    image, joints = recorded(arm, tmp_path)
    words = ["cell", "check", str(path), "--image", str(image), "--meshes", "collision"]
    assert main([*words, "--out", str(tmp_path / "drawn.png"), "--joints", *map(str, joints)]) == 0
    assert error_px(capsys.readouterr().out) < 3.0
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert drawn is not None
    assert drawn.shape[1] == 2 * cell_check.TILE
    place = yaml.safe_load(path.read_text())["camera"]["T_base_camera"]
    place["xyz"][0] += 0.03
    moved = load_arm(write(path, "so101_desk", camera__T_base_camera=place))
    seen = cell_check.from_image(moved, image, joints)
    assert error_px(cell_check.draw(moved, "reach", seen, tmp_path / "drawn.png", "collision")) > 8.0
    with pytest.raises(ConfigurationError, match="--joints has 1 values, expected 5"):
        cell_check.from_image(arm, image, [0.0])
