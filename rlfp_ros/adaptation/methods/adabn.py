"""Statistics of each convolution's output on recorded images, brought to those on images of training.

Adaptive batch normalisation (Li et al. 2016, https://arxiv.org/abs/1603.04779) normalises each layer with the
statistics of the new images. A bundle's normalisation is folded into its convolutions, so the layer's scale and offset
change instead: the mean and deviation of each channel become those that the encoder has on rendered images. The layers
are adapted one after the other, each on the results of those before it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlfp_ros.adaptation.adaptation import ADAPTATIONS, Adaptation, AdaptationTraining, Report
from rlfp_ros.adaptation.encoder import AdaptableEncoder
from rlfp_ros.adaptation.material import AdaptationMaterial

IMAGES = 256  # from which the statistics are measured
SHARE = 0.5  # how far the statistics move: 0 not at all, 1 as if all images were recorded ones
SMALLEST_DEVIATION = 1e-3
LARGEST_GAIN = 3.0


@ADAPTATIONS.register("adabn")
class AdaptiveNormalisation(Adaptation):
    """Bring the statistics of each layer on recorded images to those on images of training; nothing is trained."""

    @torch.no_grad()
    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Scale and shift the convolutions, from the first to the last; the heat maps stay as they are."""
        encoder, original = self.encoder(material), self.encoder(material)
        rng = np.random.default_rng([training.seed, 29])
        ours, theirs = (
            torch.from_numpy(images[rng.permutation(len(images))[:IMAGES]])
            for images in (material.rendered.images, material.recorded.images)
        )
        for weight, bias, output in encoder.parts.convolutions[:-1]:
            mean, deviation = _statistics(original, ours, output)
            found, spread = _statistics(encoder, theirs, output)
            gain = (deviation / spread).clamp(1 / LARGEST_GAIN, LARGEST_GAIN) ** SHARE
            offset = SHARE * (mean - found) + found  # the mean that the layer should have on recorded images
            encoder.network.weight(weight).mul_(gain[:, None, None, None])
            encoder.network.weight(bias).copy_(gain * (encoder.network.weight(bias) - found) + offset)
        report(f"{len(encoder.parts.convolutions) - 1} layers have the statistics of {len(theirs)} recorded images")
        return encoder.file()


def _statistics(encoder: AdaptableEncoder, images: Tensor, output: str) -> tuple[Tensor, Tensor]:
    """Measure the mean and deviation [C] of a convolution's output."""
    values = torch.cat([encoder.network(part, (output,))[0] for part in images.split(64)])
    return values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3)).clamp(min=SMALLEST_DEVIATION)
