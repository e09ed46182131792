"""A small convolutional encoder: strided convolutions to a latent vector, as in DQN (Mnih et al. 2015,
https://doi.org/10.1038/nature14236)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.encoder import ENCODERS
from rlfp_ros.learning.encoders.latent import LatentEncoder, LatentSettings, trunk_width
from rlfp_ros.learning.encoders.spatial import convolution_block


@dataclass(frozen=True)
class CnnSettings(LatentSettings):
    """Sizes of the network."""

    channels: int = 32  # of the middle convolutions; half as many in the first, twice as many in the last


@ENCODERS.register("cnn")
class CnnEncoder(LatentEncoder):
    """Four convolutions of stride 2, flattened."""

    settings_type = CnnSettings
    settings: CnnSettings

    def build_trunk(self, camera: CameraContract) -> int:
        channels = self.settings.channels
        self.convolutions = nn.Sequential(
            *convolution_block(3, channels // 2, 5, stride=2, padding=2),
            *convolution_block(channels // 2, channels, 3, stride=2, padding=1),
            *convolution_block(channels, channels, 3, stride=2, padding=1),
            *convolution_block(channels, 2 * channels, 3, stride=2, padding=1),
        )
        return trunk_width(self.convolutions, camera)

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.convolutions(pixels)
        return maps.flatten(1), maps.mean(dim=(2, 3))
