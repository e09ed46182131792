"""Tests of preprocessing: any camera is converted to the bundle's camera, or refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fixture_bundle import FX, HEIGHT, WIDTH

from rlfp_ros.contract import Contract, FeatureStatistics, load_bundle
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.perception.extrinsics import load_extrinsics, orientation_in_base
from rlfp_ros.perception.preprocess import Preprocessor, scaled_intrinsics
from rlfp_ros.schema import ConfigurationError


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_bundle(tiny_bundle).contract


def _scene(width: int, height: int, K: np.ndarray, distortion: np.ndarray | None = None) -> np.ndarray:
    """A smooth pattern on the plane z = 1, as this camera sees it: colour is a function of the ray."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    rays = cv2.undistortPoints(grid.reshape(-1, 1, 2), K, distortion).reshape(height, width, 2)
    x, y = rays[..., 0], rays[..., 1]
    colours = np.stack([128 + 100 * np.sin(4 * x), 128 + 100 * np.cos(3 * y), 128 + 100 * np.sin(3 * (x + y))], -1)
    return np.clip(np.round(colours), 0, 255).astype(np.uint8)


def test_the_bundles_own_image_passes_through_untouched(contract: Contract) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    preprocess = Preprocessor(contract)
    assert preprocess(image) is image
    K = contract.camera.intrinsics.matrix()
    assert preprocess(image, CameraModel(WIDTH, HEIGHT, K)) is image
    assert (
        preprocess(image, CameraModel(WIDTH, HEIGHT, K + np.array([[0.01, 0, 0.01], [0, 0.01, 0.01], [0, 0, 0]])))
        is image
    )


