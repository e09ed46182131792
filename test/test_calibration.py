"""Tests of the calibration of lens and camera pose, from rendered images of a board with a known pose."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from conftest import load_or_skip
from sensor_msgs.msg import CameraInfo, Image
from written_bag import write_bag

from rlfp_ros import cli
from rlfp_ros.commissioning.board import (
    Board,
    View,
    calibrate_camera,
    calibrate_hand_eye,
    write_camera_info,
)
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.graph import live_bag
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.extrinsics import load_extrinsics, pose_difference, write_extrinsics
from rlfp_ros.recording.snapshots import read_snapshots, standing_snapshots
from rlfp_ros.schema import ConfigurationError

CHARUCO = Board(columns=7, rows=5, square=0.03, marker=0.022)
CHECKERBOARD = Board(columns=8, rows=6, square=0.025)
CAMERA = CameraModel(
    640,
    480,
    np.array([[610.0, 0, 322.0], [0, 605.0, 236.0], [0, 0, 1]]),
    np.array([-0.12, 0.05, 0.001, -0.0005, 0.0]),
)
SQUARE_PX = 60
ROOT = Path(__file__).resolve().parents[1]
ARM = load_arm("panda")


FINE = 2  # samples along each side of a pixel


@functools.cache
def rays(camera: CameraModel) -> np.ndarray:
    """Where each sample of the distorted image looks, [N, 3] in the optical frame."""
    u, v = np.meshgrid(
        (np.arange(camera.width * FINE) + 0.5) / FINE - 0.5, (np.arange(camera.height * FINE) + 0.5) / FINE - 0.5
    )
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    plane = cv2.undistortPoints(pixels, camera.K, camera.distortion).reshape(-1, 2)
    return np.column_stack([plane, np.ones(len(plane))])


def render(board: Board, T_camera_board: np.ndarray, camera: CameraModel, rng: np.random.Generator) -> np.ndarray:
    """What the camera sees of the board on a grey wall: rays through the distorted lens, blur, noise. uint8 rgb."""
    image = board.image(SQUARE_PX)
    T = np.linalg.inv(T_camera_board)
    directions = rays(camera) @ T[:3, :3].T
    distance = -T[2, 3] / directions[:, 2]
    places = directions[:, :2] * distance[:, None] + T[:2, 3]
    # The image's corner lies one square before the board's, and pixel centres are at integers.
    texels = ((places / board.square + 1) * SQUARE_PX - 0.5).astype(np.float32)
    texels = texels.reshape(camera.height * FINE, camera.width * FINE, 2)
    if not board.marker:
        texels += SQUARE_PX  # its frame begins at the first inner corner
    image = cv2.remap(image, texels[..., 0], texels[..., 1], cv2.INTER_LINEAR, borderValue=128)
    image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), 0.7).astype(float) + rng.normal(0, 2, image.shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(np.asarray(rotation, dtype=float))[0], translation
    return T


def views_of(board: Board, rng: np.random.Generator, count: int = 7) -> list[View]:
    """The board before the camera, in all corners of the image."""
    half = np.array([board.columns, board.rows, 0]) * board.square / 2
    views: list[View] = []
    while len(views) < count:
        turn = rng.uniform(-0.5, 0.5, 3)
        centre = rng.uniform([-0.13, -0.09, 0.42], [0.13, 0.09, 0.6])
        T = pose(turn, np.zeros(3))
        T[:3, 3] = centre - T[:3, :3] @ half
        view = board.find(render(board, T, CAMERA, rng))
        if view is not None:
            views.append(view)
    return views


@pytest.mark.parametrize("board", [CHARUCO, CHECKERBOARD], ids=["charuco", "checkerboard"])
def test_intrinsics_are_recovered_from_rendered_boards(board: Board, tmp_path: Path) -> None:
    found = calibrate_camera(views_of(board, np.random.default_rng(3)), CAMERA.width, CAMERA.height)
    assert found.rms_px < 0.5
    np.testing.assert_allclose(np.diag(found.camera.K)[:2], np.diag(CAMERA.K)[:2], rtol=0.01)
    np.testing.assert_allclose(found.camera.K[:2, 2], CAMERA.K[:2, 2], atol=5.0)
    # Lens coefficients trade off against each other; what counts is where pixels look.
    grid = np.stack(np.meshgrid(np.linspace(60, 580, 7), np.linspace(50, 430, 5)), axis=-1).reshape(-1, 1, 2)
    truth = cv2.undistortPoints(grid, CAMERA.K, CAMERA.distortion)
    mine = cv2.undistortPoints(grid, found.camera.K, found.camera.distortion)
    assert np.abs(truth - mine).max() * CAMERA.K[0, 0] < 6.0
    write_camera_info(tmp_path / "camera.yaml", found, "wrist")
    document = yaml.safe_load((tmp_path / "camera.yaml").read_text())
    assert (document["image_width"], document["image_height"]) == (640, 480)
    assert document["camera_matrix"]["data"][0] == pytest.approx(found.camera.K[0, 0])
    assert document["distortion_coefficients"]["cols"] == 5


class Holder(NamedTuple):
    """An arm with a board on its tool, and a posture in which the board faces a camera in front of it, rad."""

    arm: Arm
    middle: np.ndarray

    def tool(self, joints: np.ndarray) -> np.ndarray:
        """Return the tool's pose [4, 4]."""
        return Kinematics(self.arm).forward(joints)


