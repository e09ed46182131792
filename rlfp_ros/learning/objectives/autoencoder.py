"""Autoencoder (Hinton and Salakhutdinov 2006, https://doi.org/10.1126/science.1127647): features from which a decoder
can draw the image again, at half its size. The decoder is decayed and the features are kept small, as in
reinforcement learning from an autoencoder's features (Yarats et al. 2021, SAC+AE, https://arxiv.org/abs/1910.01741)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, pixels_of


@dataclass(frozen=True)
class AutoencoderSettings:
    """Hyperparameters."""

    channels: int = 32  # of the decoder
    latent_weight: float = 1e-3  # of the features' mean square


class Decoder(nn.Module):
    """Decodes features [B, F] to an image [B, 3, H / 2, W / 2]: a small image that is enlarged twice."""

    def __init__(self, features: int, sizes: Sizes, channels: int) -> None:
        super().__init__()
        self.target = (sizes.height // 2, sizes.width // 2)
        self.steps = [(-(-self.target[0] // part), -(-self.target[1] // part)) for part in (8, 4, 2, 1)]
        rows, columns = self.steps[0]
        self.first = nn.Sequential(
            nn.Linear(features, channels * rows * columns), nn.ReLU(), nn.Unflatten(1, (channels, rows, columns))
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, 3 if last else channels, 3, padding=1) for last in (False, False, True)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Decode images; the output approaches [-1, 1] but is not bounded."""
        maps = self.first(features)
        for convolution, size in zip(self.convolutions, self.steps[1:], strict=True):
            maps = convolution(functional.interpolate(functional.relu(maps), size))
        return maps


@OBJECTIVES.register("autoencoder")
class Autoencoder(Objective):
    """Mean square error of the decoded image."""

    def __init__(self, encoder: Encoder, sizes: Sizes, settings: AutoencoderSettings | None = None) -> None:
        super().__init__(encoder, sizes)
        self.settings = settings or AutoencoderSettings()
        self.decoder = Decoder(encoder.code_size, sizes, self.settings.channels)

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        wanted = pixels_of(batch.images, *self.decoder.target)
        return (
            functional.mse_loss(self.decoder(batch.code), wanted)
            + self.settings.latent_weight * batch.code.square().mean()
        )
