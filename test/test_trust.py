"""What the benchmarks of trust and of training count, on cases whose answer is known."""

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


def test_blackened_pictures_lose_the_half_they_say() -> None:
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