PANDA = Holder(ARM, np.array([0.0, -0.3, 0.0, -2.3, 0.0, 3.2, 0.785]))
T_TOOL_BOARD = pose(np.array([0.1, 0.0, 1.5]), np.array([-0.08, 0.06, 0.03]))


def postures(holder: Holder, T_base_camera: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return joints [7] rad, and what the camera renders of the board there."""
    taken, rng, limits = [], np.random.default_rng(5), holder.arm.limits
    for _ in range(400):
        joints = holder.middle + rng.uniform(-1, 1, 7) * np.array([0.35, 0.2, 0.3, 0.25, 0.5, 0.4, 0.5])
        tool = holder.tool(np.clip(joints, limits.lower, limits.upper))
        T_camera_board = np.linalg.inv(T_base_camera) @ tool @ T_TOOL_BOARD
        if not 0.3 < T_camera_board[2, 3] < 1.2 or T_camera_board[2, 2] < 0.5:
            continue
        image = render(CHARUCO, T_camera_board, CAMERA, rng)
        view = CHARUCO.find(image)
        if view is not None and len(view.pixels) > 12:
            taken.append((joints + rng.normal(0, 2e-4, 7), image))  # what the encoders say
        if len(taken) == count:
            return taken
    raise AssertionError(f"the board was seen in {len(taken)} postures only")


def camera_place(holder: Holder = PANDA) -> np.ndarray:
    """Return the place of a camera in front of the arm that looks back at the tool, where the board faces it."""
    tool = holder.tool(holder.middle) @ T_TOOL_BOARD
    centre = tool @ np.array([0.105, 0.075, 0.0, 1.0])
    T = np.eye(4)
    T[:3, :3] = tool[:3, :3] @ cv2.Rodrigues(np.array([0.2, -0.3, 0.1]))[0]
    T[:3, 3] = centre[:3] - 0.55 * T[:3, 2]
    return T


def recorded(arm: Arm, taken: list[tuple[np.ndarray, np.ndarray]], folder: Path) -> Path:
    """Write a bag in which the arm moves from posture to posture, and stands in each.

    The images of its motion say nothing. A second camera, whose topics sort first, would move the place by 45 mm.
    """
    rows: list[tuple[m.Topic, Any, int]] = []
    now = 1_000_000_000
    assert CAMERA.distortion is not None
    info = m.camera_info_message(now, "optical", 640, 480, CAMERA.K, CAMERA.distortion)
    rows.append((m.CAMERA_INFO, info, now))
    other = m.camera_info_message(now, "depth", 640, 480, CAMERA.K * [[0.9], [0.9], [1.0]])
    rows.append((m.Topic("/a_depth/camera_info", CameraInfo, m.CAMERA_PUBLISHER), other, now))
    for joints, image in taken:
        for part in range(8):
            now += 100_000_000
            moving = part < 2
            state = JointState(now, joints + 0.3 * moving * part, np.full(7, 0.5 * moving), np.zeros(7), 0.04)
            rows.append((m.JOINT_STATES, m.joint_state_message(state, arm), now))
            shown = image[::-1].copy() if moving else image
            if part in (1, 3, 7):
                rows.append((m.IMAGE, m.image_message(now, shown, "optical"), now + 20_000_000))
    return write_bag(folder, rows)


@pytest.fixture(scope="module")
def taken() -> list[tuple[np.ndarray, np.ndarray]]:
    return postures(PANDA, camera_place(), 10)


@pytest.fixture(scope="module")
def hand_eye(taken: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[View], list[np.ndarray]]:
    views = [CHARUCO.find(image) for _, image in taken]
    return [view for view in views if view is not None], [PANDA.tool(joints) for joints, _ in taken]


def test_extrinsics_come_out_within_5_mm_and_half_a_degree(
    hand_eye: tuple[list[View], list[np.ndarray]], tmp_path: Path, tiny_bundle: Path
) -> None:
    truth, (views, tools) = camera_place(), hand_eye
    found = calibrate_hand_eye(views, tools, CAMERA)
    distance, angle = pose_difference(found.T_base_camera, truth)
    assert distance < 0.005, distance
    assert np.degrees(angle) < 0.5
    assert pose_difference(found.T_tool_board, T_TOOL_BOARD)[0] < 0.005
    assert found.rms_px < 1.0
    write_extrinsics(tmp_path / "place.yaml", found.T_base_camera, "a test")
    camera = load_bundle(tiny_bundle).contract.camera
    there = camera.model_copy(update={"T_base_camera": camera.T_base_camera})
    with pytest.raises(ConfigurationError, match="move the camera or train for this place"):
        load_extrinsics(tmp_path / "place.yaml", there)  # the bundle's stands elsewhere, and the file is read


def test_command_calibrates_from_a_recorded_bag(
    taken: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = recorded(ARM, taken, tmp_path / "bag"), tmp_path / "place.yaml"
    assert cli.main(["calibrate", "extrinsics", "--bag", str(bag), "--out", str(out)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "images from /camera/image_raw, camera_info from /camera/camera_info, joints from /joint_states" in said
    assert "the arm stood in 10 postures, the board was found in 10 of them" in said
    found = yaml.safe_load(out.read_text())["T_base_camera"]
    np.testing.assert_allclose(found["xyz"], camera_place()[:3, 3], atol=0.005)
    arguments = ["calibrate", "extrinsics", "--bag", str(bag), "--out", str(out), "--bundle", "reach_panda"]
    assert cli.main(arguments) == 2
    assert "move the camera or train for this place" in capsys.readouterr().err
    assert cli.main(["calibrate", "intrinsics", "--bag", str(bag), "--out", str(tmp_path / "camera.yaml")]) == 0
    assert "fx " in capsys.readouterr().out


def test_command_calibrates_an_arm_that_is_given_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "examples" / "my_arm" / "my_arm.yaml"
    arm = load_or_skip(file)
    holder = Holder(arm, np.array([*arm.home[:5], -0.55, 0.0]))
    truth, out = camera_place(holder), tmp_path / "place.yaml"
    bag = recorded(arm, postures(holder, truth, 10), tmp_path / "bag")
    arguments = ["calibrate", "extrinsics", "--bag", str(bag), "--out", str(out)]
    assert cli.main([*arguments, "--arm", str(file)]) == 0, capsys.readouterr().err
    np.testing.assert_allclose(yaml.safe_load(out.read_text())["T_base_camera"]["xyz"], truth[:3, 3], atol=0.005)
    assert cli.main(arguments) == 2  # the Panda's joints are not in this bag
    assert "panda" in capsys.readouterr().err


def test_intrinsics_of_two_cameras_are_never_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(7)
    narrow = CameraModel(640, 480, np.array([[420.0, 0, 322], [0, 420, 236], [0, 0, 1]]))
    rows: list[tuple[m.Topic, Any, int]] = []
    for name, camera in (("/oak/left/image_raw", narrow), ("/oak/rgb/image_raw", CAMERA)):
        topic = m.Topic(name, Image, m.CAMERA_PUBLISHER)
        for number in range(8):
            T = pose(rng.uniform(-0.5, 0.5, 3), np.array([-0.1, -0.07, 0.45]) + rng.uniform(-0.05, 0.05, 3))
            stamp = 1_000_000_000 * (number + 1)
            rows.append((topic, m.image_message(stamp, render(CHARUCO, T, camera, rng), "optical"), stamp))
    bag, out = write_bag(tmp_path / "bag", sorted(rows, key=lambda row: row[2])), tmp_path / "camera.yaml"
    arguments = ["calibrate", "intrinsics", "--bag", str(bag), "--out", str(out)]
    assert cli.main(arguments) == 2
    assert "images of several cameras (/oak/left/image_raw, /oak/rgb/image_raw)" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*arguments, "--image-topic", "/oak/rgb/image_raw"]) == 0
    assert "images from /oak/rgb/image_raw" in capsys.readouterr().out
    assert yaml.safe_load(out.read_text())["camera_matrix"]["data"][0] == pytest.approx(610.0, rel=0.02)
    rectified = [(m.Topic("/oak/rgb/image_rect", Image, m.CAMERA_PUBLISHER), *row[1:]) for row in rows]
    bag = write_bag(tmp_path / "rectified", sorted(rectified, key=lambda row: row[2]))
    assert cli.main(["calibrate", "intrinsics", "--bag", str(bag), "--out", str(out)]) == 2
    assert "/oak/rgb/image_rect are rectified, expected raw ones" in capsys.readouterr().err


def test_board_is_written_as_an_image_in_which_it_is_found(tmp_path: Path) -> None:
    for marker in ("0.022", "0"):
        out = tmp_path / f"board_{marker}.png"
        assert cli.main(["calibrate", "board", "--marker", marker, "--out", str(out)]) == 0
        board = Board(columns=7, rows=5, square=0.03, marker=float(marker))
        view = board.find(np.ascontiguousarray(cv2.imread(str(out))))
        assert view is not None
        assert len(view.pixels) == 24


def test_postures_that_turn_about_one_axis_leave_the_place_open(hand_eye: tuple[list[View], list[np.ndarray]]) -> None:
    views, tools = hand_eye
    with pytest.raises(ConfigurationError, match="about one axis only"):
        calibrate_hand_eye([views[0]] * 6, [tools[0]] * 6, CAMERA)
    with pytest.raises(ConfigurationError, match="at 5 postures of the arm, expected at least 6"):
        calibrate_hand_eye(views[:5], tools[:5], CAMERA)


def test_joints_that_are_not_the_images_are_a_calibration_that_misses(
    hand_eye: tuple[list[View], list[np.ndarray]],
) -> None:
    views, tools = hand_eye
    with pytest.raises(ConfigurationError, match="expected at most 2"):
        calibrate_hand_eye(views, tools[::-1], CAMERA)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"columns": 2}, "--squares is 2x5"),
        ({"square": 30.0}, "--square is 30 m"),
        ({"marker": 0.05}, "--marker 0.05 m"),
        ({"dictionary": "DICT_9"}, "--dictionary is 'DICT_9', expected one of: DICT_4X4_100"),
        ({"dictionary": "CharucoBoard"}, "--dictionary is 'CharucoBoard', expected one of: DICT_4X4_100"),
    ],
)
def test_board_that_cannot_be_is_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Board(**({"columns": 7, "rows": 5, "square": 0.03, "marker": 0.022} | wrong))  # type: ignore[arg-type]
    assert named in str(caught.value)


def test_camera_without_calibration_gives_images_for_its_intrinsics_but_nothing_to_measure_with(
    tmp_path: Path,
) -> None:
    image = m.image_message(1, np.zeros((84, 84, 3), np.uint8), "camera")
    rows = [(m.CAMERA_INFO, CameraInfo(width=84, height=84), 1), (m.IMAGE, image, 2)]
    bag = write_bag(tmp_path / "bag", rows)
    (snapshot,) = read_snapshots(bag)
    assert snapshot.image.shape == (84, 84, 3)
    with pytest.raises(ConfigurationError, match="fx 0 and fy 0, expected both above 0; calibrate the camera"):
        standing_snapshots(bag, ARM)


def test_live_look_leaves_no_recorder_behind_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = f"trap '' INT; echo $$ > {tmp_path / 'process'}; exec sleep 60"
    monkeypatch.setattr(live_bag, "node_command", lambda *_: ["sh", "-c", stubborn])
    monkeypatch.setattr(live_bag, "LIVE_S", 0.5)
    monkeypatch.setattr(live_bag, "CLOSING_S", 0.1)
    with pytest.raises(ConfigurationError, match="the recorder did not close its bag"):
        live_bag.record_live("panda", (), tmp_path / "overlays")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)
