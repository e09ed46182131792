"""Pixel control (Jaderberg et al. 2017, UNREAL, https://arxiv.org/abs/1611.05397): the features must predict how much
each part of the image would change under a policy that maximises this change.

The image is cut into cells; a cell's pseudo-reward is its mean absolute change between two images. Q-values for
every cell and action are learnt by n-step Q-learning over the sequence, with a duelling head (Wang et al. 2016,
https://arxiv.org/abs/1511.06581) that grows maps from the features:

    R = c_1 + g c_2 + ... + g^n max_a Q'(s_n, a),   loss = mean (R - Q(s_0, a_0))^2

Q' is a head that follows Q's slowly. Off-policy: the actions that led through the sequence were random.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, follow_slowly


@dataclass(frozen=True)
class PixelControlSettings:
    """Hyperparameters."""

    cell: int = 4  # px, side of a cell
    discount: float = 0.9  # per image of the sequence
    channels: int = 16  # of the head
    target_rate: float = 0.01  # Polyak step of Q' per gradient step
    scale: float = 10.0  # factor of the pseudo-rewards: most cells hardly change


def pixel_change(images: Tensor, cell: int) -> Tensor:
    """Return the mean absolute change per cell [B, T - 1, rows, columns], in [0, 1], of uint8 [B, T, H, W, 3]."""
    pixels = images.float() * (1 / 255)
    change = (pixels[:, 1:] - pixels[:, :-1]).abs().mean(dim=-1)
    return functional.avg_pool2d(change, cell)


class DuellingHead(nn.Module):
    """Q-values [B, actions, rows, columns] of features [B, F]: value of the cell plus advantage of the action."""

    def __init__(self, features: int, actions: int, rows: int, columns: int, channels: int) -> None:
        super().__init__()
        self.size = (rows, columns)
        half = (-(-rows // 2), -(-columns // 2))
        self.first = nn.Sequential(
            nn.Linear(features, channels * half[0] * half[1]), nn.ReLU(), nn.Unflatten(1, (channels, *half))
        )
        self.value = nn.Conv2d(channels, 1, 3, padding=1)
        self.advantage = nn.Conv2d(channels, actions, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        maps = functional.interpolate(self.first(features), self.size)
        advantage = self.advantage(maps)
        return self.value(maps) + advantage - advantage.mean(dim=1, keepdim=True)


@OBJECTIVES.register("pixel_control")
class PixelControl(Objective):
    """n-step Q-learning of pixel change."""

    length = 3
    sequences = True

    def __init__(self, encoder: Encoder, sizes: Sizes, settings: PixelControlSettings | None = None) -> None:
        super().__init__(encoder, sizes)
        self.settings = settings = settings or PixelControlSettings()
        rows, columns = sizes.height // settings.cell, sizes.width // settings.cell
        self.head = DuellingHead(encoder.code_size, sizes.actions, rows, columns, settings.channels)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)

    def returns(self, change: Tensor, last: Tensor) -> Tensor:
        """Compute n-step returns [B, rows, columns] from changes [B, n, rows, columns] and the last image's values."""
        for step in reversed(range(change.shape[1])):
            last = change[:, step] + self.settings.discount * last
        return last

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        change = self.settings.scale * pixel_change(batch.images, self.settings.cell)
        with torch.no_grad():
            wanted = self.returns(change, self.target_head(batch.codes[:, -1]).amax(dim=1))
        values = self.head(batch.codes[:, 0])
        chosen = values[torch.arange(len(values)), batch.actions[:, 0]]
        return functional.mse_loss(chosen, wanted)

    def follow(self, encoder: Encoder) -> None:
        follow_slowly(self.target_head, self.head, self.settings.target_rate)
