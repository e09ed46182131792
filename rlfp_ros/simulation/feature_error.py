"""Adds an encoder's errors to the true keypoints: features for training a policy without rendering.

An encoder's points have a bias, an error that persists for some frames (first-order autoregressive, Gaussian) and
occasional outliers. `fit` estimates these from an encoder's points and the true ones. Training a policy on
`FeatureErrors` is several times faster; fine-tuning and evaluation use pixels again.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError

OUTLIER_DEVIATIONS = 4.0  # errors beyond this many (robust) standard deviations are outliers
NORMAL_MAD = 1.4826  # ratio of standard deviation to median absolute deviation of a Gaussian


@dataclass(frozen=True)
class FeatureErrorModel:
    """An encoder's errors at N feature points, on the plane z = 1 of the optical frame."""

    bias: np.ndarray  # [N, 2]
    covariance: np.ndarray  # [N, 2, 2] of the ordinary error
    persistence: np.ndarray  # [N] correlation of an error with the one a frame later, 0..1
    outlier_rate: np.ndarray  # [N] share of frames with an outlier
    outlier_spread: np.ndarray  # [N] standard deviation of outliers
    confidence: np.ndarray  # [N, 2] mean and standard deviation of the encoder's confidence

    def save(self, path: Path) -> None:
        """Write to an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> FeatureErrorModel:
        """Read an .npz file. Raises ConfigurationError if it is not an error model."""
        try:
            with np.load(path) as file:
                return cls(**{field.name: file[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(f"{path}: not a feature error model ({error}); fit one again") from None


class FeatureErrors:
    """The errors of one episode."""

    def __init__(self, model: FeatureErrorModel, rng: np.random.Generator) -> None:
        self._model, self._rng = model, rng
        self._scale = np.linalg.cholesky(model.covariance + 1e-18 * np.eye(2))
        self._error = self._fresh()

    def _fresh(self) -> np.ndarray:
        drawn = self._rng.standard_normal((len(self._scale), 2, 1))
        return np.asarray((self._scale @ drawn)[..., 0])

    def __call__(self, keypoints: np.ndarray) -> np.ndarray:
        """Return the features, float32 [N, 3], that an encoder would give for true `keypoints` [N, 2]."""
        model, rng = self._model, self._rng
        kept = model.persistence[:, None]
        self._error = kept * self._error + np.sqrt(1 - kept**2) * self._fresh()
        gross = rng.uniform(size=(len(kept), 1)) < model.outlier_rate[:, None]
        mistake = model.outlier_spread[:, None] * rng.standard_normal((len(kept), 2))
        points = keypoints + model.bias + np.where(gross, mistake, self._error)
        confidence = rng.normal(model.confidence[:, :1], model.confidence[:, 1:])
        return np.hstack((points, np.clip(confidence, 0, 1))).astype(np.float32)


def fit(given: np.ndarray, true: np.ndarray, starts: np.ndarray) -> FeatureErrorModel:
    """Estimate an encoder's errors.

    Parameters
    ----------
    given
        The encoder's feature points, [T, K, 3]. Points beyond the first N have no truth and are left out.
    true
        The true keypoints, [T, N, 2], K >= N.
    starts
        Whether an episode begins at a frame, [T].
    """
    points = true.shape[1]
    errors = given[:, :points, :2] - true
    bias = np.median(errors, axis=0)
    centred = errors - bias
    robust = NORMAL_MAD * np.median(np.abs(centred), axis=0) + 1e-9  # [N, 2]
    gross = (np.abs(centred) > OUTLIER_DEVIATIONS * robust).any(axis=-1)  # [T, N]
    covariance, persistence, spread = np.zeros((points, 2, 2)), np.zeros(points), np.zeros(points)
    for point in range(points):
        ordinary = centred[~gross[:, point], point]
        covariance[point] = ordinary.T @ ordinary / max(len(ordinary), 1)
        pair = ~starts[1:] & ~gross[1:, point] & ~gross[:-1, point]
        before, after = centred[:-1][pair, point], centred[1:][pair, point]
        persistence[point] = np.sum(before * after) / max(np.sum(before**2), 1e-12)
        spread[point] = np.sqrt(np.mean(centred[gross[:, point], point] ** 2)) if gross[:, point].any() else 0.0
    confidence = np.stack([given[:, :points, 2].mean(axis=0), given[:, :points, 2].std(axis=0)], axis=-1)
    return FeatureErrorModel(bias, covariance, np.clip(persistence, 0, 0.999), gross.mean(axis=0), spread, confidence)
