"""Tests of the lens models of CameraInfo against OpenCV: projection, rays, and refused messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from rlfp_ros.contract import Contract, load_bundle
from rlfp_ros.nodes import messages
from rlfp_ros.perception.camera import CameraModel, Lens, camera_model
from rlfp_ros.perception.image_topics import camera_info_beside, is_rectified
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.schema import ConfigurationError

WIDTH, HEIGHT = 640, 480
K = np.array([[420.0, 0, 322.0], [0, 415.0, 236.0], [0, 0, 1]])
PLUMB_BOB = [-0.12, 0.05, 0.001, -0.0005, 0.01]
RATIONAL = [0.5, -0.3, 0.0005, -0.0005, 0.05, 0.8, -0.4, 0.08]
THIN_PRISM_AND_TILT = [*RATIONAL, 0.002, -0.001, 0.001, 0.0005, 0.01, -0.005]
FISHEYE = [0.05, -0.01, 0.003, -0.001]


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_bundle(tiny_bundle).contract


def info(model: str = "plumb_bob", d: Any = (), **changes: Any) -> CameraInfo:
    """A CameraInfo as a driver sends it: through the wire's format."""
    message = messages.camera_info_message(1, "optical", WIDTH, HEIGHT, K)
    message.distortion_model, message.d = model, [float(value) for value in d]
    for name, value in changes.items():
        setattr(message, name, value)
    sent: CameraInfo = deserialize_message(serialize_message(message), CameraInfo)
    return sent


