"""An encoder with the outputs that a bundle declares."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.encoders.novelty import Novelty

UNKNOWN_ROTATION = 3.29  # rad^2, variance of an angle uniform in [-pi, pi]: the pose head gives no orientation


class ExportedEncoder(nn.Module):
    """The module that is exported as `encoder.onnx`. With `novelty`, the embedding is the image's novelty mark."""

    rotation: Tensor
    rotation_covariance: Tensor

    def __init__(self, encoder: Encoder, novelty: Novelty | None = None) -> None:
        super().__init__()
        self.encoder, self.novelty = encoder, novelty
        self.register_buffer("rotation", torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        block = torch.zeros(1, 6, 6)
        block[0, 3:, 3:] = UNKNOWN_ROTATION * torch.eye(3)
        self.register_buffer("rotation_covariance", block)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute features [1, K, 3] or [1, Z], object_pose [1, 7], pose_cov [1, 6, 6] and embedding [1, E] of an image
        [1, H, W, 3]."""
        seen = self.encoder.see(image)
        features, position, factor, embedding = self.encoder.describe(*seen)
        place = factor @ factor.transpose(1, 2)
        if self.novelty is not None:
            embedding = self.novelty(*seen)
            place = self.novelty.widened(place, embedding)
        covariance = functional.pad(place, (0, 3, 0, 3)) + self.rotation_covariance
        return features, torch.cat([position, self.rotation], dim=-1), covariance, embedding
