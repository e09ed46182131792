"""Marks of novelty: how much an image differs from those of training, learnt for a finished encoder.

The encoder's weights stay as they are. There are two marks, of which the larger counts:

- the Mahalanobis distance of the last maps' means and deviations and of the points' confidences from training's (Lee
  et al. 2018, https://arxiv.org/abs/1807.03888). It notices whatever changes these statistics, such as a
  dark half of the image.
- a small network's log-odds that an image was altered, learnt from training's images and altered copies of them
  (outlier exposure, Hendrycks et al. 2019, https://arxiv.org/abs/1812.04606). It notices what the statistics do not
  show: an object of another colour, a camera that looks elsewhere.

Each is scaled to 0 at the median and 1 at the 99.9th percentile of training's images, and clipped to 0 to 5.

The pose's covariance is calibrated here as well. Errors have longer tails than the head's normal distribution, whose
regions are therefore too wide: they are scaled until they hold the nominal share. They also grow with the mark, because
an encoder makes larger errors on unusual images, which a pose head that was fitted on training alone does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import PointEncoder
from rlfp_ros.learning.encoders.pose_head import INSIDE_90

RARE = 0.999  # quantile of training's images at which the mark is 1
# Of activations, which are of the order of 1: dividing by a smaller deviation would amplify float32's rounding.
SMALLEST_DEVIATION = 1e-2
MOST = 5.0  # largest mark
# Smallest difference between usual and rare, of the log distance and of the log-odds: less would amplify rounding.
SMALLEST_SPREAD = (0.5, 4.0)
LEAST_SPREAD = 0.01  # smallest factor of the head's covariance; with 0 the regions would be empty
MOST_INSIDE = 0.93  # largest share of training's own positions in the nominal 90 % regions
Describe = Callable[[np.ndarray], tuple[Tensor, Tensor]]
GRID = 3  # cells in each direction over which the maps are averaged for the network


@dataclass(frozen=True)
class NoveltyTraining:
    """Length and data of the training of the marks."""

    images: int = 6_000  # number of training's images, and of altered copies
    updates: int = 2_000
    batch: int = 256
    learning_rate: float = 4e-3
    hidden: int = 64


class Novelty(nn.Module):
    """A mark [B, 1] from the maps and log-weights of `PointEncoder.see`: 0 for a usual image, 1 for a rare one."""

    mean: Tensor
    whitening: Tensor
    centre: Tensor
    scale: Tensor
    usual: Tensor
    rare: Tensor
    spread: Tensor
    inflation: Tensor

    def __init__(self, statistics: int, descriptors: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(descriptors, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 1))
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("whitening", torch.eye(statistics))
        self.register_buffer("centre", torch.zeros(descriptors))
        self.register_buffer("scale", torch.ones(descriptors))
        self.register_buffer("usual", torch.zeros(2))
        self.register_buffer("rare", torch.ones(2))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("inflation", torch.zeros(()))

    def forward(self, maps: Tensor, log_weights: Tensor) -> Tensor:
        """Compute the mark [B, 1] of maps [B, C, rows, columns] and log-weights [B, K, cells]."""
        marks = (self.raw(*describe(maps, log_weights)) - self.usual) / (self.rare - self.usual)
        return marks.amax(dim=1, keepdim=True).clamp(0.0, MOST)

    def raw(self, statistics: Tensor, descriptors: Tensor) -> Tensor:
        """Compute log distance and log-odds [B, 2], before they are scaled."""
        distance = ((statistics - self.mean) @ self.whitening).square().sum(dim=1, keepdim=True)
        normalised = ((descriptors - self.centre) / self.scale).clamp(-5, 5)
        return torch.cat([torch.log1p(distance), self.network(normalised)], dim=1)

    def widened(self, covariance: Tensor, mark: Tensor) -> Tensor:
        """Calibrate covariances [B, 3, 3] for images with these marks [B, 1]."""
        return covariance * self.spread * (1 + self.inflation * mark)[..., None]


def describe(maps: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute statistics [B, 2 C + K] for the distance and descriptors [B, D] for the network."""
    mean = maps.mean(dim=(2, 3))
    # Not E[x^2] - E[x]^2, whose float32 cancellation differs between PyTorch and ONNX Runtime.
    deviation = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3)).add(1e-8).sqrt()
    confidence = log_weights.amax(dim=-1)
    entropy = -(log_weights.exp() * log_weights).sum(dim=-1)
    statistics = torch.cat([mean, deviation, confidence], dim=1)
    cells = functional.adaptive_avg_pool2d(maps, GRID).flatten(1)
    return statistics, torch.cat([statistics, entropy, cells], dim=1)


