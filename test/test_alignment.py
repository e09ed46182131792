"""Tests of `align`: the measured offset against a known error, on images of MuJoCo with a known camera pose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import load_or_skip
from fixture_bundle import make_bundle
from image_file import read_image

from rlfp_ros import cli
from rlfp_ros.commissioning.align import Alignment, align, write_overlays
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.extrinsics import pose_difference
from rlfp_ros.recording.snapshots import Snapshot
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ROOT = Path(__file__).resolve().parents[1]
ARM = load_arm("panda")


@pytest.fixture(scope="module")
def live() -> tuple[list[Snapshot], np.ndarray]:
    """Four postures in the twin's room, with lens, noise, shadows and table, and the camera's true place."""
    room = load_room("twin_near")
    room = room.model_copy(update={"camera": room.camera.model_copy(update={"width": 480, "height": 360})})
    world = MujocoWorld(ARM, load_task("reach"), room, load_scene())
    world.reset(2)
    rng, snapshots = np.random.default_rng(4), []
    for _ in range(4):
        joints = np.array(ARM.home) + rng.uniform(-0.3, 0.3, 7)
        world.move_arm(joints, 0.04)
        state = JointState(0, joints, np.zeros(7), np.zeros(7), 0.04)
        snapshots.append(Snapshot(0, world.render(), world.camera.model, state))
    truth = world.camera.T_base_camera.copy()
    world.close()
    return snapshots, truth


@pytest.fixture(scope="module")
def renderer() -> Iterator[ArmRenderer]:
    made = ArmRenderer(ARM, meshes="collision")  # what the twin shows
    yield made
    made.close()


def moved(T: np.ndarray, v: tuple[float, ...], degrees: tuple[float, ...]) -> np.ndarray:
    change = np.eye(4)
    change[:3, :3], change[:3, 3] = cv2.Rodrigues(np.radians(degrees))[0], v
    return T @ change


def true_error_px(snapshots: list[Snapshot], truth: np.ndarray, given: np.ndarray) -> float:
    """Mean distance in the images of points on the arm, drawn from the two places."""
    from rlfp_ros.control.kinematics import Kinematics

    kinematics, distances = Kinematics(ARM), []
    for snapshot in snapshots:
        assert snapshot.joints is not None
        assert snapshot.camera is not None
        points = kinematics.tool_position(snapshot.joints.positions)[None] + np.array([[0.0, 0, 0], [-0.1, 0, 0.15]])
        ends = [snapshot.camera.project(points, np.linalg.inv(T)) for T in (truth, given)]
        distances.append(np.linalg.norm(ends[0] - ends[1], axis=1))
    return float(np.mean(distances))


def test_renderer_draws_the_arm_where_the_camera_model_projects_it(renderer: ArmRenderer) -> None:
    from rlfp_ros.control.kinematics import Kinematics

    K = np.array([[300.0, 0, 150.0], [0, 310.0, 110.0], [0, 0, 1]])  # off-centre on purpose
    camera = CameraModel(320, 240, K)
    T = load_scene().camera.contract().T_base_camera.matrix()
    drawn = renderer(camera, T, np.array(ARM.home), 0.04)
    tool = Kinematics(ARM).tool_position(np.array(ARM.home))
    u, v = camera.project(tool[None], np.linalg.inv(T))[0]
    near = drawn.mask[round(v) - 8 : round(v) + 9, round(u) - 8 : round(u) + 9]
    assert near.sum() > 10, "no part of the hand is near the tool's centre point"
    y, x = (np.argwhere(drawn.mask)[0]).tolist()
    ray = np.array([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], 1.0]) * drawn.depth[y, x]
    assert 0.0 < (T[:3, :3] @ ray + T[:3, 3])[2] < 1.5, "depth says that the arm's highest visible point is in the air"


def test_true_place_has_a_small_error(live: tuple[list[Snapshot], np.ndarray], renderer: ArmRenderer) -> None:
    snapshots, truth = live
    found = align(snapshots, renderer, truth)
    assert found.error_px < 1.5, found
    assert found.left_px < 1.5, found


@pytest.mark.parametrize(
    ("v", "degrees"),
    [((0.02, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.01, 0.0), (1.0, -1.0, 1.0))],
    ids=["2 cm", "turned"],
)
def test_error_is_that_of_the_given_place(
    live: tuple[list[Snapshot], np.ndarray], renderer: ArmRenderer, v: tuple[float, ...], degrees: tuple[float, ...]
) -> None:
    snapshots, truth = live
    given = moved(truth, v, degrees)
    found: Alignment = align(snapshots, renderer, given)
    expected = true_error_px(snapshots, truth, given)
    assert expected > 5.0
    assert found.error_px == pytest.approx(expected, rel=0.35)
    distance, angle = pose_difference(found.T_base_camera, truth)
    assert distance < 0.01, found
    assert np.degrees(angle) < 0.6, found


def test_an_arm_out_of_view_gives_one_sentence(live: tuple[list[Snapshot], np.ndarray], renderer: ArmRenderer) -> None:
    snapshots, truth = live
    with pytest.raises(ConfigurationError, match="bring the arm into view"):
        align(snapshots[:1], renderer, moved(truth, (0.0, 0.0, 0.0), (0.0, 120.0, 0.0)))


def test_overlays_show_the_outline(
    live: tuple[list[Snapshot], np.ndarray], renderer: ArmRenderer, tmp_path: Path
) -> None:
    snapshots, truth = live
    (path,) = write_overlays([replace(snapshots[0])], renderer, truth, tmp_path)
    image = read_image(path)
    assert image.shape == (360, 480, 3)
    assert (image == (60, 220, 40)).all(axis=-1).sum() > 100  # BGR of the outline


@pytest.mark.graph
def test_live_arm_is_aligned_while_it_stands(
    start_node: Callable[..., Any], test_node: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = test_node.listen(m.IMAGE)
    start_node("arm_twin", {"bundle": "reach_panda"})
    test_node.spin_until(lambda: len(images) > 3, 30.0, "images")
    arguments = ["align", "--meshes", "collision", "--out", str(tmp_path), "transport:=local"]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert "the outline of panda misses by" in capsys.readouterr().out.replace("\n", " ")
    assert cli.main(["align", "--out", str(tmp_path), "image=x"]) == 2
    assert "write image:=x" in capsys.readouterr().err


@pytest.mark.graph
def test_live_arm_that_is_given_as_a_file_is_aligned(
    start_node: Callable[..., Any], test_node: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ROOT / "examples" / "my_arm" / "my_arm.yaml"
    load_or_skip(file)
    bundle = make_bundle(tmp_path, arm_name=str(file)).directory
    images = test_node.listen(m.IMAGE)
    start_node("arm_twin", {"bundle": str(bundle), "arm": str(file)})
    test_node.spin_until(lambda: len(images) > 3, 30.0, "images")
    arguments = ["align", "--bundle", str(bundle), "--arm", str(file), "--meshes", "collision", "--out", str(tmp_path)]
    assert cli.main([*arguments, "transport:=local"]) == 0, capsys.readouterr().err
    assert "the outline of my_arm misses by" in capsys.readouterr().out.replace("\n", " ")
