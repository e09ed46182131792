"""The acceptance test: an adapted bundle is written only if it is better on the recording and no worse on training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.adaptation.arm_points import GROSS_PX, reprojection_px
from rlfp_ros.adaptation.encoder import DeployedEncoder
from rlfp_ros.adaptation.material import AdaptationMaterial, RenderedImages
from rlfp_ros.adaptation.novelty import detection, fresh_images, shifts
from rlfp_ros.contract import FeatureStatistics
from rlfp_ros.control.controller_settings import ControllerSettings

BETTER = 0.98  # largest share of the reprojection error before that is an improvement
NO_WORSE = 1.05  # largest ratio of the errors on images of training
NO_WORSE_PX, NO_WORSE_M = 0.03, 0.0005  # and what a ratio of small errors does not count
LOST_DETECTION = 0.03  # of the area under the ROC curve


@dataclass(frozen=True)
class AdaptationScore:
    """How an encoder and its mark of novelty do on held-out images.

    Attributes
    ----------
    reprojection_px
        Mean distance of the arm's points from where the joints put them, recorded images.
    training_px
        Mean error of the keypoints, images of training.
    training_m
        Median error of the object's position, images of training.
    held
        Share of recorded images whose domain shift holds the arm.
    shift
        Median domain shift of recorded images.
    detection
        Area under the ROC curve of altered copies against the images.
    """

    reprojection_px: float
    training_px: float
    training_m: float
    held: float
    shift: float
    detection: float

    def rounded(self) -> dict[str, float]:
        """Return the figures for a file."""
        return {name: round(float(value), 4) for name, value in vars(self).items()}


def score(
    file: bytes, statistics: FeatureStatistics, material: AdaptationMaterial, seed: int, training_alone: bool = False
) -> AdaptationScore:
    """Measure an encoder on the held-out images. `training_alone`: its mark knows images of training only."""
    encoder, camera = DeployedEncoder(file), material.camera
    features, _, _ = encoder.features(material.held_out.images)
    shift = shifts(file, statistics, material.held_out.images)
    training_px, training_m = training_errors(encoder, material.rendered_held_out, camera.intrinsics.fx)
    images = material.rendered_held_out.images if training_alone else fresh_images(material)
    hold = float(ControllerSettings.model_fields["shift_hold"].default)
    return AdaptationScore(
        reprojection_px=reprojection_px(features, material.held_out.labels, camera),
        training_px=training_px,
        training_m=training_m,
        held=float((shift >= hold).mean()),
        shift=float(np.median(shift)),
        detection=detection(file, images, camera.intrinsics.matrix(), seed),
    )


def training_errors(encoder: DeployedEncoder, rendered: RenderedImages, fx: float) -> tuple[float, float]:
    """Measure the mean error of the keypoints, px, and the median error of the object's position, m."""
    features, positions, _ = encoder.features(rendered.images)
    count = rendered.keypoints.shape[1]
    misplaced = np.linalg.norm(features[:, :count, :2] - rendered.keypoints, axis=-1) * fx
    errors = np.linalg.norm(positions - rendered.positions, axis=-1)
    return float(np.minimum(misplaced, GROSS_PX).mean()), float(np.median(errors))


def refusal(before: AdaptationScore, after: AdaptationScore, changes_encoder: bool) -> str:
    """Return why an adapted bundle is not written, as one sentence; empty if it may be."""
    if after.training_px > NO_WORSE * before.training_px + NO_WORSE_PX:
        return (
            f"on images of training the keypoints are {after.training_px:.2f} px off instead of "
            f"{before.training_px:.2f} px"
        )
    if after.training_m > NO_WORSE * before.training_m + NO_WORSE_M:
        return (
            f"on images of training the object is {1e3 * after.training_m:.1f} mm off instead of "
            f"{1e3 * before.training_m:.1f} mm"
        )
    if changes_encoder and after.reprojection_px > BETTER * before.reprojection_px:
        return (
            f"on held-out recorded images the arm's points are {after.reprojection_px:.2f} px off, before "
            f"{before.reprojection_px:.2f} px, which is no improvement"
        )
    if after.held > before.held or (not changes_encoder and after.shift >= before.shift and before.shift > 0):
        return (
            f"the domain-shift score of held-out recorded images is {after.shift:.2f} (it holds the arm in "
            f"{after.held:.0%}), before {before.shift:.2f} ({before.held:.0%}), which is no improvement"
        )
    if after.detection < before.detection - LOST_DETECTION:
        return (
            f"the domain-shift score tells altered images less well from usual ones (area under the ROC curve "
            f"{after.detection:.3f} instead of {before.detection:.3f})"
        )
    return ""
