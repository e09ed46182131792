"""An encoder of your own: cut the image into patches and describe each patch by a few values.

./rlfp --plugin examples/my_encoder.py train reach --encoder patches
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.encoder import ENCODERS
from rlfp_ros.learning.encoders.latent import LatentEncoder, LatentSettings, trunk_width


@dataclass(frozen=True)
class PatchSettings(LatentSettings):
    """Sizes of the network; `latent` and `hidden` are inherited."""

    patch: int = 12  # px; an image of 84 px has 7 x 7 patches
    channels: int = 32  # values per patch


@ENCODERS.register("patches")
class PatchEncoder(LatentEncoder):
    """One linear layer per patch and one between the channels; the base class adds the latent and the pose head."""

    settings_type = PatchSettings
    settings: PatchSettings

    def build_trunk(self, camera: CameraContract) -> int:
        patch, channels = self.settings.patch, self.settings.channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, patch, stride=patch),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        )
        return trunk_width(self.layers, camera)

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layers(pixels)
        return maps.flatten(1), maps.mean(dim=(2, 3))  # input of the latent; embedding for the domain shift
