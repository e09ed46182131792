"""A small vision transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929): patches as tokens, learnt
positions, and a class token that collects the content of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.encoder import ENCODERS
from rlfp_ros.learning.encoders.latent import LatentEncoder, LatentSettings
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class VitSettings(LatentSettings):
    """Sizes of the network."""

    patch: int = 12  # px, side of a patch; divides the image's width and height
    width: int = 64  # of a token
    layers: int = 3
    heads: int = 4


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network, each with normalised input and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens [B, N, width]."""
        batch, count, width = tokens.shape
        joint = self.query_key_value(self.before_attention(tokens))
        query, key, value = joint.reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.mixed(attended.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.network(self.before_network(tokens))


@ENCODERS.register("vit")
class VitEncoder(LatentEncoder):
    """A transformer. The latent is projected from the class token after the last layer."""

    settings_type = VitSettings
    settings: VitSettings

    def build_trunk(self, camera: CameraContract) -> int:
        settings = self.settings
        if camera.height % settings.patch or camera.width % settings.patch:
            raise ConfigurationError(
                f"encoder: patch is {settings.patch} px, but the image is {camera.width} x {camera.height}; "
                "choose a patch that divides both"
            )
        count = (camera.height // settings.patch) * (camera.width // settings.patch)
        self.patches = nn.Conv2d(3, settings.width, settings.patch, settings.patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, settings.width))
        self.places = nn.Parameter(0.02 * torch.randn(1, count + 1, settings.width))
        self.layers = nn.Sequential(*(TransformerLayer(settings.width, settings.heads) for _ in range(settings.layers)))
        self.last = nn.LayerNorm(settings.width)
        return settings.width

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.places
        tokens = self.last(self.layers(tokens))
        return tokens[:, 0], tokens[:, 1:].mean(dim=1)
