"""Encoders whose features are a plain latent vector: a trunk, a projection, and a pose head that reads the latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.spatial import position_and_factor, workspace_centre


class LatentEncoder(nn.Module, ABC):
    """uint8 images [B, H, W, 3] to a latent [B, Z], object position and an embedding for the domain-shift score.

    The same calls as `encoder.Encoder`, so that training and export take either. `hidden_size` is the trunk's width.
    """

    origin: Tensor
    code_size: int  # F = Z, values in the features of a picture

    def __init__(self, camera: CameraContract, latent: int, pose_hidden: int) -> None:
        super().__init__()
        self.code_size = latent
        self.hidden_size = self.build_trunk(camera)
        self.projection = nn.Linear(self.hidden_size, latent)
        self.pose_head = nn.Sequential(nn.Linear(latent, pose_hidden), nn.ReLU(), nn.Linear(pose_hidden, 9))
        self.register_buffer("origin", workspace_centre(camera))

    @abstractmethod
    def build_trunk(self, camera: CameraContract) -> int:
        """Make the trunk's modules; the width H of what `see` gives."""

    @abstractmethod
    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden values [B, H] and pooled features [B, E] of pixels [B, 3, H, W] in [-1, 1]."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features [B, Z], position [B, 3] m in the optical frame, Cholesky factor [B, 3, 3] m of its covariance,
        embedding [B, E]."""
        return self.describe(*self.see(images))

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden values [B, H] and the embedding [B, E]."""
        return self.trunk(images.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1)

    def describe(self, hidden: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, from what `see` gives."""
        features = self.projection(hidden)
        position, factor = self.pose(features)
        return features, position, factor, embedding

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Position [B, 3] m in the optical frame and Cholesky factor [B, 3, 3] m of features [B, Z]."""
        return position_and_factor(self.pose_head(features), self.origin)


def trunk_width(trunk: nn.Module, camera: CameraContract) -> int:
    """Values that a trunk of one output makes of a picture."""
    with torch.no_grad():
        return int(trunk(torch.zeros(2, 3, camera.height, camera.width)).flatten(1).shape[1])