def learn_novelty(
    encoder: PointEncoder, images: np.ndarray, positions: np.ndarray, held_out: int, K: np.ndarray, seed: int,
    training: NoveltyTraining | None = None,
) -> Novelty:  # fmt: skip
    """Learn the marks for a finished encoder. Torch's own random state stays as it is.

    Parameters
    ----------
    encoder
        The finished encoder.
    images, positions
        Training's images uint8 [N, H, W, 3], and the object's positions [N, 3] m in the optical frame.
    held_out
        Number of images at the end that the encoder was not trained on: they define what is usual, and calibrate the
        covariance of the pose.
    K
        Camera matrix [3, 3].
    seed, training
        Seed and length of the learning.
    """
    training = training or NoveltyTraining()
    rng = np.random.default_rng([seed, 11])
    known = len(images) - held_out
    usual = np.array(images[np.sort(rng.permutation(known)[: training.images])])
    fresh = np.array(images[known:])
    encoder.eval()
    novelty = fit_marks(lambda chosen: _described(encoder, chosen), usual, fresh, K, rng, seed, training)
    degraded = np.stack([_degrade(image, rng, K) for image in fresh])
    fit_covariance(novelty, encoder, fresh, degraded, positions[known:])
    return novelty


def fit_marks(
    described: Describe,
    usual: np.ndarray,
    fresh: np.ndarray,
    K: np.ndarray,
    rng: np.random.Generator,
    seed: int,
    training: NoveltyTraining,
) -> Novelty:
    """Fit the marks themselves, without the covariance of the pose. Torch's own random state stays as it is.

    Parameters
    ----------
    described
        Computes what `describe` returns for images.
    usual, fresh
        Images uint8 [N, H, W, 3]: to learn from, and others of the same kind that define what is usual and rare.
    K
        Camera matrix [3, 3].
    rng, seed
        Draw the alterations, and the network's weights and batches.
    training
        Length of the learning.
    """
    kinds = rng.integers(0, len(ALTERATIONS), len(usual))
    altered = np.stack([ALTERATIONS[kind](image, rng, K) for image, kind in zip(usual, kinds, strict=True)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (statistics, clean), (_, changed) = described(usual), described(altered)
        novelty = Novelty(statistics.shape[1], clean.shape[1], training.hidden)
        _fit_scales(novelty, statistics, clean)
        _fit_network(novelty, clean, changed, training)
    novelty.eval()
    with torch.no_grad():
        raw = novelty.raw(*described(fresh))
        novelty.usual.copy_(torch.quantile(raw, 0.5, dim=0))
        rare = torch.quantile(raw, RARE, dim=0)
        novelty.rare.copy_(torch.maximum(rare, novelty.usual + torch.tensor(SMALLEST_SPREAD)))
    return novelty


@torch.no_grad()
def marks_of(novelty: Novelty, encoder: PointEncoder, images: np.ndarray) -> np.ndarray:
    """Compute the marks [N] of images uint8 [N, H, W, 3]."""
    parts = [novelty(*encoder.see(torch.from_numpy(np.array(part)))) for part in _batches(images)]
    return torch.cat(parts)[:, 0].numpy()


def _batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + 256] for start in range(0, len(images), 256)]


@torch.no_grad()
def _described(encoder: PointEncoder, images: np.ndarray) -> tuple[Tensor, Tensor]:
    parts = [describe(*encoder.see(torch.from_numpy(part))) for part in _batches(images)]
    statistics, descriptors = zip(*parts, strict=True)
    return torch.cat(statistics), torch.cat(descriptors)


def _fit_scales(novelty: Novelty, statistics: Tensor, descriptors: Tensor) -> None:
    novelty.mean.copy_(statistics.mean(dim=0))
    variances, axes = torch.linalg.eigh(torch.cov(statistics.T.double()))
    variances = variances.clamp(min=SMALLEST_DEVIATION**2)
    novelty.whitening.copy_((axes / variances.sqrt()).float())
    novelty.centre.copy_(descriptors.mean(dim=0))
    novelty.scale.copy_(descriptors.std(dim=0).clamp(min=SMALLEST_DEVIATION))