def test_the_same_field_of_view_at_another_size_is_resized_by_area(contract: Contract) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT * 4, WIDTH * 4, 3), dtype=np.uint8)
    expected = image.reshape(HEIGHT, 4, WIDTH, 4, 3).mean(axis=(1, 3))
    K = scaled_intrinsics(contract.camera.intrinsics.matrix(), 4, 4)
    for found in (Preprocessor(contract)(image), Preprocessor(contract)(image, CameraModel(4 * WIDTH, 4 * HEIGHT, K))):
        assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("width", "height", "focal", "centre", "distortion"),
    [
        (640, 480, 450.0, (319.5, 239.5), None),
        (640, 480, 420.0, (330.0, 231.0), (-0.25, 0.08, 0.001, -0.0005, 0.0)),
        (1280, 720, 560.0, (640.0, 355.0), (0.05, -0.02, 0.0, 0.0, 0.0)),
        (80, 60, 45.0, (39.5, 29.5), (-0.1, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_another_camera_is_undistorted_and_re_projected_into_the_bundle_s(
    contract: Contract,
    width: int,
    height: int,
    focal: float,
    centre: tuple[float, float],
    distortion: tuple[float, ...] | None,
) -> None:
    K = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    D = None if distortion is None else np.array(distortion)
    preprocess = Preprocessor(contract)
    found = preprocess(_scene(width, height, K, D), CameraModel(width, height, K, D))
    expected = _scene(WIDTH, HEIGHT, contract.camera.intrinsics.matrix())
    error = np.abs(found.astype(int) - expected)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert error.mean() < 1.0
    assert error.max() <= 6
    assert "re-projected" in preprocess.description


def test_a_fine_pattern_does_not_alias_when_it_is_made_smaller(contract: Contract) -> None:
    """Stripes of 1 px in 640 x 480 average to grey in 64 x 48; sampling one pixel in ten would not."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, ::2] = 255
    K = np.array([[430.0, 0, 320], [0, 430.0, 240], [0, 0, 1]])
    found = Preprocessor(contract)(image, CameraModel(640, 480, K, np.array([-0.1, 0.0, 0.0, 0.0, 0.0])))
    assert np.abs(found.astype(int) - 127).max() < 60
    assert abs(found.mean() - 127) < 3


def test_the_plan_is_made_once_for_a_camera(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = Preprocessor(contract)
    K = np.array([[430.0, 0, 320], [0, 430.0, 240], [0, 0, 1]])
    image = np.zeros((480, 640, 3), np.uint8)
    preprocess(image, CameraModel(640, 480, K))
    monkeypatch.setattr(preprocess, "plan", lambda *_: pytest.fail("planned again"))
    preprocess(image, CameraModel(640, 480, K.copy()))


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (CameraModel(640, 480, np.array([[900.0, 0, 320], [0, 900, 240], [0, 0, 1]])), "degrees; use a wider lens"),
        (CameraModel(640, 480, np.array([[450.0, 0, 120], [0, 450, 240], [0, 0, 1]])), "of the bundle's image"),
        (CameraModel(24, 18, np.array([[15.0, 0, 11.5], [0, 15, 8.5], [0, 0, 1]])), "set a larger image size"),
        (
            CameraModel(640, 480, np.array([[430.0, 0, 320], [0, 430, 240], [0, 0, 1]]), np.array([-1.5, 0, 0, 0, 0])),
            "not usable up to",
        ),
    ],
)
def test_a_camera_that_cannot_serve_is_refused_in_one_sentence(
    contract: Contract, camera: CameraModel, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        Preprocessor(contract).use_camera(camera, "topic /camera/camera_info")
    assert str(caught.value).startswith("topic /camera/camera_info: ")
    assert "\n" not in str(caught.value)


def test_another_aspect_ratio_needs_intrinsics(contract: Contract) -> None:
    with pytest.raises(ConfigurationError, match="another aspect ratio"):
        Preprocessor(contract)(np.zeros((240, 640, 3), np.uint8))


def test_stacked_pixels_are_refused(contract: Contract) -> None:
    stacked = contract.model_copy(update={"image": contract.image.model_copy(update={"stack": 3})})
    with pytest.raises(ConfigurationError, match=r"image\.stack is 3, expected 1"):
        Preprocessor(stacked)


def statistics(mean: tuple, covariance: tuple, usual: float = 1.0, rare: float = 2.0) -> FeatureStatistics:
    return FeatureStatistics(mean=mean, covariance=covariance, usual_distance=usual, rare_distance=rare)


def test_domain_shift_is_low_for_embeddings_of_training_and_1_for_distant_ones() -> None:
    generator = np.random.default_rng(5)
    spread = generator.normal(size=(16, 16))
    covariance = spread @ spread.T
    mean = generator.normal(size=16)
    shift = DomainShift(statistics(tuple(mean), tuple(map(tuple, covariance)), 3.916, 6.265))  # of 16 normal values
    scores = [shift(sample) for sample in generator.multivariate_normal(mean, covariance, 4000)]
    assert np.median(scores) < 0.05
    assert np.mean(np.array(scores) > 0.5) < 0.005
    assert shift(mean + 10 * np.sqrt(np.diag(covariance))) == 1.0
    assert shift(mean) == 0.0
    assert shift(np.full(16, np.nan)) == 1.0


def test_domain_shift_needs_fitting_statistics() -> None:
    with pytest.raises(ConfigurationError, match="covariance is \\[1, 1\\], expected \\[2, 2\\]"):
        DomainShift(statistics((0.0, 0.0), ((1.0,),)))
    with pytest.raises(ConfigurationError, match="no positive variance"):
        DomainShift(statistics((0.0,), ((0.0,),)))


def test_extrinsics_are_the_bundle_s_or_a_file_s_near_by(contract: Contract, tmp_path: Path) -> None:
    own = contract.camera.T_base_camera
    assert np.allclose(load_extrinsics("", contract.camera), own.matrix())
    file = tmp_path / "extrinsics.yaml"
    file.write_text("T_base_camera: {xyz: [0.51, 0.0, 0.8], quaternion_xyzw: [0.7071, -0.7071, 0.0, 0.0]}\n")
    assert load_extrinsics(file, contract.camera)[0, 3] == pytest.approx(0.51)
    file.write_text("T_base_camera: {xyz: [0.6, 0.0, 0.8], quaternion_xyzw: [0.7071, -0.7071, 0.0, 0.0]}\n")
    with pytest.raises(ConfigurationError, match=r"0\.100 m and 0\.000 rad from the bundle's"):
        load_extrinsics(file, contract.camera)


def test_orientations_turn_with_the_camera(contract: Contract) -> None:
    generator = np.random.default_rng(1)
    from rlfp_ros.schema import Pose

    for _ in range(50):
        camera_quaternion, quaternion = (random / np.linalg.norm(random) for random in generator.normal(size=(2, 4)))
        camera = Pose(xyz=(0, 0, 0), quaternion_xyzw=tuple(camera_quaternion))
        turned = orientation_in_base(camera.matrix(), quaternion)
        expected = camera.matrix() @ Pose(xyz=(0, 0, 0), quaternion_xyzw=tuple(quaternion)).matrix()
        assert np.allclose(Pose(xyz=(0, 0, 0), quaternion_xyzw=tuple(turned)).matrix(), expected)


def test_the_fixtures_focal_length_is_as_these_tests_assume(contract: Contract) -> None:
    assert contract.camera.intrinsics.fx == FX
