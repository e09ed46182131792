"""Deep spatial autoencoder (Finn et al. 2016, https://arxiv.org/abs/1509.06113).

One linear layer must reconstruct a small grey image from the encoder's feature points, which come from a spatial
softmax with a learnt temperature. The points therefore move to objects that matter for the image. A penalty on changes
of their velocity over three consecutive images keeps them on the same objects:

    || grey(x) - W f(x) ||^2 + w || (f_{t+1} - f_t) - (f_t - f_{t-1}) ||^2
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder, PointEncoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, pixels_of
from rlfp_ros.schema import ConfigurationError

REDUCTION = 4  # factor by which the reconstructed image is smaller, as in the paper (60 of 240 px)


@dataclass(frozen=True)
class DsaeSettings:
    """Hyperparameters."""

    smoothness: float = 1.0  # weight of the penalty, points on the plane z = 1


@OBJECTIVES.register("dsae")
class DeepSpatialAutoencoder(Objective):
    """Grey reconstruction from the points, and their smoothness."""

    length = 3
    sequences = True

    def __init__(self, encoder: Encoder, sizes: Sizes, settings: DsaeSettings | None = None) -> None:
        super().__init__(encoder, sizes)
        if not isinstance(encoder, PointEncoder):
            raise ConfigurationError(
                "representation dsae: needs feature points; choose --encoder spatial, or --representation autoencoder"
            )
        self.settings = settings or DsaeSettings()
        self.target = (sizes.height // REDUCTION, sizes.width // REDUCTION)
        self.decoder = nn.Linear(2 * encoder.points, self.target[0] * self.target[1])

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        points = batch.codes.unflatten(2, (-1, 3))[..., :2]  # [B, T, K, 2], without the confidence
        grey = pixels_of(batch.images, *self.target).mean(dim=1).flatten(1)
        drawn = self.decoder(points.flatten(2).flatten(0, 1))
        return functional.mse_loss(drawn, grey) + self.settings.smoothness * roughness(points)


def roughness(points: Tensor) -> Tensor:
    """Mean square of the change in velocity of points [B, T, K, 2] over consecutive images, summed over x and y."""
    velocity = points[:, 1:] - points[:, :-1]
    return (velocity[:, 1:] - velocity[:, :-1]).square().sum(dim=-1).mean()
