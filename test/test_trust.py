"""Tests of the figures that the trust and training benchmarks compute, on cases with a known answer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inference, trust
from rlfp_ros.contract import load_bundle

ROOT = Path(__file__).resolve().parents[1]
CAMERA = load_bundle(ROOT / "models" / "reach_panda").contract.camera


@pytest.mark.parametrize(
    ("unusual", "area"), [([4.0, 5.0], 1.0), ([0.0, 0.5], 0.0), ([1.0, 2.0, 3.0], 0.5), ([2.0], 0.5), ([2.5], 2 / 3)]
)
def test_the_area_under_the_roc_is_the_share_of_pairs_in_order(unusual: list[float], area: float) -> None:
    assert trust.area_under_roc(np.array([1.0, 2.0, 3.0]), np.array(unusual)) == pytest.approx(area)


def test_a_wrong_camera_is_as_wrong_as_it_says() -> None:
    T, moved = CAMERA.T_base_camera.matrix(), trust.moved(CAMERA, 0.24, 12.0).T_base_camera.matrix()
    assert np.linalg.norm(moved[:3, 3] - T[:3, 3]) == pytest.approx(0.24)
    assert np.degrees(np.arccos((np.trace(T[:3, :3].T @ moved[:3, :3]) - 1) / 2)) == pytest.approx(12.0)


def test_the_camera_across_the_table_looks_at_the_mirrored_place() -> None:
    T, mirrored = CAMERA.T_base_camera.matrix(), trust.across(CAMERA).T_base_camera.matrix()
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_allclose(mirrored[:3, 2], T[:3, 2] * [1, -1, 1], atol=1e-9)  # the optical axis
    np.testing.assert_allclose(mirrored[:3, 3], T[:3, 3] * [1, -1, 1], atol=1e-9)


def test_blackened_images_lose_the_stated_half() -> None:
    images = np.full((2, 84, 84, 3), 200, np.uint8)
    left, lower = trust.ALTERED["left half black"](images), trust.ALTERED["lower half black"](images)
    assert left[:, :, :42].max() == 0
    assert left[:, :, 42:].min() == 200
    assert lower[:, 42:].max() == 0
    assert lower[:, :42].min() == 200


def test_minutes_to_success_come_from_the_runs_own_log_without_its_pauses(tmp_path: Path) -> None:
    """Forty episodes, ten seconds apart, an hour's pause in the middle, all but the first ten successful."""
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    from benchmarks import train as training

    began = time.time() - 1e5
    with SummaryWriter(str(tmp_path)) as board:
        for episode in range(40):
            pause = 3600.0 if episode >= 20 else 0.0
            board.add_scalar("policy/success", float(episode >= 10), episode, walltime=began + 10 * episode + pause)
    # The 28th success is episode 27's: 18 of the last 20. 27 gaps, of which one counts as a minute.
    assert training.minutes_to_success(tmp_path) == pytest.approx((26 * 10 + 60) / 60, abs=0.1)
    assert training.minutes_to_success(tmp_path / "nowhere") is None
    with SummaryWriter(str(tmp_path / "recipe")) as board:  # a rate of its own, of the last hundred episodes
        for index, rate in enumerate((0.0, 0.5, 0.85, 0.92, 0.95)):
            board.add_scalar("imitate/success_rate", rate, index, walltime=began + 30 * index)
    assert training.minutes_to_success(tmp_path / "recipe") == pytest.approx(1.5)


def test_inference_times_a_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert inference.main(["--frames", "20", "--json", str(tmp_path / "figures.json")]) == 0
    text = (tmp_path / "figures.json").read_text()
    assert '"encoder_policy_ms": {' in text
    assert "p99" in text
    assert str(sys.prefix) not in text


# --- the score that foretells errors ----------------------------------------------------------------------------------


def encoded_scene(rng: np.random.Generator, count: int, shift: np.ndarray) -> tuple[np.ndarray, ...]:
    """An encoder's outputs, right but for a `shift` [count, 2] of all points on the plane z = 1; joints and errors."""
    T = CAMERA.T_base_camera.matrix()
    T_camera_base = np.linalg.inv(T)
    tool = np.column_stack(
        [rng.uniform([0.3, -0.2, 0.1], [0.6, 0.2, 0.3], (count, 3)), np.tile([0, 0, -1], (count, 1))]
    )
    block = np.column_stack([rng.uniform([0.35, -0.2], [0.6, 0.2], (count, 2)), np.full(count, 0.02)])
    points = np.zeros((count, 16, 3))
    for number, place in enumerate((block, tool[:, :3], tool[:, :3] + [0, 0, 0.105], np.tile([0, 0, 0.1], (count, 1)))):
        in_camera = place @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
        points[:, number, :2] = in_camera[:, :2] / in_camera[:, 2:] + shift
    points[..., 2] = 0.3
    ray = np.column_stack([points[:, 0, :2], np.ones(count)]) @ T[:3, :3].T
    found = T[:3, 3] + ray * ((0.02 - T[2, 3]) / ray[:, 2])[:, None]
    in_camera = (found - block) @ T_camera_base[:3, :3].T
    pose = np.column_stack([found @ T_camera_base[:3, :3].T + T_camera_base[:3, 3], np.tile([0, 0, 0, 1], (count, 1))])
    covariance = np.tile(1e-4 * np.eye(6), (count, 1, 1))
    return points, pose, covariance, np.zeros((count, 1)), np.zeros((count, 7)), tool, in_camera


def test_the_score_detects_wrong_positions_from_the_arms_expected_appearance() -> None:
    """Nothing but the arm's own points says that everything is seen too far to the side."""
    pytest.importorskip("torch")
    import torch

    from rlfp_ros.learning.encoders.trust import HOLD, Encoded, TrustTraining, learn_trust

    rng = np.random.default_rng(0)

    def images(count: int) -> Encoded:
        size = np.where(rng.uniform(size=count) < 0.5, rng.uniform(0, 0.01, count), rng.uniform(0.06, 0.2, count))
        angle = rng.uniform(0, 2 * np.pi, count)
        return Encoded(*encoded_scene(rng, count, size[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])))

    training = TrustTraining(updates=300, hidden=32)
    trust = learn_trust(CAMERA, images(2000), {"all": images(1000)}, 0, training)
    fresh = images(1000)
    with torch.no_grad():
        scores = trust(*fresh.inputs)[:, 0].numpy()
    assert 0 <= scores.min() <= scores.max() <= 1
    assert np.mean(scores[~fresh.is_wrong] >= HOLD) < 0.03
    assert np.mean(scores[fresh.is_wrong] >= HOLD) > 0.9


def test_alterations_keep_size_and_type_and_change_the_image() -> None:
    pytest.importorskip("torch")
    from rlfp_ros.learning.encoders.alterations import CORRUPTIONS, ENCODINGS, UNSEEN, VIEWS

    rng = np.random.default_rng(1)
    image = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    before = image.copy()
    for name, alter in {**ENCODINGS, **CORRUPTIONS, **VIEWS, **UNSEEN}.items():
        altered = alter(image, rng)
        assert (altered.shape, altered.dtype) == (image.shape, image.dtype), name
        assert not np.array_equal(altered, image), name
        np.testing.assert_array_equal(image, before, err_msg=name)
