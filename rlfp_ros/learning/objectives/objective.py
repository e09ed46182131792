"""The interface and the registry of an encoder's training objectives besides labels; one file each, or in a plugin.

A new objective is one class: a loss on batches of images, with its own networks.

    from rlfp_ros.learning.objectives.objective import OBJECTIVES, Objective

    @OBJECTIVES.register("mine")
    class SmallFeatures(Objective):
        def loss(self, encoder, batch):
            return batch.code.square().mean()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.plugins import Registry


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data that objectives learn from."""

    height: int  # px
    width: int  # px
    actions: int  # number of discrete actions
    depth_cells: int  # values in a depth map


@dataclass(frozen=True)
class Batch:
    """B sequences of T consecutive images.

    The encoder's results have B T rows, sequence after sequence. `actions`, `rewards` and `depths` are empty if the
    images do not follow from each other.
    """

    images: Tensor  # uint8 [B, T, H, W, 3]
    seen: Tensor  # [B T, ...], first result of the encoder's `see`, from which the features are computed
    code: Tensor  # [B T, F], the features, flat
    actions: Tensor  # int64 [B, T - 1], index of the discrete action that led to the next image
    rewards: Tensor  # [B, T]
    depths: Tensor  # [B, T, rows, columns] m

    @property
    def codes(self) -> Tensor:
        """The features as sequences [B, T, F]."""
        return self.code.unflatten(0, self.images.shape[:2])


class Objective(nn.Module, ABC):
    """A loss with its own networks, whose parameters are trained together with the encoder's."""

    length: ClassVar[int] = 1  # T, images in a sequence
    sequences: ClassVar[bool] = False  # whether it needs consecutive images with actions, rewards and depths

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        """Make the networks. Raises ConfigurationError if the objective does not work with this encoder."""
        super().__init__()

    def fit(self, rewards: Tensor, depths: Tensor) -> None:
        """Take statistics of the first images' rewards [N] and depths [N, rows, columns], once before training."""

    @abstractmethod
    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        """Compute a scalar loss from the encoder's results for the batch."""

    def follow(self, encoder: Encoder) -> None:
        """Update slowly moving copies; called after each gradient step."""


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective", builtin="rlfp_ros.learning.objectives", entry_type=Objective
)


def pixels_of(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images uint8 [..., H, W, 3] by area to [B, 3, height, width] in [-1, 1]."""
    pixels = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2).float() * (1 / 127.5) - 1
    return nn.functional.interpolate(pixels, (height, width), mode="area")


def two_layers(inputs: int, outputs: int, hidden: int = 128) -> nn.Sequential:
    """Make the small network that most objectives put on the features."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@torch.no_grad()
def follow_slowly(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move the parameters of `slow` by the fraction `rate` towards those of `fast`, and copy running statistics."""
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other, rate)
    for kept, newer in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.copy_(newer)
