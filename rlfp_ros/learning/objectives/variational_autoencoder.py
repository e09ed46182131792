"""Variational autoencoder (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114; beta: Higgins et al. 2017,
https://openreview.net/forum?id=Sy2fzU9gl).

The features are the posterior's mean, without noise. The loss per pixel is

    (1 / pixels) (E[-log p(x | z)] + beta KL(q(z | x) || N(0, 1)))

with a Gaussian likelihood (squared error) or, with `l1`, a Laplace one (absolute error): the decoder then draws medians
instead of means, which blurs less over small things.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.encoders.latent import LatentEncoder
from rlfp_ros.learning.objectives.autoencoder import Decoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, pixels_of
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class VaeSettings:
    """Hyperparameters."""

    l1: bool = False  # Laplace likelihood
    noise: float = 0.1  # of a pixel in [-1, 1]: standard deviation, or the Laplace distribution's scale
    beta: float = 1.0  # weight of the divergence
    channels: int = 32  # of the decoder


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the last dimension."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)


@OBJECTIVES.register("vae")
class VariationalAutoencoder(Objective):
    """The negative evidence lower bound per pixel."""

    def __init__(self, encoder: Encoder, sizes: Sizes, settings: VaeSettings | None = None) -> None:
        super().__init__(encoder, sizes)
        if not isinstance(encoder, LatentEncoder):
            raise ConfigurationError(
                "representation vae: the spatial encoder's features are places, not a latent with a normal prior; "
                "choose --encoder cnn or vit, or --representation dsae"
            )
        self.settings = settings or VaeSettings()
        self.decoder = Decoder(encoder.code_size, sizes, self.settings.channels)
        self.log_variance = nn.Linear(encoder.hidden_size, encoder.code_size)

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        settings = self.settings
        log_variance = self.log_variance(batch.seen).clamp(-10, 5)
        latent = batch.code + torch.exp(0.5 * log_variance) * torch.randn_like(batch.code)
        error = self.decoder(latent) - pixels_of(batch.images, *self.decoder.target)
        fit = error.abs() / settings.noise if settings.l1 else 0.5 * (error / settings.noise).square()
        per_pixel = settings.beta * divergence(batch.code, log_variance).mean() / error[0].numel()
        return fit.mean() + per_pixel


@OBJECTIVES.register("vae_l1")
class L1VariationalAutoencoder(VariationalAutoencoder):
    """With the Laplace likelihood."""

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        super().__init__(encoder, sizes, VaeSettings(l1=True))
