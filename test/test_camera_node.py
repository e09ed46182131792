"""Tests of the node `camera`: topics, stamps, unplugging, and the way from images of a board to a calibrated camera."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import Process, TestNode, longer_than
from test_calibration import CAMERA as RENDERED
from test_calibration import CHARUCO, pose, render
from webcam import COLOUR, NEEDS_COMPILER, Webcam, has_compiler

from rlfp_ros import cli
from rlfp_ros.commissioning.board import CameraCalibration, write_camera_info
from rlfp_ros.graph.dds import dds_environment
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.camera import camera_model
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

LIMIT_S = 60.0  # for an event: a loaded machine starts a node in 10 s, and a recording takes 5 s


def calibrated(path: Path) -> Path:
    """Write a camera's file as `./rlfp calibrate intrinsics` does."""
    write_camera_info(path, CameraCalibration(RENDERED, 0.2, 20, 0.9), "desk")
    return path


@pytest.fixture
def large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give nodes room for images of VGA size, as the graph does."""
    for name, value in dds_environment("local", os.environ["ROS_DOMAIN_ID"], large_images=True).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def webcam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_images: None) -> Webcam:
    """A plugged webcam that the node sees."""
    if not has_compiler():
        pytest.skip(NEEDS_COMPILER)
    (tmp_path / "webcam").mkdir()
    plugged = Webcam(tmp_path / "webcam")
    for name, value in plugged.variables.items():
        monkeypatch.setenv(name, value)
    return plugged


def test_a_webcam_has_a_drivers_topics_with_the_stamps_of_the_exposure_and_survives_being_unplugged(
    webcam: Webcam, start_node: Callable[..., Process], test_node: TestNode, tmp_path: Path
) -> None:
    file = calibrated(tmp_path / "desk.yaml")
    parameters = {"source": webcam.path, "settings": "'{gain: 3}'", "camera_info_file": file}
    webcam.unplug()
    node = start_node("camera", parameters)
    test_node.spin_until(lambda: "video0: no such device; " in node.output, LIMIT_S, what="the missing camera")
    webcam.plug()
    images, infos = test_node.listen(m.IMAGE), test_node.listen(m.CAMERA_INFO)
    statuses = test_node.listen(m.DIAGNOSTICS)
    test_node.spin_until(longer_than(images, 10), LIMIT_S, what="images")
    offset_ns = time.time_ns() - time.monotonic_ns()
    driver_us = np.array(webcam.stamps_us())
    for image in images:
        captured_us = (decode.stamp_ns(image.header.stamp) - offset_ns) / 1000
        assert np.abs(driver_us - captured_us).min() < 500  # the clocks are read by two processes
        assert (image.encoding, image.width, image.height) == ("rgb8", 640, 480)
        assert image.header.frame_id == "camera_optical_frame"
    np.testing.assert_allclose(decode.image_from_message(images[-1])[100, 100], COLOUR, atol=3)
    assert {decode.stamp_ns(info.header.stamp) for info in infos} >= {
        decode.stamp_ns(image.header.stamp) for image in images[1:-1]
    }
    assert camera_model(infos[-1]).same(RENDERED)
    assert "gain could not be set, the camera has no such control; it has: auto_exposure," in node.output

    webcam.unplug()
    test_node.spin_until(
        lambda: "(Desk Cam) is unplugged; it is looked for" in node.output, LIMIT_S, what="the sentence"
    )
    test_node.spin_until(
        lambda: any("is unplugged" in status.message for array in statuses for status in array.status),
        LIMIT_S,
        what="the diagnostics",
    )
    before = len(images)
    webcam.plug()
    test_node.spin_until(longer_than(images, before + 5), LIMIT_S, what="images after plugging in")
    assert "the camera is back after" in node.output
    webcam.plug("stalled")
    test_node.spin_until(
        lambda: "no image for 2 s; it is looked for" in node.output, LIMIT_S, what="the stalled stream"
    )
    before = len(images)
    webcam.plug()
    test_node.spin_until(longer_than(images, before + 5), LIMIT_S, what="images of a new stream")
    assert node.stop() == 0
    assert "Traceback" not in node.output


def test_without_a_calibration_no_camera_info_comes_and_the_node_says_how_to_calibrate(
    start_node: Callable[..., Process], test_node: TestNode, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    wrong = start_node(
        "camera", {"camera": "file", "source": folder, "camera_info_file": calibrated(tmp_path / "c.yaml")}
    )
    node = start_node("camera", {"camera": "file", "source": folder, "settings": "'{rate_hz: 10}'"})
    images, infos = test_node.listen(m.IMAGE), test_node.listen(m.CAMERA_INFO)
    test_node.spin_until(lambda: "has ended; no further images come" in node.output, LIMIT_S, what="the end")
    test_node.spin_for(0.2)
    shown = [int(decode.image_from_message(image)[0, 0, 0]) // 20 for image in images]
    assert shown == sorted(shown)
    assert len(shown) >= 9  # the recording waits for its first subscriber
    stamps = np.array([decode.stamp_ns(image.header.stamp) for image in images])
    periods = np.diff(stamps) / 100e6
    np.testing.assert_allclose(periods, np.rint(periods), atol=0.01)
    assert infos == []
    assert "no camera_info is published, because camera_info_file is not set; record a board" in node.output
    assert wrong.wait() == 2
    assert "c.yaml: is for 640x480 px, but the camera gives 64x48 px; set the camera to that size" in wrong.output


def test_images_of_a_board_that_the_node_plays_calibrate_the_camera_that_it_then_publishes(
    start_node: Callable[..., Process], test_node: TestNode, tmp_path: Path, large_images: None
) -> None:
    rng, folder = np.random.default_rng(3), tmp_path / "boards"
    folder.mkdir()
    half = np.array([CHARUCO.columns, CHARUCO.rows, 0]) * CHARUCO.square / 2
    for number in range(9):
        T_camera_board = pose(rng.uniform(-0.5, 0.5, 3), np.zeros(3))
        centre = rng.uniform([-0.13, -0.09, 0.42], [0.13, 0.09, 0.6])
        T_camera_board[:3, 3] = centre - T_camera_board[:3, :3] @ half
        image = render(CHARUCO, T_camera_board, RENDERED, rng)
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    recorder = start_node("recorder", {"directory": tmp_path / "lens", "per_episode": False})
    parameters = {"camera": "file", "source": folder, "settings": "'{rate_hz: 1.8}'"}
    node = start_node("camera", parameters)
    test_node.spin_until(lambda: "has ended" in node.output, LIMIT_S, what="the end of the folder")
    recorder.stop(signal.SIGINT)
    node.stop()
    file = tmp_path / "intrinsics.yaml"
    command = ["calibrate", "intrinsics", "--bag", str(tmp_path / "lens" / "run"), "--out", str(file)]
    assert cli.main(command) == 0

    start_node("camera", {**parameters, "camera_info_file": file})
    infos = test_node.listen(m.CAMERA_INFO)
    test_node.listen(m.IMAGE)
    test_node.spin_until(longer_than(infos, 1), LIMIT_S, what="camera_info")
    found = camera_model(infos[-1])
    np.testing.assert_allclose(np.diag(found.K), np.diag(RENDERED.K), rtol=0.01)
    np.testing.assert_allclose(found.K[:2, 2], RENDERED.K[:2, 2], atol=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_matrix": None}, "camera_matrix is missing"),
        ({"camera_matrix": {"rows": 3, "cols": 3, "data": [1.0] * 8}}, "data has 8 values, expected rows x cols = 9"),
        ({"camera_matrix": {"rows": 9, "cols": 1, "data": [1.0] * 9}}, "camera_matrix is 9 x 1, expected 3 x 3"),
        ({"camera_matrix": {"rows": 3, "cols": 3, "data": [0.0] * 9}}, "k has fx 0 and fy 0, expected both above 0"),
        ({"distortion_model": "kannala"}, "distortion_model is 'kannala', expected one of plumb_bob"),
        ({"image_width": 320}, "which is the matrix of another image size"),
        ({"lens": 1}, "lens is not a known field"),
    ],
)
def test_a_calibration_file_that_perception_could_not_use_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from rlfp_ros.perception.camera_info_file import load_camera_info

    path = calibrated(tmp_path / "desk.yaml")
    assert load_camera_info(path).camera_matrix.data[0] == 610.0
    document = yaml.safe_load(path.read_text()) | change
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_camera_info(path)
    assert str(caught.value).startswith(str(path))
