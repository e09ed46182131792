"""Tests of the representation objectives: each matches its paper, on data with a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from rlfp_ros import cli
from rlfp_ros.learning.algorithms.augmentation import shifted
from rlfp_ros.learning.encoders.encoder import ENCODERS, Encoder, EncoderChoice
from rlfp_ros.learning.encoders.exported import ExportedEncoder
from rlfp_ros.learning.encoders.spatial import SpatialSettings
from rlfp_ros.learning.encoders.vit import VitEncoder, VitSettings
from rlfp_ros.learning.export.networks import export_encoder
from rlfp_ros.learning.objectives.autoencoder import Autoencoder
from rlfp_ros.learning.objectives.curl import Curl, contrast
from rlfp_ros.learning.objectives.deep_spatial_autoencoder import DeepSpatialAutoencoder, roughness
from rlfp_ros.learning.objectives.depth_prediction import BANDS, DepthPrediction
from rlfp_ros.learning.objectives.inverse_dynamics import InverseDynamics
from rlfp_ros.learning.objectives.objective import Batch, Objective, Sizes, pixels_of
from rlfp_ros.learning.objectives.pixel_control import PixelControl, pixel_change
from rlfp_ros.learning.objectives.reward_prediction import RewardPrediction
from rlfp_ros.learning.objectives.variational_autoencoder import (
    L1VariationalAutoencoder,
    VariationalAutoencoder,
    divergence,
)
from rlfp_ros.learning.recipes.representation import objectives_of
from rlfp_ros.perception.encoder import OnnxEncoder
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.scene import load_scene

SCENE = load_scene(image_size=24)


CAMERA = SCENE.camera.contract()


SIZES = Sizes(CAMERA.height, CAMERA.width, 3, 36)


pytestmark = pytest.mark.usefixtures("seeded_torch")


def small(name: str) -> Encoder:
    return EncoderChoice(name, SpatialSettings(channels=8, points=6) if name == "spatial" else None).build(CAMERA)


def batch_of(encoder: Encoder, images: Tensor, **given: Tensor) -> Batch:
    seen = encoder.see(images.flatten(0, 1))
    nothing = {name: torch.empty(0) for name in ("actions", "rewards", "depths")}
    return Batch(images, seen[0], encoder.describe(*seen)[0].flatten(1), **(nothing | given))


def draw_spots(encoder: Encoder) -> Batch:
    return batch_of(encoder, spots(32)[0][:, None])


def learn(
    encoder: Encoder, objective: Objective, draw: Callable[[], Batch], steps: int, rate: float = 3e-3
) -> list[float]:
    parameters = [*encoder.parameters(), *(value for value in objective.parameters() if value.requires_grad)]
    optimizer = torch.optim.Adam(parameters, rate)
    losses = []
    for _ in range(steps):
        loss = objective.loss(encoder, draw())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.follow(encoder)
        losses.append(loss.item())
    return losses


def spots(count: int, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Grey images uint8 [count, H, W, 3] with a bright square, and where its middle is [count, 2] px."""
    where = torch.randint(3, 21, (count, 2)) if at is None else at
    v, u = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    inside = (u - where[:, 0, None, None]).abs().maximum((v - where[:, 1, None, None]).abs()) <= 2
    return (60 + 180 * inside[..., None].expand(-1, -1, -1, 3)).byte(), where


# --- encoders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS.names())
def test_every_encoder_exports_and_agrees_with_onnx_runtime(name: str) -> None:
    import onnxruntime

    encoder = small(name).eval()
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(export_encoder(encoder, image))
    with torch.no_grad():
        expected = ExportedEncoder(encoder).eval()(torch.from_numpy(image[None]))
    for found, wanted in zip(OnnxEncoder(session)(image), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found), wanted[0].numpy(), atol=1e-5, rtol=1e-5)
    assert expected[0].flatten(1).shape[1] == encoder.code_size


def test_the_transformer_uses_the_position_and_the_content_of_a_patch() -> None:
    encoder = VitEncoder(CAMERA, VitSettings(patch=12)).eval()
    image, _ = spots(1, torch.tensor([[5, 5]]))
    moved, _ = spots(1, torch.tensor([[17, 5]]))  # a whole patch farther: the same patches in other places
    with torch.no_grad():
        codes = [encoder(seen)[0] for seen in (image, moved, image.flip(1))]
    assert (codes[0] - codes[1]).abs().max() > 1e-4
    assert (codes[0] - codes[2]).abs().max() > 1e-4


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="patch is 7 px, but the image is 24 x 24"):
        VitEncoder(CAMERA, VitSettings(patch=7))


