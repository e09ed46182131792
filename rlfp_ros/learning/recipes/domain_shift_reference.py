"""Computes the reference of the domain-shift score from a finished encoder's embeddings of the training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rlfp_ros.contract import CameraContract, FeatureStatistics
from rlfp_ros.learning.encoders.encoder import Encoder, PointEncoder
from rlfp_ros.learning.encoders.novelty import RARE, Novelty, NoveltyTraining, learn_novelty, marks_of
from rlfp_ros.learning.recipes.frames import held_out_count
from rlfp_ros.perception.domain_shift import DomainShift

EMBEDDINGS = 6_000  # images whose embeddings are the reference of an encoder without feature maps
SMALLEST_DISTANCE = 0.01  # of the usual embedding, and from there to a rare one


def domain_shift_reference(
    encoder: Encoder, frames: Path, camera: CameraContract, seed: int, training: NoveltyTraining
) -> tuple[Novelty | None, FeatureStatistics]:
    """Learn the distribution of a finished encoder's results on usual images.

    Encoders of points have feature maps, from which marks of novelty are learnt; the mark is then the embedding. For
    other encoders the embedding itself is judged.

    Parameters
    ----------
    encoder
        The finished encoder; its weights stay as they are.
    frames
        The folder of training's images. No network was trained on the last `held_out_count` of them.
    camera
        The camera of these images.
    seed, training
        Seed and length of learning the marks.

    Returns
    -------
    novelty
        The marks, or None for an encoder without feature maps.
    statistics
        The reference of the score for a contract.
    """
    images = np.load(frames / "images.npy", mmap_mode="r")
    if not isinstance(encoder, PointEncoder):
        picks = np.random.default_rng(seed).permutation(len(images))[:EMBEDDINGS]
        with torch.no_grad():
            parts = [encoder(torch.from_numpy(images[part]))[3] for part in np.array_split(picks, 60)]
        embeddings = torch.cat(parts).double().numpy()
        return None, statistics_of(embeddings, embeddings.mean(axis=0), np.atleast_2d(np.cov(embeddings.T)))
    held_out = held_out_count(len(images))
    positions = np.load(frames / "positions.npy")
    novelty = learn_novelty(encoder, images, positions, held_out, camera.intrinsics.matrix(), seed, training)
    marks = marks_of(novelty, encoder, images[-held_out:])
    return novelty, statistics_of(marks[:, None], np.zeros(1), np.eye(1))  # marks are scaled already


def statistics_of(embeddings: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> FeatureStatistics:
    """Measure the distances of embeddings [N, E] from their `mean` [E], scaled by their `covariance` [E, E].

    Few embeddings can all lie at the same distance, even 0. The score needs a usual distance above 0 and a rare one
    above that, so both are kept `SMALLEST_DISTANCE` apart.
    """
    if not np.trace(covariance) > 0:  # all embeddings are equal: any difference from them counts
        covariance = np.eye(len(mean))
    rounded = FeatureStatistics(
        mean=tuple(float(f"{value:.6g}") for value in mean),
        covariance=tuple(tuple(float(f"{value:.6g}") for value in row) for row in covariance),
        usual_distance=1.0,
        rare_distance=2.0,
    )
    scale = DomainShift(rounded)
    usual, rare = np.quantile([scale.distance(embedding) for embedding in embeddings], [0.5, RARE])
    usual = max(round(float(usual), 6), SMALLEST_DISTANCE)
    rare = max(round(float(rare), 6), usual + SMALLEST_DISTANCE)
    return rounded.model_copy(update={"usual_distance": usual, "rare_distance": rare})
