"""The bundle's encoder on ONNX Runtime: from the picture a policy was trained for to what it sees in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlfp_ros.bundle import Bundle
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.perception.preprocess import Preprocessor


@dataclass(frozen=True)
class Percept:
    """What one picture says."""

    features: np.ndarray  # float32 [K, 3]: x, y on the plane z = 1 of the optical frame, confidence in [0, 1]
    object_pose: np.ndarray  # float32 [7]: xyz m and quaternion xyzw, optical frame of the bundle's camera
    pose_cov: np.ndarray  # float32 [6, 6]: m^2, rad^2
    embedding: np.ndarray  # float32 [E], what the domain-shift score looks at
    domain_shift: float  # in [0, 1]


def in_base_frame(percept: Percept, T_base_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object position [3] m and pose covariance [6, 6] in the base frame; float64."""
    rotation = T_base_camera[:3, :3]
    position = rotation @ percept.object_pose[:3].astype(np.float64) + T_base_camera[:3, 3]
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = rotation
    return position, turn @ percept.pose_cov.astype(np.float64) @ turn.T


class OnnxEncoder:
    """`encoder.onnx` as a function of one picture."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """features [K, 3], object_pose [7], pose_cov [6, 6], embedding [E] of uint8 [H, W, 3] rgb."""
        outputs = self._session.run(
            ("features", "object_pose", "pose_cov", "embedding"), {"image": np.ascontiguousarray(image)[None]}
        )
        features, object_pose, pose_cov, embedding = (output[0] for output in outputs)
        return features, object_pose, pose_cov, embedding


class Perception:
    """Preprocessing, encoder and domain-shift score of a bundle. The only way pictures reach a policy."""

    def __init__(self, bundle: Bundle) -> None:
        self.contract = bundle.contract
        self._preprocessor = Preprocessor(bundle.contract)
        self._encoder = OnnxEncoder(bundle.session("encoder.onnx"))
        self._domain_shift = DomainShift(bundle.contract.feature_statistics)

    def __call__(self, image: np.ndarray, K: np.ndarray | None = None, distortion: np.ndarray | None = None) -> Percept:
        """What uint8 [H, W, 3] rgb shows. `K` [3, 3] and `distortion` [n] of the live camera; None: the bundle's."""
        features, object_pose, pose_cov, embedding = self._encoder(self._preprocessor(image, K, distortion))
        return Percept(features, object_pose, pose_cov, embedding, self._domain_shift(embedding))
