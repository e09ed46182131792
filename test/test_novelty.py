"""Tests of the novelty of images, and of the pose covariance that it widens."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from rlfp_ros.contract import load_bundle
from rlfp_ros.learning.encoders import novelty
from rlfp_ros.learning.encoders.pose_head import INSIDE_90
from rlfp_ros.learning.encoders.spatial import SpatialEncoder

pytestmark = pytest.mark.usefixtures("seeded_torch")


def test_novelty_marks_altered_images_and_leaves_torchs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    camera = load_bundle("reach_panda").contract.camera
    encoder = SpatialEncoder(camera).eval()
    rng = np.random.default_rng(0)
    grey = rng.integers(100, 156, (160, 1, 1, 3)) + rng.integers(-20, 20, (160, 84, 84, 3))
    images = grey.astype(np.uint8)
    images[:, 30:40, 30:40] = (200, 30, 30)
    before = torch.get_rng_state()
    learnt = novelty.learn_novelty(
        encoder,
        images,
        np.tile(encoder.origin.numpy(), (160, 1)),
        40,
        camera.intrinsics.matrix(),
        0,
        novelty.NoveltyTraining(images=120, updates=60, batch=32),
    )
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        usual = learnt(*encoder.see(torch.from_numpy(images[120:])))
        other = learnt(*encoder.see(torch.from_numpy(255 - images[120:])))
    assert usual.min() >= 0
    assert float((other[:, 0] > usual.max()).float().mean()) > 0.9


@pytest.mark.parametrize("said", [0.5, 1.0, 4.0])
def test_calibrated_90_percent_regions_contain_90_percent_for_any_output_of_the_pose_head(said: float) -> None:
    """Of errors of 1 cm, said to be `said` cm: with the spread that is fitted, on others than it was fitted on."""

    class Head:
        def see(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

        def describe(self, maps: torch.Tensor, _: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor, None]:
            return None, torch.zeros(len(maps), 3), 0.01 * said * torch.eye(3).expand(len(maps), 3, 3), None

    class Usual(novelty.Novelty):
        def forward(self, maps: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(maps), 1)

    marks, errors = Usual(4, 4, 2), 0.01 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    nothing = np.zeros((2000, 1), np.float32)
    novelty.fit_covariance(marks, Head(), nothing, nothing, errors[:2000].numpy())  # type: ignore[arg-type]
    covariance = marks.widened((0.01 * said) ** 2 * torch.eye(3)[None], torch.zeros(1, 1))[0]
    squares = (errors[2000:] @ torch.linalg.inv(covariance) * errors[2000:]).sum(dim=1)
    assert 0.87 < float((squares < INSIDE_90).float().mean()) < 0.93


def test_an_unusual_image_widens_the_pose_covariance() -> None:
    marks = novelty.Novelty(4, 4, 2)
    marks.inflation.fill_(0.5)
    covariance = torch.eye(3)[None].expand(2, 3, 3)
    widened = marks.widened(covariance, torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(widened[0], torch.eye(3))
    torch.testing.assert_close(widened[1], 2 * torch.eye(3))