# --- objectives ----------------------------------------------------------------------------------------------------


def test_an_autoencoder_learns_to_draw_the_image_again() -> None:
    encoder = small("cnn")
    objective = Autoencoder(encoder, SIZES)
    losses = learn(encoder, objective, lambda: batch_of(encoder, spots(32)[0][:, None]), 120)
    flat = pixels_of(spots(256)[0], *objective.decoder.target)
    blank = (flat - flat.mean(dim=0)).square().mean().item()  # the error of the best image that is always the same
    assert np.mean(losses[-10:]) < 0.5 * blank


def test_the_divergence_is_that_of_two_gaussians() -> None:
    mean, log_variance = torch.tensor([[0.7, -1.2]]), torch.tensor([[0.4, -1.0]])
    noise = torch.randn(400_000, 2)
    latent = mean + torch.exp(0.5 * log_variance) * noise
    log_q = -0.5 * (noise.square() + log_variance)
    sampled = (log_q + 0.5 * latent.square()).sum(dim=-1).mean()
    assert divergence(mean, log_variance).item() == pytest.approx(sampled.item(), rel=0.01)


@pytest.mark.parametrize(("kind", "expected"), [(VariationalAutoencoder, 0.4), (L1VariationalAutoencoder, 0.0)])
def test_squared_error_draws_the_mean_and_absolute_error_the_median(kind: type, expected: float) -> None:
    """Pixels that are white two times of five, at random: nothing in the image tells which, so the best that can be
    drawn is a constant: 0.4 for squares, 0 for absolute errors."""
    encoder = small("cnn")
    objective = kind(encoder, SIZES)
    image = torch.zeros(40, 1, 24, 24, 3, dtype=torch.uint8)

    def draw() -> Batch:
        batch = batch_of(encoder, image)  # the encoder sees black
        white = (torch.rand(40, 1, 1, 1, 1) < 0.4).expand_as(image)
        return replace(batch, images=(255 * white).byte())

    learn(encoder, objective, draw, 80, rate=1e-2)
    with torch.no_grad():
        drawn = objective.decoder(batch_of(encoder, image).code).mean().item()
    assert (drawn + 1) / 2 == pytest.approx(expected, abs=0.1)


def test_a_larger_beta_brings_the_posterior_closer_to_the_prior() -> None:
    found = []
    for beta in (0.01, 30.0):
        torch.manual_seed(0)
        encoder = small("cnn")
        objective = VariationalAutoencoder(encoder, SIZES)
        objective.settings = replace(objective.settings, beta=beta)
        learn(encoder, objective, partial(draw_spots, encoder), 40)
        with torch.no_grad():
            batch = batch_of(encoder, spots(64)[0][:, None])
            found.append(divergence(batch.code, objective.log_variance(batch.seen)).mean().item())
    assert found[1] < 0.3 * found[0]


def test_the_deep_spatial_autoencoder_puts_a_point_on_the_moving_object() -> None:
    """Without a label: one of the points follows the square, up to a linear map."""
    encoder = small("spatial")
    objective = DeepSpatialAutoencoder(encoder, SIZES)

    def draw() -> Batch:
        start, speed = torch.randint(6, 18, (12, 1, 2)), torch.randint(-1, 2, (12, 1, 2))
        images, _ = spots(36, (start + speed * torch.arange(3)[None, :, None]).flatten(0, 1))
        return batch_of(encoder, images.unflatten(0, (12, 3)))

    learn(encoder, objective, draw, 200, rate=1e-2)
    images, where = spots(200, torch.randint(6, 18, (200, 2)))
    with torch.no_grad():
        points = encoder(images)[0][..., :2].flatten(1)
    design = torch.cat([points, torch.ones(200, 1)], dim=1)
    fitted = design @ torch.linalg.lstsq(design[:100], where[:100].float()).solution
    error = (fitted - where)[100:].norm(dim=1).mean()
    assert error < 1.5  # px; 4.6 for a guess at the middle