def rays(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Points [N, 3] on the plane z = 1 that a camera sees all over its image, but for the corners."""
    pixels = np.stack(np.meshgrid(np.linspace(40, width - 40, 15), np.linspace(40, height - 40, 11)), -1).reshape(-1, 2)
    return np.column_stack([(pixels - [width / 2, height / 2]) / 420.0, np.ones(len(pixels))])


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", []),
        ("plumb_bob", [0.0] * 5),
        ("", []),
        ("plumb_bob", PLUMB_BOB[:4]),
        ("plumb_bob", PLUMB_BOB),
        ("plumb_bob", RATIONAL),
        ("rational_polynomial", RATIONAL),
        ("rational_polynomial", [*RATIONAL, 0.002, -0.001, 0.001, 0.0005]),
        ("rational_polynomial", THIN_PRISM_AND_TILT),
    ],
)
def test_brown_conrady_models_are_opencv_s(model: str, d: list[float]) -> None:
    camera = camera_model(info(model, d))
    expected, _ = cv2.projectPoints(rays().reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, np.array(d or [0.0] * 5))
    found = camera.project(rays())
    np.testing.assert_allclose(found, expected.reshape(-1, 2), atol=1e-9)
    assert camera.lens is Lens.BROWN_CONRADY
    if len(d) <= 8:
        np.testing.assert_allclose(camera.rays(found), rays()[:, :2], atol=1e-3)


@pytest.mark.parametrize("d", [[0.0] * 4, FISHEYE], ids=["zeros", "coefficients"])
def test_equidistant_is_opencv_s_fisheye_even_if_all_its_coefficients_are_zero(d: list[float]) -> None:
    camera = camera_model(info("equidistant", d))
    expected, _ = cv2.fisheye.projectPoints(rays().reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, np.array(d))
    found = camera.project(rays())
    np.testing.assert_allclose(found, expected.reshape(-1, 2), atol=1e-9)
    np.testing.assert_allclose(camera.rays(found), rays()[:, :2], atol=1e-6)
    as_pinhole = camera_model(info("plumb_bob")).project(rays())
    assert np.abs(found - as_pinhole).max() > 10, "a theta lens differs from a pinhole by many pixels"


@pytest.mark.parametrize(
    "model", ["Inverse Brown Conrady", "Modified Brown Conrady", "Brown Conrady", "None", "none", ""]
)
def test_lens_models_under_librealsense_s_names_are_pinholes_only_without_coefficients(model: str) -> None:
    assert camera_model(info(model, [0.0] * 5)).distortion is None
    with pytest.raises(ConfigurationError, match="distortion_model is"):
        camera_model(info(model, PLUMB_BOB))


@pytest.mark.parametrize(
    "k",
    [
        [0.66, 0, 0.5, 0, 0.86, 0.5, 0, 0, 1],  # in parts of the image's size
        [1260.0, 0, 966, 0, 1245, 708, 0, 0, 1],  # calibrated at three times the size
    ],
)
@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_matrix_of_another_image_size_is_refused(model: str, k: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"640 x 480 pixels, which is the matrix of another image size"):
        camera_model(info(model, [0.0] * 4, k=np.array(k)))


def test_points_of_a_body_are_projected_at_its_pose() -> None:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(np.array([0.1, -0.2, 0.3]))[0], [0.05, 0.02, 0.4]
    for model, d in (("plumb_bob", PLUMB_BOB), ("equidistant", FISHEYE)):
        camera = camera_model(info(model, d))
        moved = rays() @ T[:3, :3].T + T[:3, 3]
        np.testing.assert_allclose(camera.project(rays(), T), camera.project(moved), atol=1e-9)


def test_skew_of_k_is_applied() -> None:
    skewed = K.copy()
    skewed[0, 1] = 8.0
    camera = camera_model(info(k=skewed.ravel()))
    expected = rays() @ skewed.T
    np.testing.assert_allclose(camera.project(rays()), expected[:, :2], atol=1e-9)
    np.testing.assert_allclose(camera.rays(expected[:, :2]), rays()[:, :2], atol=1e-9)


def test_region_and_binning_are_applied_to_k_and_size() -> None:
    region = RegionOfInterest(x_offset=100, y_offset=60, width=400, height=300)
    cut = camera_model(info("plumb_bob", PLUMB_BOB, roi=region, binning_x=2, binning_y=2))
    assert (cut.width, cut.height) == (200, 150)
    whole = camera_model(info("plumb_bob", PLUMB_BOB)).project(rays())
    np.testing.assert_allclose(cut.project(rays()), (whole - [100, 60]) / 2, atol=1e-9)


RECTIFIED_P = np.array([[400.0, 0, 315.0, 0], [0, 400.0, 240.0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize(("model", "d"), [("plumb_bob", PLUMB_BOB), ("equidistant", FISHEYE), ("fov", [0.9])])
def test_rectified_images_are_seen_by_the_pinhole_camera_of_p(model: str, d: list[float]) -> None:
    """image_proc publishes image_rect with the raw camera's camera_info."""
    camera = camera_model(info(model, d, p=RECTIFIED_P.ravel()), rectified=True)
    np.testing.assert_array_equal(camera.K, RECTIFIED_P[:, :3])
    assert not camera.bends_lines


def test_rectified_images_need_p_unless_the_camera_has_no_lens() -> None:
    with pytest.raises(ConfigurationError, match=r"p is all zeros.*image_kind:=raw"):
        camera_model(info("plumb_bob", PLUMB_BOB, p=np.zeros(12)), rectified=True)
    camera = camera_model(info("plumb_bob", [0.0] * 5, p=np.zeros(12)), rectified=True)
    np.testing.assert_array_equal(camera.K, K)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_raw", False),
        ("/camera/image_rect", True),
        ("/camera/image_rect/compressed", True),
        ("/camera/image_rect_color", True),
        ("/camera/camera/infra1/image_rect_raw", True),
        ("/zed/zed_node/rgb/color/rect/image", True),
        ("/rectangle/image_raw", False),
        ("/image_rect/image_raw/compressed", True),
    ],
)
def test_rectified_images_are_recognised_by_their_topic(topic: str, rectified: bool) -> None:
    assert is_rectified(topic) is rectified
    assert is_rectified(topic, "raw") is False
    assert is_rectified(topic, "rectified") is True


