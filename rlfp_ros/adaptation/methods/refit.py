"""Fits the mark of novelty alone, and leaves what the encoder sees as it is: the baseline of all other methods."""

from __future__ import annotations

from rlfp_ros.adaptation.adaptation import ADAPTATIONS, Adaptation, AdaptationTraining, Report
from rlfp_ros.adaptation.material import AdaptationMaterial


@ADAPTATIONS.register("refit")
class Refit(Adaptation):
    """Fit the domain-shift score alone to the recorded images; the encoder stays as it is."""

    changes_encoder = False

    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Return the file as it is; the score is fitted for every method."""
        return material.file
