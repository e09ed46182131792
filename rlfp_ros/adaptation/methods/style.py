"""Rendered images in the style of the recorded ones, on which the encoder must give what it gave for the originals.

Two exchanges, which need no training. Colour statistics (Reinhard et al. 2001, https://doi.org/10.1109/38.946629): the
mean and deviation of each colour of a recorded image. Fourier domain adaptation (Yang and Soatto 2020,
https://arxiv.org/abs/2004.05498): the amplitudes of its lowest frequencies, with the phases of the rendered image.
"""

from __future__ import annotations

import numpy as np

from rlfp_ros.adaptation.adaptation import (
    ADAPTATIONS,
    Adaptation,
    AdaptationBatch,
    AdaptationTraining,
    Report,
    Teacher,
    train,
)
from rlfp_ros.adaptation.material import AdaptationMaterial

LARGEST_BAND = 0.05  # of the image's size: the frequencies whose amplitudes are exchanged
SMALLEST_DEVIATION = 1.0  # counts of 255; a colour that hardly varies is not blown up
LARGEST_GAIN = 4.0


def colour_exchanged(image: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Return float [H, W, 3]: an image with the mean and deviation that each colour has in another image."""
    source, target = image.astype(np.float32), style.astype(np.float32)
    (mean, deviation), (other, wanted) = ((part.mean((0, 1)), part.std((0, 1))) for part in (source, target))
    gain = np.minimum(wanted / np.maximum(deviation, SMALLEST_DEVIATION), LARGEST_GAIN)
    return (source - mean) * gain + other


def fourier_exchanged(image: np.ndarray, style: np.ndarray, band: float) -> np.ndarray:
    """Return float [H, W, 3]: an image with the amplitudes of another one up to the frequency `band`, 0 to 0.5."""
    rows, columns = image.shape[:2]
    ours, theirs = (np.fft.fft2(part.astype(np.float32), axes=(0, 1)) for part in (image, style))
    low = np.abs(np.fft.fftfreq(rows))[:, None] <= band
    low = low & (np.abs(np.fft.fftfreq(columns))[None] <= band)
    amplitude = np.where(low[..., None], np.abs(theirs), np.abs(ours))
    return np.real(np.fft.ifft2(amplitude * np.exp(1j * np.angle(ours)), axes=(0, 1))).astype(np.float32)


def styled(image: np.ndarray, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image uint8 [H, W, 3] in the style of another: its colours, its low frequencies, or both in part."""
    kind = rng.integers(3)
    changed = image.astype(np.float32)
    if kind != 0:
        changed = fourier_exchanged(changed, style, rng.uniform(0.0, LARGEST_BAND))
    if kind != 1:
        changed = colour_exchanged(changed, style)
    share = rng.uniform(0.6, 1.0)
    return np.clip(share * changed + (1 - share) * image, 0, 255).astype(np.uint8)


@ADAPTATIONS.register("style")
class Style(Adaptation):
    """Learn from rendered images with the colours and low frequencies of the recorded ones; all weights change."""

    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Train the convolutions; the recorded images lend their style, and none of their labels is used."""
        encoder, teacher = self.encoder(material), Teacher(material)
        names = [name for weight, bias, _ in encoder.parts.convolutions for name in (weight, bias)]
        recorded = material.recorded.images

        def batches(rng: np.random.Generator) -> list[AdaptationBatch]:
            def change(image: np.ndarray) -> np.ndarray:
                return styled(image, recorded[rng.integers(len(recorded))], rng)

            chosen, plain = rng.integers(0, len(teacher), (2, training.batch))
            return [teacher.batch(chosen, change), teacher.batch(plain)]

        indices = material.recorded.labels.indices
        train(encoder, encoder.train_weights(names), batches, indices, training, report)
        return encoder.file()