def test_roughness_is_zero_for_steady_motion_and_the_square_of_a_jerk() -> None:
    steady = torch.arange(3)[None, :, None, None] * torch.tensor([0.3, -0.2])
    assert roughness(steady) == pytest.approx(0.0, abs=1e-12)
    jump = steady.clone()
    jump[:, 2, :, 0] += 0.1
    assert roughness(jump).item() == pytest.approx(0.01, rel=1e-5)


def test_the_temperature_of_the_spatial_softmax_is_learnt() -> None:
    encoder = small("spatial")
    objective = DeepSpatialAutoencoder(encoder, SIZES)
    objective.loss(encoder, batch_of(encoder, spots(6)[0].unflatten(0, (2, 3)))).backward()
    gradient = encoder.get_parameter("log_sharpness").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_crops_are_the_image_shifted() -> None:
    images = torch.arange(24)[None, None, :, None].expand(50, 24, 24, 3).byte()  # each pixel says its column
    cropped = shifted(images, 3)
    shifts = cropped[:, 0, 12, 0].int() - 12
    assert shifts.min() == -3
    assert shifts.max() == 3
    expected = (torch.arange(24)[None] + shifts[:, None]).clamp(0, 23)
    torch.testing.assert_close(cropped[:, 5, :, 1].int(), expected.int())


def test_infonce_is_the_log_of_the_batch_for_features_that_say_nothing() -> None:
    assert contrast(torch.zeros(16, 16)).item() == pytest.approx(math.log(16))
    assert contrast(50 * torch.eye(16)).item() == pytest.approx(0.0, abs=1e-6)


def test_curl_finds_the_other_crop_of_an_image_and_its_keys_follow_slowly() -> None:
    encoder = small("cnn")
    objective = Curl(encoder, SIZES)
    before = [value.clone() for value in objective.momentum_encoder.parameters()]
    tones = torch.randint(0, 256, (64, 1, 1, 1, 3)).expand(-1, 1, 24, 24, -1).byte()

    def draw() -> Batch:
        return batch_of(encoder, tones[torch.randperm(64)[:16]])

    assert np.mean(learn(encoder, objective, draw, 80)[-10:]) < 0.5 * math.log(16)
    assert objective.momentum_encoder.get_parameter("projection.weight").grad is None
    assert any(
        (one - other).abs().max() > 0
        for one, other in zip(before, objective.momentum_encoder.parameters(), strict=True)
    )


def test_the_momentum_encoder_goes_a_twentieth_of_the_way() -> None:
    encoder = small("cnn")
    objective = Curl(encoder, SIZES)
    with torch.no_grad():
        encoder.get_parameter("projection.bias").add_(1.0)
    followed = objective.momentum_encoder.get_parameter("projection.bias")
    start = followed.clone()
    objective.follow(encoder)
    torch.testing.assert_close(followed, start + 0.05)


def moving_spots(count: int, length: int) -> tuple[Tensor, Tensor]:
    """Sequences [count, length, H, W, 3] in which action 1 moves the square right, 2 left, 0 not; and the actions."""
    actions = torch.randint(0, 3, (count, length - 1))
    step = torch.tensor([0, 2, -2])[actions].cumsum(dim=1)
    start = torch.randint(8, 16, (count, 2))
    where = start[:, None].repeat(1, length, 1)
    where[:, 1:, 0] += step
    return spots(count * length, where.flatten(0, 1))[0].unflatten(0, (count, length)), actions


def drawing(encoder: Encoder, length: int) -> Callable[..., Batch]:
    """Return a function that draws sequences of moving spots, 32 or as many as it is given."""

    def draw(count: int = 32) -> Batch:
        images, actions = moving_spots(count, length)
        return batch_of(encoder, images, actions=actions)

    return draw


def test_inverse_dynamics_recovers_the_action_from_the_change() -> None:
    encoder = small("cnn")
    objective = InverseDynamics(encoder, SIZES)

    draw = drawing(encoder, 2)
    learn(encoder, objective, draw, 110)
    batch = draw(200)
    with torch.no_grad():
        guessed = objective.network(batch.codes.flatten(1)).argmax(dim=1)
    assert (guessed == batch.actions[:, 0]).float().mean() > 0.9