@pytest.mark.parametrize(
    ("image", "camera_info"),
    [
        ("image_raw", "camera_info"),
        ("/image_raw", "/camera_info"),
        ("camera/camera/color/image_raw", "camera/camera/color/camera_info"),
        ("/wrist/image_raw/compressed", "/wrist/camera_info"),
    ],
)
def test_camera_info_is_beside_its_image(image: str, camera_info: str) -> None:
    assert camera_info_beside(image) == camera_info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.zeros(9)}, "k has fx 0 and fy 0, expected both above 0; calibrate the camera"),
        (
            {"k": np.zeros(9), "p": np.array([420.0, 0, 320, 0, 0, 420, 240, 0, 0, 0, 1, 0])},
            "k has fx 0 and fy 0",
        ),  # raw images are not those of p
        ({"k": np.full(9, np.nan)}, "k has fx nan and fy nan"),
        ({"k": np.array([420.0, 0, 0, 0, 420, 0, 0, 0, 1])}, "k has cx 0 and cy 0, expected a principal point inside"),
        ({"k": K.T.ravel()}, "row by row"),
        ({"width": 0, "height": 0}, "width is 0 and height is 0"),
        ({"model": "equidistant", "d": []}, "expected 4 values with distortion_model 'equidistant'"),
        ({"model": "equidistant", "d": [0.1] * 5}, "expected 4 values"),
        ({"model": "fov", "d": [0.9]}, "distortion_model is 'fov', expected one of plumb_bob, rational_polynomial, eq"),
        ({"model": "kannala_brandt", "d": [0.0] * 4}, "distortion_model is 'kannala_brandt'"),
        ({"model": "", "d": PLUMB_BOB}, "distortion_model is ''"),
        ({"model": "plumb_bob", "d": [0.1] * 6}, "expected 5 values"),
        ({"model": "plumb_bob", "d": [0.1, np.nan, 0, 0, 0]}, "expected finite values"),
    ],
)
def test_camera_info_that_describes_no_camera_is_refused_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        camera_model(info(**changes), "/camera/camera_info")
    assert words in str(caught.value)
    assert str(caught.value).startswith("topic /camera/camera_info: ")
    assert "\n" not in str(caught.value)


def seen_rays(camera: CameraModel) -> np.ndarray:
    """An image whose colour says which ray each pixel sees: 100 levels per unit of x and y on the plane z = 1."""
    grid = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), -1).reshape(-1, 2)
    plane = camera.rays(grid).reshape(camera.height, camera.width, 2)
    return np.clip(np.round(128 + 100 * np.dstack([plane, plane[..., 0]])), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("model", "d"),
    [("plumb_bob", PLUMB_BOB), ("rational_polynomial", RATIONAL), ("equidistant", [0.0] * 4), ("equidistant", FISHEYE)],
)
def test_the_networks_image_shows_the_bundles_rays_with_every_lens(
    contract: Contract, model: str, d: list[float]
) -> None:
    camera = camera_model(info(model, d))
    found = Preprocessor(contract)(seen_rays(camera), camera)
    own = CameraModel(contract.camera.width, contract.camera.height, contract.camera.intrinsics.matrix())
    assert np.abs(found.astype(int) - seen_rays(own)).max() <= 2


def test_rectified_image_is_not_undistorted_again(contract: Contract) -> None:
    raw = camera_model(info("plumb_bob", [-0.3, 0.1, 0, 0, 0], p=RECTIFIED_P.ravel()))
    P = RECTIFIED_P[:, :3]
    rectified = cv2.undistort(seen_rays(raw), raw.K, raw.distortion, newCameraMatrix=P)
    camera = camera_model(info("plumb_bob", [-0.3, 0.1, 0, 0, 0], p=RECTIFIED_P.ravel()), rectified=True)
    own = seen_rays(CameraModel(contract.camera.width, contract.camera.height, contract.camera.intrinsics.matrix()))
    assert np.abs(Preprocessor(contract)(rectified, camera).astype(int) - own).max() <= 3
    assert np.abs(Preprocessor(contract)(rectified, raw).astype(int) - own).max() > 5


def test_image_is_redrawn_without_its_lens() -> None:
    for model, d in (("plumb_bob", PLUMB_BOB), ("equidistant", FISHEYE)):
        camera = camera_model(info(model, d))
        straight = camera.undistort(seen_rays(camera))[60:-60, 80:-80].astype(int)
        assert np.abs(straight - seen_rays(camera.pinhole())[60:-60, 80:-80]).max() <= 2


def test_image_of_another_size_than_its_camera_info_is_refused(contract: Contract) -> None:
    camera = camera_model(info())
    with pytest.raises(ConfigurationError, match="image is 320 x 240, but camera_info says 640 x 480"):
        Preprocessor(contract)(np.zeros((240, 320, 3), np.uint8), camera)
