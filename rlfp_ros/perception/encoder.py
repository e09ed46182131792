"""The bundle's encoder on ONNX Runtime: computes features, object pose and domain shift of a camera's image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlfp_ros.contract import GOLDEN_TOLERANCE, TRUST_FILE, Bundle, GoldenFrames
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.domain_shift import DomainShift, ErrorScore
from rlfp_ros.perception.extrinsics import orientation_in_base
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.schema import ConfigurationError

# Added to an image that is repeated three times each way; averaging by area removes it, any other filter does not.
DITHER = np.array([[-2, 1, 0], [1, 2, -1], [0, -1, 0]])
DITHER_COUNTS = 12


@dataclass(frozen=True)
class ObjectPose:
    """The object's pose in the arm's base frame, float64.

    Attributes
    ----------
    position
        [3] m.
    orientation
        [4], quaternion xyzw.
    covariance
        [6, 6] m^2, rad^2.
    """

    position: np.ndarray
    orientation: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Percept:
    """Perception's result for one image.

    Attributes
    ----------
    image
        The network's input: uint8 [h, w, 3] rgb, of the bundle's camera.
    features
        float32 [K, 3]: x, y on the plane z = 1 of the optical frame, confidence in [0, 1]; or a latent vector [Z].
    object_pose
        float32 [7]: xyz in m and quaternion xyzw, in the optical frame of the bundle's camera; None if the encoder does
        not find the object.
    pose_cov
        float32 [6, 6] m^2, rad^2, in the optical frame; None without object pose.
    embedding
        float32 [E], from which the domain shift is computed.
    domain_shift
        In [0, 1].
    """

    image: np.ndarray
    features: np.ndarray
    object_pose: np.ndarray | None
    pose_cov: np.ndarray | None
    embedding: np.ndarray
    domain_shift: float

    def in_base(self, T_base_camera: np.ndarray) -> ObjectPose:
        """Return the object's pose in the base frame, for a camera at `T_base_camera` (4 x 4).

        Raises
        ------
        ValueError
            If there is no object pose.
        """
        if self.object_pose is None or self.pose_cov is None:
            raise ValueError("this encoder does not find the object, so there is no object pose")
        rotation = T_base_camera[:3, :3]
        position = rotation @ self.object_pose[:3].astype(np.float64) + T_base_camera[:3, 3]
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = rotation
        covariance = turn @ self.pose_cov.astype(np.float64) @ turn.T
        return ObjectPose(position, orientation_in_base(T_base_camera, self.object_pose[3:]), covariance)


class OnnxEncoder:
    """`encoder.onnx` as a function of one image."""

    def __init__(self, session: Any) -> None:
        self._session = session
        found = {output.name for output in session.get_outputs()}
        self._pose_outputs = ("object_pose", "pose_cov") if "object_pose" in found else ()

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]:
        """Return what the encoder finds in an image uint8 [H, W, 3] rgb.

        Returns
        -------
        features
            [K, 3] or [Z].
        object_pose, pose_cov
            [7] and [6, 6], or None.
        embedding
            [E].
        """
        outputs = self._session.run(
            ("features", "embedding", *self._pose_outputs), {"image": np.ascontiguousarray(image)[None]}
        )
        features, embedding, *pose = (output[0] for output in outputs)
        object_pose, pose_cov = pose or (None, None)
        return features, object_pose, pose_cov, embedding


def enlarged(image: np.ndarray) -> np.ndarray:
    """Make an image uint8 [3 H, 3 W, 3] that gives `image` back if it is resized by area, and another one if not."""
    room = np.minimum(np.minimum(image, 255 - image), 2 * DITHER_COUNTS) // 2
    larger = np.repeat(np.repeat(image.astype(np.int16), 3, axis=0), 3, axis=1)
    dither = np.einsum("hwc,ij->hiwjc", room.astype(np.int16), DITHER)
    return (larger + dither.reshape(larger.shape)).astype(np.uint8)


class Perception:
    """Preprocessing, encoder and domain-shift score of a bundle. The only way images reach a policy.

    Parameters
    ----------
    bundle
        The bundle.
    arm
        The arm that is in the images; None: the one that the bundle was trained with.
    """

    def __init__(self, bundle: Bundle, arm: Arm | None = None) -> None:
        self.contract = bundle.contract
        self._preprocessor = Preprocessor(bundle.contract)
        self._encoder = OnnxEncoder(bundle.session("encoder.onnx"))
        self.domain_shift = DomainShift(bundle.contract.feature_statistics)
        self._error_score: ErrorScore | None = None
        if bundle.contract.trust is not None:
            self._error_score = ErrorScore(bundle.session(TRUST_FILE), arm or trained_arm(bundle))
        self._source = bundle.directory
        self.rehearse(bundle.golden_frames())

    @property
    def preprocessing(self) -> str:
        """Description of the preprocessing for the log; empty before the first camera."""
        return self._preprocessor.description

    @property
    def uses_joints(self) -> bool:
        """Whether the domain-shift score depends on the joints at the image's time."""
        return self._error_score is not None

    def use_camera(self, camera: CameraModel, source: str = "camera_info") -> None:
        """Plan the preprocessing of a camera before its first image comes.

        Raises
        ------
        ConfigurationError
            If the camera does not cover the bundle's field of view. The message names `source`.
        """
        self._preprocessor.use_camera(camera, source)

    def rehearse(self, golden: GoldenFrames, receive: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> None:
        """Check that training's images give the features here that they gave in training.

        They come as from a camera of three times the resolution.

        Parameters
        ----------
        golden
            Images of training with their features and domain shifts.
        receive
            Stands for the way from a camera's message to rgb uint8 [H, W, 3].

        Raises
        ------
        ConfigurationError
            If features or domain shift differ by more than `GOLDEN_TOLERANCE`.
        """
        for number, image in enumerate(golden.images):
            percept = self(receive(enlarged(image)), joint_positions=golden.positions[number])
            for name, found, expected in (
                ("features", percept.features, golden.features[number]),
                ("domain_shift", percept.domain_shift, golden.domain_shifts[number]),
            ):
                error = float(np.max(np.abs(found - expected)))
                if not error <= GOLDEN_TOLERANCE:
                    raise ConfigurationError(
                        f"{self._source / 'golden.npz'}: {name} of golden image {number} differ by {error:.2g} from "
                        f"training's, expected at most {GOLDEN_TOLERANCE:g}; the resize filter, the colour order or "
                        "the encoder's normalisation is not training's: use the rlfp_ros that wrote the bundle"
                    )

    def __call__(
        self,
        image: np.ndarray,
        camera: CameraModel | None = None,
        source: str = "camera",
        joint_positions: np.ndarray | None = None,
    ) -> Percept:
        """Find features, object and domain shift in an image.

        Parameters
        ----------
        image
            uint8 [H, W, 3], rgb.
        camera
            The camera that took it; None for the bundle's, at any resolution of its aspect ratio.
        source
            What to name in an error: a topic or a file.
        joint_positions
            [J] rad when the image was taken, in the arm's order; None: the domain shift is judged by the image alone.

        Raises
        ------
        ConfigurationError
            If the image does not have the camera's size, or the camera does not cover the bundle's field of view.
        """
        return self.encode(self._preprocessor(image, camera, source), joint_positions)

    def encode(self, image: np.ndarray, joint_positions: np.ndarray | None = None) -> Percept:
        """Find features, object and domain shift in the network's own input, uint8 [h, w, 3], without preprocessing."""
        features, object_pose, pose_cov, embedding = self._encoder(image)
        percept = Percept(image, features, object_pose, pose_cov, embedding, self.domain_shift(embedding))
        return percept if joint_positions is None else self.judged_with(percept, joint_positions)

    def judged_with(self, percept: Percept, joint_positions: np.ndarray) -> Percept:
        """Judge the domain shift of a percept with the joints [J] rad at the image's time, if the bundle can."""
        if self._error_score is None or percept.object_pose is None or percept.pose_cov is None:
            return percept
        encoded = (percept.features, percept.object_pose, percept.pose_cov, percept.embedding)
        return replace(percept, domain_shift=self._error_score(encoded, joint_positions))
