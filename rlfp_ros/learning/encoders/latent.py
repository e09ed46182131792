"""Encoders whose features are a latent vector: a trunk, a projection, and a pose head that reads the latent."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.encoder import Encoder, EncoderSettings
from rlfp_ros.learning.encoders.pose_head import pose_layers, position_and_factor, workspace_centre


@dataclass(frozen=True)
class LatentSettings(EncoderSettings):
    """Sizes that every encoder of a latent has."""

    latent: int = 64  # values in the features
    hidden: int = 128  # units of the pose head


class LatentEncoder(Encoder):
    """An encoder of a latent vector [B, Z]. A subclass makes and runs the trunk."""

    settings_type: ClassVar[type[LatentSettings]] = LatentSettings
    settings: LatentSettings
    origin: Tensor
    hidden_size: int  # H, width of the trunk's output

    def __init__(self, camera: CameraContract, settings: LatentSettings | None = None) -> None:
        sizes = settings or self.settings_type()
        super().__init__(camera, sizes)
        self.code_size = sizes.latent
        self.hidden_size = self.build_trunk(camera)
        self.projection = nn.Linear(self.hidden_size, sizes.latent)
        self.pose_head = pose_layers(sizes.latent, sizes.hidden)
        self.register_buffer("origin", workspace_centre(camera))

    @abstractmethod
    def build_trunk(self, camera: CameraContract) -> int:
        """Make the trunk's modules from `self.settings`; return the width H of its output."""

    @abstractmethod
    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute hidden values [B, H] and pooled features [B, E] of pixels [B, 3, H, W] in [-1, 1]."""

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute hidden values [B, H] and the embedding [B, E]."""
        return self.trunk(images.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1)

    def describe(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute what `forward` returns from hidden values and embedding."""
        features = self.projection(first)
        position, factor = self.pose(features)
        return features, position, factor, second

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read position [B, 3] m in the optical frame and Cholesky factor [B, 3, 3] m off features [B, Z]."""
        return position_and_factor(self.pose_head(features), self.origin)


def trunk_width(trunk: nn.Module, camera: CameraContract) -> int:
    """Return the number of values that a trunk with one output computes per image."""
    with torch.no_grad():
        return int(trunk(torch.zeros(2, 3, camera.height, camera.width)).flatten(1).shape[1])
