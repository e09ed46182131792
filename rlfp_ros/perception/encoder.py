"""The bundle's encoder on ONNX Runtime: from the picture a policy was trained for to what it sees in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlfp_ros.contract import GOLDEN_TOLERANCE, Bundle, GoldenFrames
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.schema import ConfigurationError

# Added to a picture that is repeated three times each way, it is gone after averaging by area, and only then.
DITHER = np.array([[-2, 1, 0], [1, 2, -1], [0, -1, 0]])
DITHER_COUNTS = 12


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


def enlarged(image: np.ndarray) -> np.ndarray:
    """A picture uint8 [3 H, 3 W, 3] that gives `image` back where it is resized by area, and another one elsewhere."""
    room = np.minimum(np.minimum(image, 255 - image), 2 * DITHER_COUNTS) // 2
    larger = np.repeat(np.repeat(image.astype(np.int16), 3, axis=0), 3, axis=1)
    dither = np.einsum("hwc,ij->hiwjc", room.astype(np.int16), DITHER)
    return (larger + dither.reshape(larger.shape)).astype(np.uint8)


class Perception:
    """Preprocessing, encoder and domain-shift score of a bundle. The only way pictures reach a policy."""

    def __init__(self, bundle: Bundle) -> None:
        self.contract = bundle.contract
        self._preprocessor = Preprocessor(bundle.contract)
        self._encoder = OnnxEncoder(bundle.session("encoder.onnx"))
        self.domain_shift = DomainShift(bundle.contract.feature_statistics)
        self._source = bundle.directory
        self.rehearse(bundle.golden_frames())

    def rehearse(self, golden: GoldenFrames, receive: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> None:
        """Raises ConfigurationError where training's pictures give other features here than in training.

        They come as from a camera of three times the resolution, through `receive`, which stands for the way from a
        camera's message to rgb uint8 [H, W, 3].
        """
        for number, image in enumerate(golden.images):
            percept = self(receive(enlarged(image)))
            for name, found, expected in (
                ("features", percept.features, golden.features[number]),
                ("domain_shift", percept.domain_shift, golden.domain_shifts[number]),
            ):
                error = float(np.max(np.abs(found - expected)))
                if not error <= GOLDEN_TOLERANCE:
                    raise ConfigurationError(
                        f"{self._source / 'golden.npz'}: {name} of golden picture {number} differ by {error:.2g} from "
                        f"training's, expected at most {GOLDEN_TOLERANCE:g}; the resize filter, the colour order or "
                        "the encoder's normalisation is not training's: use the rlfp_ros that wrote the bundle"
                    )

    def __call__(self, image: np.ndarray, K: np.ndarray | None = None, distortion: np.ndarray | None = None) -> Percept:
        """What uint8 [H, W, 3] rgb shows. `K` [3, 3] and `distortion` [n] of the live camera; None: the bundle's."""
        features, object_pose, pose_cov, embedding = self._encoder(self._preprocessor(image, K, distortion))
        return Percept(features, object_pose, pose_cov, embedding, self.domain_shift(embedding))
