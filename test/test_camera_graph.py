"""Tests of the camera node in the graph of a real arm: its arguments, and the arm while the camera is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from conftest import TestNode, longer_than
from graph_run import run_of

from rlfp_ros.commissioning.board import CameraCalibration, write_camera_info
from rlfp_ros.contract import load_bundle
from rlfp_ros.graph.cameras import ROS_CAMERAS
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError

BUNDLE = "reach_panda"
LIMIT_S = (
    200.0  # for the graph to run at the camera's rate, without which the arm is not enabled: 20 s on a quiet machine
)
# Only the camera holds the arm here, not a busy machine, and not what the five repeated images show.
PATIENT = """
checklist:
  ros__parameters: {home_tolerance_rad: 3.0, camera_max_age_s: 4.0, joint_max_age_s: 0.7, shift_limit: 1.0}
policy:
  ros__parameters: {joint_max_age_s: 0.5}
residual_controller:
  ros__parameters: {joint_state_max_age_s: 0.8, joint_state_timeout_s: 0.8, percept_timeout_s: 1.0,
                    percept_max_age_s: 2.0, residual_fade_s: 0.5, residual_timeout_s: 1.0, residual_max_age_s: 2.0,
                    shift_slow: 1.0, shift_hold: 1.0, tracking_error_rad: 1.0, tracking_window_s: 0.5}
"""


def parameters(resolved: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(process for process in resolved.processes if process.name == name).parameters
    return found


def golden_folder(folder: Path) -> Path:
    """Write the images with which the bundle tests itself, as a camera would have seen them."""
    folder.mkdir()
    for number, image in enumerate(load_bundle(BUNDLE).golden_frames().images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


def golden_calibration(path: Path) -> Path:
    """Write the calibration of the camera that saw them."""
    contract = load_bundle(BUNDLE).contract.camera
    camera = CameraModel(contract.width, contract.height, contract.intrinsics.matrix())
    write_camera_info(path, CameraCalibration(camera, 0.1, 20, 1.0), "golden")
    return path


@pytest.mark.parametrize("camera", ROS_CAMERAS)
def test_a_camera_with_a_ros_driver_gets_no_node(camera: str) -> None:
    assert "camera" not in [process.name for process in run_of(REAL_ARM, camera=camera).processes]


def test_a_camera_without_one_gets_a_node_on_the_topics_of_perception() -> None:
    given = run_of(REAL_ARM, camera="uvc", camera_source="0", camera_settings="{gain: 3}", image_topic="/wrist/rgb")
    node = next(process for process in given.processes if process.name == "camera")
    assert node.remappings["camera/image_raw"] == "/wrist/rgb"
    assert node.remappings["camera/camera_info"] == "/wrist/camera_info"
    assert node.parameters["source"] == "0"
    assert node.parameters["settings"] == "{gain: 3}"
    assert node.respawn is not None
    assert "camera/image_raw" not in run_of(REAL_ARM, camera="uvc").processes[0].remappings
    mock = run_of(REAL_ARM, camera="file", use_mock_hardware=True)
    assert parameters(mock, "arm_twin")["images"] is False
    assert parameters(run_of(REAL_ARM, use_mock_hardware=True), "arm_twin")["images"] is True


def test_paths_of_the_camera_are_absolute_and_its_images_get_the_large_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden_folder(tmp_path / "images")
    golden_calibration(tmp_path / "camera.yaml")
    monkeypatch.chdir(tmp_path)
    given = resolve(
        REAL_ARM,
        {"camera": "file", "camera_source": "images", "camera_info_file": "camera.yaml", "transport": "local"},
    )
    node = next(process for process in given.processes if process.name == "camera")
    assert node.parameters["source"] == str(tmp_path / "images")
    assert node.parameters["camera_info_file"] == str(tmp_path / "camera.yaml")
    assert "large_images" in node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"camera": "webcam"},
            "camera is 'webcam'; it can be: realsense, usb_cam, v4l2, custom, file, uvc; one of your",
        ),
        ({"camera": "uvc", "camera_settings": "{fps: 30}"}, "settings of the camera uvc: fps is not a known field"),
        ({"camera_source": "0"}, "camera_source is '0', but camera is 'custom', whose driver the graph does not start"),
        ({"camera": "uvc", "camera_info_file": "none.yaml"}, "none.yaml: no such file"),
    ],
)
def test_wrong_arguments_of_the_camera_are_refused_before_anything_starts(
    arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve(REAL_ARM, arguments)


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_perception_sees_a_folder_of_images_and_the_arm_holds_while_it_is_gone(
    tmp_path: Path, test_node: TestNode
) -> None:
    from std_srvs.srv import Trigger

    from rlfp_ros.nodes import messages as m

    folder = golden_folder(tmp_path / "images")
    (tmp_path / "patient.yaml").write_text(PATIENT)
    resolved = resolve(
        REAL_ARM,
        {
            "bundle": BUNDLE,
            "use_mock_hardware": True,
            "transport": "local",
            "params_file": str(tmp_path / "patient.yaml"),
            "require_heartbeat": False,
            "base_controller": "hold",  # so that the policy's answers to these images do not matter
            "camera": "file",
            "camera_source": str(folder),
            "camera_settings": "{loop: true}",
            "camera_info_file": str(golden_calibration(tmp_path / "camera.yaml")),
        },
    )
    features, states = test_node.listen(m.FEATURES), test_node.listen(m.SAFETY_STATE)
    clients = {
        name: test_node.node.create_client(Trigger, f"residual_controller/{name}") for name in ("enable", "reset")
    }

    def newest() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(states[-1].data) if states else {}
        return found

    def active() -> bool:
        """Enable the arm, also after it stopped because this machine is busy."""
        assert runner.poll() is None, runner.failure
        press = {"DISABLED": "enable", "STOPPED": "reset"}.get(newest().get("state", ""))
        if press and clients[press].service_is_ready():
            clients[press].call_async(Trigger.Request())
            test_node.spin_for(1.0)
        return newest().get("state") == "ACTIVE"

    with Runner(resolved, console="quiet", handle_signals=False) as runner:
        test_node.spin_until(longer_than(features, 5), LIMIT_S, "features of the folder's images")
        held: set[str] = set()  # the reasons
        for _ in range(4):  # on a busy machine the arm may stop or hold for its own slowness: then again
            test_node.spin_until(active, LIMIT_S, "ACTIVE")
            folder.rename(tmp_path / "unplugged")
            test_node.spin_for(2.0)  # the camera decodes an image ahead, and a busy machine has some on the way
            test_node.spin_until(lambda: newest()["state"] in ("HOLDING", "STOPPED"), LIMIT_S, "the end of the motion")
            found, seen = newest(), len(features)
            test_node.spin_for(0.5)
            assert len(features) == seen
            (tmp_path / "unplugged").rename(folder)
            held = {"percept_stale", "percept_old"} & set(found["reasons"])
            if found["state"] == "HOLDING" and held:
                break
        assert held, found
        test_node.spin_until(lambda: newest()["state"] == "ACTIVE", LIMIT_S, "ACTIVE once the images are back")
        assert len(features) > seen
        assert runner.poll() is None, runner.failure
