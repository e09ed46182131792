"""The interface and the registry of encoders: one file per encoder, here or in a plugin.

A new encoder is one class:

    from rlfp_ros.learning.encoders.encoder import ENCODERS
    from rlfp_ros.learning.encoders.latent import LatentEncoder

    @ENCODERS.register("mine")
    class MyEncoder(LatentEncoder):
        def build_trunk(self, camera):
            self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
            return trunk_width(self.layers, camera)

        def trunk(self, pixels):
            hidden = self.layers(pixels)
            return hidden, hidden
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class EncoderSettings:
    """Sizes of an encoder's network. An encoder with settings of its own extends this frozen data class."""


class Encoder(nn.Module, ABC):
    """A network from uint8 images [B, H, W, 3] to features, object position and an embedding.

    The network includes all normalisation, so that a camera's image is the only input. The domain-shift score is
    computed from the embedding.

    An encoder is constructed from its camera and its settings.
    """

    settings_type: ClassVar[type[EncoderSettings]] = EncoderSettings
    settings: EncoderSettings
    code_size: int  # F, number of values in the features of one image
    pose_head: nn.Module  # always trained with labels

    def __init__(self, camera: CameraContract, settings: EncoderSettings) -> None:
        """Make the modules. Raises ConfigurationError if the settings do not fit the camera."""
        super().__init__()
        self.settings = settings

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute features [B, K, 3] or [B, Z], position [B, 3] m in the optical frame, Cholesky factor [B, 3, 3] m of
        its covariance, and embedding [B, E]."""
        return self.describe(*self.see(images))

    @abstractmethod
    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two intermediate results that `describe` and the objectives start from."""

    @abstractmethod
    def describe(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute what `forward` returns from the result of `see`."""

    @abstractmethod
    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read position [B, 3] m in the optical frame and Cholesky factor [B, 3, 3] m off the features."""


class PointEncoder(Encoder):
    """An encoder whose features are points [B, K, 3]: x and y on the plane z = 1 of the optical frame, and confidence.

    `see` returns feature maps [B, C, rows, columns] and the log-probabilities [B, K, cells] of each point's place. The
    first points are supervised with the task's keypoints.
    """

    points: int  # K

    @abstractmethod
    def cell_weights(self, points: Tensor) -> Tensor:
        """Compute weights [B, P, cells] on the cells around each point [B, P, 2] whose mean is that point."""


ENCODERS: Registry[type[Encoder]] = Registry("encoder", builtin="rlfp_ros.learning.encoders", entry_type=Encoder)


@dataclass(frozen=True)
class EncoderChoice:
    """The name of an encoder and its settings; None for the encoder's defaults."""

    name: str = "spatial"
    settings: EncoderSettings | None = None

    def build(self, camera: CameraContract) -> Encoder:
        """Make the network for a camera.

        Raises
        ------
        ConfigurationError
            If there is no encoder of this name, or its settings are of another type or do not fit the camera.
        """
        kind = ENCODERS[self.name]
        settings = kind.settings_type() if self.settings is None else self.settings
        if not isinstance(settings, kind.settings_type):
            raise ConfigurationError(
                f"encoder {self.name}: settings are {type(settings).__name__}, expected {kind.settings_type.__name__}"
            )
        return kind(camera, settings)


@torch.no_grad()
def features_of(encoder: Encoder, images: np.ndarray) -> Tensor:
    """Compute the features [N, K, 3] or [N, Z] of images uint8 [N, H, W, 3], which may be memory-mapped."""
    parts = [encoder(torch.from_numpy(images[i : i + 256].copy()))[0] for i in range(0, len(images), 256)]
    return torch.cat(parts)