def _fit_network(novelty: Novelty, clean: Tensor, changed: Tensor, training: NoveltyTraining) -> None:
    inputs = ((torch.cat([clean, changed]) - novelty.centre) / novelty.scale).clamp(-5, 5)
    is_altered = torch.cat([torch.zeros(len(clean)), torch.ones(len(changed))])
    optimizer = torch.optim.AdamW(novelty.network.parameters(), training.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.updates)
    for _ in range(training.updates):
        picks = torch.randint(0, len(inputs), (training.batch,))
        odds = novelty.network(inputs[picks]).squeeze(-1)
        loss = functional.binary_cross_entropy_with_logits(odds, is_altered[picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def fit_covariance(
    novelty: Novelty, encoder: PointEncoder, usual: np.ndarray, degraded: np.ndarray, positions: np.ndarray
) -> None:
    """Fit the spread, then the inflation of the covariance.

    The spread is such that the nominal 90 % regions hold 90 % of the positions in training's own images. The inflation
    is the smallest with which they hold 90 % of those in degraded images that the encoder can still make sense of, but
    at most MOST_INSIDE of training's own.
    """

    def judge(images: np.ndarray) -> tuple[Tensor, Tensor]:
        squares, marks = [], []
        for start in range(0, len(images), 256):
            maps, log_weights = encoder.see(torch.from_numpy(images[start : start + 256]))
            _, position, factor, _ = encoder.describe(maps, log_weights)
            error = torch.from_numpy(positions[start : start + 256]) - position
            standardised = torch.linalg.solve_triangular(factor, error[..., None], upper=False)
            squares.append(standardised.square().sum(dim=(1, 2)))
            marks.append(novelty(maps, log_weights)[:, 0])
        return torch.cat(squares), torch.cat(marks)

    (square, mark), (other_square, other_mark) = judge(usual), judge(degraded)
    judged = other_mark <= 1.5

    novelty.spread.copy_((torch.quantile(square, 0.9) / INSIDE_90).clamp(min=LEAST_SPREAD))

    def inside(inflation: float, square: Tensor, mark: Tensor) -> float:
        return float((square < INSIDE_90 * novelty.spread * (1 + inflation * mark)).float().mean())

    for inflation in np.arange(0.0, 20.0, 0.05):
        if inside(inflation, square, mark) > MOST_INSIDE:
            return
        novelty.inflation.fill_(inflation)
        if inside(inflation, other_square[judged], other_mark[judged]) >= 0.9:
            return


# --- altered images -------------------------------------------------------------------------------------------------


def _turn(image: np.ndarray, rng: np.random.Generator, K: np.ndarray) -> np.ndarray:
    """Turn the camera by 0.13 to 0.4 rad and change its lens; the border is mirrored."""
    axis = rng.normal(size=3)
    turn = cv2.Rodrigues(axis / np.linalg.norm(axis) * rng.uniform(0.13, 0.4))[0]
    other = K @ np.diag([*[rng.uniform(0.85, 1.2)] * 2, 1.0])
    height, width = image.shape[:2]
    return cv2.warpPerspective(
        image, other @ turn @ np.linalg.inv(K), (width, height), borderMode=cv2.BORDER_REFLECT_101
    )


def _recolour(image: np.ndarray, rng: np.random.Generator, K: np.ndarray) -> np.ndarray:
    """Turn all hues by 60 to 300 degrees, so that the object has another colour."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + rng.integers(30, 150)) % 180  # OpenCV's hues are half degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _cover(image: np.ndarray, rng: np.random.Generator, K: np.ndarray) -> np.ndarray:
    """Cover a rectangle of at least a sixth of the image by one colour, or by noise."""
    covered = image.copy()
    height, width = image.shape[:2]
    rows, columns = rng.integers(2 * height // 5, height, endpoint=True), rng.integers(2 * width // 5, width)
    top, left = rng.integers(0, height - rows, endpoint=True), rng.integers(0, width - columns, endpoint=True)
    shape = (1, 1, 3) if rng.uniform() < 0.5 else (rows, columns, 3)
    covered[top : top + rows, left : left + columns] = rng.integers(0, 256, shape)
    return covered


def _degrade(image: np.ndarray, rng: np.random.Generator, K: np.ndarray) -> np.ndarray:
    """Blur the image, add noise or lower its contrast, each beyond what training draws."""
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 5.0))
    if kind == 1:
        return np.clip(image + rng.normal(0, rng.uniform(12, 80), image.shape), 0, 255).astype(np.uint8)
    contrast, level = rng.uniform(0.05, 0.5), rng.uniform(40, 200)
    return np.clip((image.astype(np.float32) - 128) * contrast + level, 0, 255).astype(np.uint8)


ALTERATIONS = (_turn, _recolour, _cover, _degrade)
