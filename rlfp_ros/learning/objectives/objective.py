"""What an encoder can learn from beside labels: a loss on batches of pictures, with the networks that only it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.learning.encoders.latent import LatentEncoder
from rlfp_ros.learning.encoders.spatial import Encoder

AnyEncoder = Encoder | LatentEncoder


@dataclass(frozen=True)
class Sizes:
    """Of what objectives learn from."""

    height: int  # px
    width: int  # px
    actions: int  # how many discrete ones there are


@dataclass(frozen=True)
class Batch:
    """B sequences of T consecutive pictures. What an encoder makes of them has B T rows, a sequence's one after the
    other. `actions`, `rewards` and `depths` are empty where pictures do not follow from each other."""

    images: Tensor  # uint8 [B, T, H, W, 3]
    seen: Tensor  # [B T, ...], first part of the encoder's `see`: what the features are made from
    code: Tensor  # [B T, F], the features, flat
    actions: Tensor  # int64 [B, T - 1]: which of `frames.discrete_actions` led to the next picture
    rewards: Tensor  # [B, T]
    depths: Tensor  # [B, T, rows, columns] m

    @property
    def codes(self) -> Tensor:
        """[B, T, F]."""
        return self.code.unflatten(0, self.images.shape[:2])


class Objective(nn.Module, ABC):
    """A loss, and its own networks. Its parameters are trained together with the encoder's."""

    length: ClassVar[int] = 1  # T, pictures in a sequence
    sequences: ClassVar[bool] = False  # pictures have to follow from each other, with actions, rewards and depths

    @abstractmethod
    def __init__(self, encoder: AnyEncoder, sizes: Sizes) -> None:
        """Raises ConfigurationError where the objective does not go with this encoder."""
        super().__init__()

    def fit(self, rewards: Tensor, depths: Tensor) -> None:
        """Take statistics from the first pictures' rewards [N] and depths [N, rows, columns]; once, before training."""

    @abstractmethod
    def loss(self, encoder: AnyEncoder, batch: Batch) -> Tensor:
        """A scalar, from what `encoder` made of the batch."""

    def follow(self, encoder: AnyEncoder) -> None:
        """Called after each gradient step."""


@torch.no_grad()
def features_of(encoder: AnyEncoder, images: np.ndarray) -> Tensor:
    """The features [N, K, 3] or [N, Z] of pictures uint8 [N, H, W, 3], which may lie in a file."""
    parts = [encoder(torch.from_numpy(images[i : i + 256].copy()))[0] for i in range(0, len(images), 256)]
    return torch.cat(parts)


def pixels_of(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 [..., H, W, 3] as [B, 3, height, width] in [-1, 1], averaged by area."""
    pixels = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2).float() * (1 / 127.5) - 1
    return nn.functional.interpolate(pixels, (height, width), mode="area")


def two_layers(inputs: int, outputs: int, hidden: int = 128) -> nn.Sequential:
    """The small network that most objectives put on the features."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@torch.no_grad()
def follow_slowly(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move `slow`'s parameters a share `rate` of the way to `fast`'s; running statistics are taken over."""
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other, rate)
    for kept, newer in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.copy_(newer)
