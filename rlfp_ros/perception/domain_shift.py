"""The domain-shift score in [0, 1]: may what the encoder sees be believed?

A bundle with `trust.onnx` foretells errors of the object's position (`ErrorScore`): a small network reads the
encoder's outputs and the joints at the image's time, and scores above the hold threshold if the object is probably seen
at a wrong place (`learning/encoders/trust.py`). Older bundles, and images without joints, are scored by how unlike
training they look (`DomainShift`), from the encoder's embedding.

The Mahalanobis distance d of the embedding from its mean over training is compared with the distances that training's
own frames have. Embeddings are not normally distributed: both marks are measured when a bundle is made, not derived.

    score = 0     at or below the median distance of a training frame
    score = 0.5   at the distance that one training frame in a thousand passes
    score = 1     that much farther again, and beyond

linear in d between. So training frames lie near 0, almost never above 0.5, and a threshold of 0.9 means "as far
outside training's own spread as that spread is wide". (Mahalanobis distance on a network's features as a novelty
score: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018.) Where training has
learnt a mark of novelty (learning/encoders/novelty.py), that one number is the embedding, and the distance its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlfp_ros.contract import FeatureStatistics
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.schema import ConfigurationError

# Directions in which training hardly moved would blow rounding up into novelty: variances are at least this share of
# the largest.
SMALLEST_VARIANCE = 1e-4


# Inputs of trust.onnx: the encoder's outputs, the joints, and the tool's position and axis in the base frame.
TRUST_INPUTS = ("features", "object_pose", "pose_cov", "embedding", "joint_positions", "tool")
TRUST_OUTPUT = "domain_shift"


class DomainShift:
    """The score, as a function of one embedding."""

    def __init__(self, statistics: FeatureStatistics) -> None:
        self._mean = np.asarray(statistics.mean, dtype=np.float64)
        covariance = np.asarray(statistics.covariance, dtype=np.float64)
        size = len(self._mean)
        if size == 0 or covariance.shape != (size, size):
            raise ConfigurationError(
                f"bundle.yaml: feature_statistics.covariance is {list(covariance.shape)}, expected [{size}, {size}] as "
                "the mean; export the bundle again"
            )
        variances, axes = np.linalg.eigh((covariance + covariance.T) / 2)
        if not np.all(np.isfinite(variances)) or variances[-1] <= 0:
            raise ConfigurationError(
                "bundle.yaml: feature_statistics.covariance has no positive variance; export the bundle again"
            )
        variances = np.maximum(variances, SMALLEST_VARIANCE * variances[-1])
        self._whitening = axes.T / np.sqrt(variances)[:, None]  # [E, E]
        self._usual, self._rare = statistics.usual_distance, statistics.rare_distance

    def distance(self, embedding: np.ndarray) -> float:
        """Mahalanobis distance of `embedding` (E values in any shape) from training's mean."""
        return float(np.linalg.norm(self._whitening @ (np.ravel(embedding) - self._mean)))

    def __call__(self, embedding: np.ndarray) -> float:
        """Return the score in [0, 1]; 1 if the embedding is not finite."""
        distance = self.distance(embedding)
        if not math.isfinite(distance):
            return 1.0
        return min(1.0, max(0.0, 0.5 * (distance - self._usual) / (self._rare - self._usual)))


class ErrorScore:
    """The score of `trust.onnx`, as a function of the encoder's outputs and the joints at the image's time.

    Parameters
    ----------
    session
        `trust.onnx` in ONNX Runtime.
    arm
        The arm that is in the image.
    """

    def __init__(self, session: Any, arm: Arm) -> None:
        self._session = session
        self._kinematics = Kinematics(arm)

    def __call__(self, encoded: Sequence[np.ndarray], joint_positions: np.ndarray) -> float:
        """Return the score in [0, 1]; 1 if it is not finite.

        Parameters
        ----------
        encoded
            Features, object_pose, pose_cov and embedding of one image.
        joint_positions
            [J] rad, when the image was taken.
        """
        position, rotation, _ = self._kinematics.evaluate(joint_positions)
        values = (*encoded, joint_positions, np.concatenate([position, rotation[:, 2]]))
        inputs = {name: np.asarray(value, np.float32)[None] for name, value in zip(TRUST_INPUTS, values, strict=True)}
        score = float(np.ravel(self._session.run((TRUST_OUTPUT,), inputs)[0])[0])
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 1.0
