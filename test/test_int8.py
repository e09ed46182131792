"""Tests of the int8 encoder: when it is kept, and how close its features are to the float one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from rlfp_ros.contract import load_bundle
from rlfp_ros.learning.encoders.spatial import SpatialEncoder
from rlfp_ros.learning.export import quantise
from rlfp_ros.learning.export.networks import export_encoder, in_onnx_runtime

pytestmark = pytest.mark.usefixtures("seeded_torch")


@pytest.mark.parametrize(
    ("times", "errors", "kept"),
    [
        ((1.0, 0.7), ((0.020, 0.01), (0.020, 0.01)), True),
        ((1.0, 0.99), ((0.020, 0.01), (0.020, 0.01)), False),  # hardly faster
        ((1.0, 0.7), ((0.020, 0.01), (0.021, 0.01)), False),  # a worse position
        ((1.0, 0.7), ((0.020, 0.01), (0.020, 0.011)), False),  # worse points
    ],
)
def test_int8_is_kept_only_if_faster_and_no_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: Any, errors: Any, kept: bool
) -> None:
    for name, width in (("images", (84, 84, 3)), ("positions", (3,)), ("keypoints", (3, 2))):
        np.save(tmp_path / f"{name}.npy", np.zeros((30, *width), np.uint8))
    network = load_bundle("reach_panda").file("encoder.onnx").read_bytes()
    monkeypatch.setattr(quantise, "int8_encoder", lambda file, images: network)
    monkeypatch.setattr(quantise, "times_of", lambda *given: dict(zip(("float", "int8"), times, strict=True)))
    found = iter(errors)
    monkeypatch.setattr(quantise, "errors_of", lambda *given: next(found))
    verdict = quantise.trial(network, tmp_path)
    assert verdict is not None
    assert verdict.kept is kept


def test_an_int8_encoder_gives_nearly_the_features_of_the_float_one() -> None:
    """A red square, found after a few gradient steps: shipped encoders may be int8 already."""
    camera, rng = load_bundle("reach_panda").contract.camera, np.random.default_rng(0)
    encoder = SpatialEncoder(camera)

    def squares(count: int) -> tuple[np.ndarray, np.ndarray]:
        middle = rng.integers(12, 72, (count, 2))
        batch = rng.integers(90, 140, (count, 84, 84, 3)).astype(np.uint8)
        for image, (x, y) in zip(batch, middle, strict=True):
            image[y - 4 : y + 4, x - 4 : x + 4] = (230, 20, 20)
        lens = camera.intrinsics
        points = (middle - 0.5 - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
        return batch, points.astype(np.float32)

    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    for _ in range(40):
        batch, points = squares(16)
        log_weights = encoder.see(torch.from_numpy(batch))[1]
        loss = -(encoder.cell_weights(torch.from_numpy(points)[:, None]) * log_weights[:, :1]).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
    batch, points = squares(10)
    network = export_encoder(encoder, batch[0])
    small = quantise.int8_encoder(network, batch)
    assert len(small) < 0.8 * len(network)
    seen, seen_small = (
        np.stack([in_onnx_runtime(file, ("features",))({"image": image[None]})[0][0] for image in batch])
        for file in (network, small)
    )
    assert np.median(np.abs(seen[:, 0, :2] - points)) < 0.008  # a pixel, on the plane z = 1
    assert np.median(np.abs(seen - seen_small)[:, 0, :2]) < 0.004
