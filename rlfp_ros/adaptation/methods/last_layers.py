"""The last layers of the encoder, trained on the arm's points in recorded images and on the rendered images."""

from __future__ import annotations

import numpy as np

from rlfp_ros.adaptation.adaptation import (
    ADAPTATIONS,
    Adaptation,
    AdaptationBatch,
    AdaptationTraining,
    Report,
    Teacher,
    recorded_batch,
    train,
)
from rlfp_ros.adaptation.material import AdaptationMaterial

LAYERS = 3  # two residual blocks and the heat maps


@ADAPTATIONS.register("last-layers")
class LastLayers(Adaptation):
    """Train the last layers on the points of the arm, which the joints tell; rendered images keep the other points."""

    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Train the last convolutions."""
        encoder, teacher = self.encoder(material), Teacher(material)
        names = [name for weight, bias, _ in encoder.parts.convolutions[-LAYERS:] for name in (weight, bias)]

        def batches(rng: np.random.Generator) -> list[AdaptationBatch]:
            recorded = rng.integers(0, len(material.recorded.images), training.batch)
            rendered = rng.integers(0, len(teacher), training.batch)
            return [recorded_batch(material, recorded), teacher.batch(rendered)]

        indices = material.recorded.labels.indices
        train(encoder, encoder.train_weights(names), batches, indices, training, report)
        return encoder.file()