def test_depth_bands_are_equally_full_and_learnt() -> None:
    encoder = small("cnn")
    objective = DepthPrediction(encoder, SIZES)
    depths = torch.rand(500, 6, 6)
    objective.fit(torch.empty(0), depths)
    shares = torch.bincount(objective.bands(depths).flatten(), minlength=BANDS) / depths.numel()
    torch.testing.assert_close(shares, torch.full((BANDS,), 1 / BANDS), atol=0.01, rtol=0)

    def draw() -> Batch:
        """The brighter, the nearer."""
        tone = torch.randint(0, 256, (32, 1, 1, 1, 1))
        images = tone.expand(-1, 1, 24, 24, 3).byte()
        return batch_of(encoder, images, depths=(1 - tone[..., 0] / 255).expand(-1, 1, 6, 6))

    losses = learn(encoder, objective, draw, 100)
    assert losses[0] > 0.8 * math.log(BANDS)
    assert np.mean(losses[-10:]) < 0.5 * math.log(BANDS)


def test_reward_prediction_uses_the_images_before_alone() -> None:
    encoder = small("cnn")
    objective = RewardPrediction(encoder, SIZES)
    objective.fit(torch.linspace(-1, 0, 301), torch.empty(0))
    torch.testing.assert_close(objective.edges, torch.tensor([-2 / 3, -1 / 3]), atol=0.01, rtol=0)
    images = torch.randint(0, 256, (8, 3, 24, 24, 3)).byte()
    rewards = torch.rand(8, 3) - 1
    encoder.eval()
    with torch.no_grad():
        one = objective.loss(encoder, batch_of(encoder, images, rewards=rewards))
        images[:, 2] = 0
        rewards[:, :2] = 0
        other = objective.loss(encoder, batch_of(encoder, images, rewards=rewards))
        rewards[:, 2] = -0.01
        third = objective.loss(encoder, batch_of(encoder, images, rewards=rewards))
    assert one == other
    assert third != other


def test_pixel_change_is_the_mean_difference_of_each_cell() -> None:
    images = torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)
    images[0, 1, :2, 4:6] = 255  # a quarter of the upper right cell
    torch.testing.assert_close(pixel_change(images, 4)[0, 0], torch.tensor([[0.0, 0.25], [0.0, 0.0]]))


def test_pixel_control_bootstraps_over_n_steps() -> None:
    encoder = small("cnn")
    objective = PixelControl(encoder, SIZES)
    change = torch.tensor([1.0, 2.0])[None, :, None, None]
    found = objective.returns(change, torch.full((1, 1, 1), 10.0))
    assert found.item() == pytest.approx(1 + 0.9 * 2 + 0.81 * 10)


def test_pixel_control_learns_which_action_changes_the_image() -> None:
    """Actions 1 and 2 move the square, 0 does not."""
    encoder = small("cnn")
    objective = PixelControl(encoder, SIZES)

    draw = drawing(encoder, 3)
    learn(encoder, objective, draw, 110)
    with torch.no_grad():
        values = objective.head(draw(100).codes[:, 0]).mean(dim=(0, 2, 3))
    assert values[1] > 1.05 * values[0]
    assert values[2] > 1.05 * values[0]


# --- choosing them ---------------------------------------------------------------------------------------------------


def test_representations_are_named_and_added_up() -> None:
    supervised, kinds = objectives_of("supervised+depth+inverse_dynamics")
    assert supervised
    assert kinds == [DepthPrediction, InverseDynamics]
    for wrong, said in (("nonsense", "'nonsense' which is not known"), ("curl+curl", "'curl' twice")):
        with pytest.raises(ConfigurationError, match=said):
            objectives_of(wrong)
    with pytest.raises(ConfigurationError, match="expected one of: cnn, spatial, vit"):
        EncoderChoice("resnet").build(CAMERA)


def test_objectives_refuse_encoders_they_do_not_go_with() -> None:
    with pytest.raises(ConfigurationError, match="choose --encoder cnn or vit"):
        VariationalAutoencoder(small("spatial"), SIZES)
    with pytest.raises(ConfigurationError, match="needs feature points; choose --encoder spatial"):
        DeepSpatialAutoencoder(small("cnn"), SIZES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoder", "cnn", "--representation", "dsae"], "choose --encoder spatial"),
        (["--representation", "vae"], "choose --encoder cnn or vit"),
        (["--encoder", "resnet"], "encoder is 'resnet'"),
        (["--representation", "supervised+dino"], "'dino' which is not known"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_it_leaves_anything(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert (
        cli.main(
            ["train", "reach", "--recipe", "imitation", *words, "--run", str(run), "--out", str(tmp_path / "bundle")]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not run.exists()
