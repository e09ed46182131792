"""What the policies' networks are made of: an image encoder, a trunk that joins it with the other inputs, heads.

An observation is a dictionary: `vector` float32 [B, V] (joints, goal, features or state) and, from pixels, `image`
uint8 [B, H, W, 3 stack], the newest frame last. All normalisation is inside the networks.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

Observation = dict[str, Tensor]

BOTTLENECK = 64  # numbers that a picture is brought down to
CLIP = 10.0  # standard deviations; an input far outside training does not blow up a network


def batch_of_one(observation: dict[str, np.ndarray]) -> Observation:
    """An environment's observation as a network takes it."""
    return {name: torch.from_numpy(value)[None] for name, value in observation.items()}


def layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """[B, inputs] to [B, outputs]: two hidden layers, each with layer normalisation."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class RunningNormaliser(nn.Module):
    """Inputs [B, V] to zero mean and unit variance by the statistics of all that `observe` was shown.

    Variances are merged by Chan, Golub and LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(1))

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Take values [N, V] into the statistics."""
        before, new = self.count, float(len(values))
        total = before + new
        mean, variance = values.mean(dim=0), values.var(dim=0, unbiased=False)
        between = (mean - self.mean).square() * (before * new / total)
        self.variance.copy_((self.variance * before + variance * new + between) / total)
        self.mean.add_((mean - self.mean) * (new / total))
        self.count.copy_(total)

    def forward(self, values: Tensor) -> Tensor:
        return ((values - self.mean) * torch.rsqrt(self.variance + 1e-6)).clamp(-CLIP, CLIP)


class ImageEncoder(nn.Module):
    """Pictures to flat feature maps [B, size]; without pictures `size` is 0. Small: 32 px is what it is made for."""

    def __init__(self, space: gymnasium.spaces.Dict) -> None:
        super().__init__()
        self.size = 0
        if "image" in space.spaces:
            shape = space["image"].shape
            assert shape is not None
            self.convolutions = nn.Sequential(
                nn.Conv2d(shape[2], 16, 5, stride=2, padding=2), nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            )  # fmt: skip
            with torch.no_grad():
                self.size = self.convolutions(torch.zeros(1, shape[2], shape[0], shape[1])).shape[1]

    def forward(self, observation: Observation) -> Tensor:
        if self.size == 0:
            return observation["vector"][:, :0]
        maps: Tensor = self.convolutions(observation["image"].permute(0, 3, 1, 2).float() * (1 / 127.5) - 1)
        return maps


class Trunk(nn.Module):
    """Feature maps and normalised vector side by side, [B, size]. The projection is that of SAC-AE (Yarats et al. 2021,
    https://arxiv.org/abs/1910.01741): linear, layer normalisation, tanh."""

    def __init__(self, maps: int, space: gymnasium.spaces.Dict) -> None:
        super().__init__()
        shape = space["vector"].shape
        assert shape is not None
        self.normaliser = RunningNormaliser(shape[0])
        self.size = shape[0] + (BOTTLENECK if maps else 0)
        if maps:
            self.projection = nn.Sequential(nn.Linear(maps, BOTTLENECK), nn.LayerNorm(BOTTLENECK), nn.Tanh())

    def forward(self, maps: Tensor, vector: Tensor) -> Tensor:
        normal: Tensor = self.normaliser(vector)
        return torch.cat([self.projection(maps), normal], dim=-1) if maps.shape[1] else normal


class ActorCritic(nn.Module):
    """A Gaussian policy and a value that share the encoder: the network of PPO and A3C."""

    def __init__(self, space: gymnasium.spaces.Dict, action_size: int, hidden: int, log_std: float) -> None:
        super().__init__()
        self.encoder = ImageEncoder(space)
        self.trunk = Trunk(self.encoder.size, space)
        self.policy = layers(self.trunk.size, hidden, action_size)
        self.value = layers(self.trunk.size, hidden, 1)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))
        with torch.no_grad():  # first actions around 0: Andrychowicz et al. 2021, https://arxiv.org/abs/2006.05990
            last = self.policy[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.01)
            last.bias.zero_()

    def evaluate(self, observation: Observation) -> tuple[Independent, Tensor]:
        """The distribution of actions [B, A] before they are clipped, and the value [B]."""
        embedding = self.trunk(self.encoder(observation), observation["vector"])
        normal = Normal(self.policy(embedding), self.log_std.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False), self.value(embedding).squeeze(-1)

    @torch.no_grad()
    def sample(self, observation: Observation) -> Tensor:
        """Actions [B, A] before they are clipped."""
        mean: Tensor = self.policy(self.trunk(self.encoder(observation), observation["vector"]))
        return mean + self.log_std.exp() * torch.randn_like(mean)

    def forward(self, observation: Observation) -> Tensor:
        """The action to deploy [B, A], in [-1, 1]."""
        mean: Tensor = self.policy(self.trunk(self.encoder(observation), observation["vector"]))
        return mean.clamp(-1, 1)
