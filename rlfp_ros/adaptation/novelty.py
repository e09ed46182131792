"""Fits the mark of novelty of an encoder to images of training and of a recording together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.adaptation.encoder import DeployedEncoder, MarkConstants, check_mark
from rlfp_ros.adaptation.material import AdaptationMaterial
from rlfp_ros.contract import FeatureStatistics
from rlfp_ros.learning.encoders.novelty import ALTERATIONS, NoveltyTraining, fit_marks
from rlfp_ros.learning.recipes.domain_shift_reference import statistics_of
from rlfp_ros.perception.domain_shift import DomainShift

CHECKED = 20  # images by which it is checked that the file computes its mark as it is known here


@dataclass(frozen=True)
class FittedNovelty:
    """An `encoder.onnx` with its fitted mark, and the contract's reference of the domain-shift score."""

    file: bytes
    statistics: FeatureStatistics


def fit_novelty(file: bytes, material: AdaptationMaterial, seed: int) -> FittedNovelty:
    """Fit the mark of an encoder, so that recorded images are as usual as those of training.

    Images of both kinds, in equal numbers if there are enough, and altered copies of them are learned from. What is
    usual and what is rare is measured on held-out images of both kinds.

    Raises
    ------
    ConfigurationError
        If the encoder has no such mark.
    """
    encoder, constants = DeployedEncoder(file), MarkConstants(file)
    check_mark(encoder, constants.novelty(), material.rendered_held_out.images[:CHECKED])
    rng = np.random.default_rng([seed, 31])
    usual = np.concatenate([material.rendered.images, _some(material.recorded.images, material.rendered.images, rng)])
    fresh = fresh_images(material)
    K = material.camera.intrinsics.matrix()
    novelty = fit_marks(encoder.described, usual, fresh, K, rng, seed, NoveltyTraining())
    fitted = constants.replaced(novelty)
    marks = DeployedEncoder(fitted).features(fresh)[2]
    return FittedNovelty(fitted, statistics_of(marks[:, None], np.zeros(1), np.eye(1)))


def fresh_images(material: AdaptationMaterial) -> np.ndarray:
    """Return held-out images of training and of the recording, in equal numbers if there are enough."""
    rendered, recorded = material.rendered_held_out.images, material.held_out.images
    return np.concatenate([rendered, _some(recorded, rendered, np.random.default_rng(0))])


def _some(images: np.ndarray, like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return at most as many images as `like` has, drawn without repetition."""
    return images[np.sort(rng.permutation(len(images))[: len(like)])]


def shifts(file: bytes, statistics: FeatureStatistics, images: np.ndarray) -> np.ndarray:
    """Compute the domain-shift scores [N] of images uint8 [N, h, w, 3]."""
    score = DomainShift(statistics)
    return np.array([score(mark[None]) for mark in DeployedEncoder(file).features(images)[2]])


def detection(file: bytes, images: np.ndarray, K: np.ndarray, seed: int) -> float:
    """Measure how well the mark tells altered copies of images from the images: the area under the ROC curve."""
    rng = np.random.default_rng([seed, 37])
    altered = np.stack([ALTERATIONS[number % len(ALTERATIONS)](image, rng, K) for number, image in enumerate(images)])
    encoder = DeployedEncoder(file)
    usual, changed = (encoder.features(each)[2] for each in (images, altered))
    higher = (changed[:, None] > usual[None]).mean() + 0.5 * (changed[:, None] == usual[None]).mean()
    return float(higher)
