"""Building blocks of the policies' networks: image encoder, trunk, heads, and action distributions.

An observation is a dictionary: `vector` float32 [B, V] (joints, goal, features or state), from pixels also `image`
uint8 [B, H, W, 3 stack] with the newest frame last, and in training perhaps `privileged` float32 [B, P], which only
critics see. All normalisation is inside the networks.
"""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional

TensorObservation = dict[str, Tensor]

BOTTLENECK = 64  # number of values per image after the projection
CLIP = 10.0  # standard deviations; limits inputs far outside those of training


def batch_of_one(observation: dict[str, np.ndarray]) -> TensorObservation:
    """Convert an environment's observation into a network's input."""
    return {name: torch.from_numpy(value)[None] for name, value in observation.items()}


def layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make a network [B, inputs] -> [B, outputs] with two hidden layers, each with layer normalisation."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


class RunningNormaliser(nn.Module):
    """Normalises inputs [B, V] to zero mean and unit variance, by the statistics of all values given to `observe`.

    Parameters
    ----------
    size
        V, the number of inputs.
    clip
        Largest output, in standard deviations.

    References
    ----------
    Chan, Golub and LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115, for merging variances.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int, clip: float = CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(1))

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Add values [N, V] to the statistics."""
        before, new = self.count, float(len(values))
        total = before + new
        mean, variance = values.mean(dim=0), values.var(dim=0, unbiased=False)
        between = (mean - self.mean).square() * (before * new / total)
        self.variance.copy_((self.variance * before + variance * new + between) / total)
        self.mean.add_((mean - self.mean) * (new / total))
        self.count.copy_(total)

    def forward(self, values: Tensor) -> Tensor:
        """Return normalised and clipped values [B, V]."""
        return ((values - self.mean) * torch.rsqrt(self.variance + 1e-6)).clamp(-self.clip, self.clip)


class RelativePoints(nn.Module):
    """Appends the feature points relative to the first point of their frame, the task's object.

    A small displacement of the camera hardly changes them, and a small network cannot compute them with pixel accuracy.

    Parameters
    ----------
    shape
        Shape of the features that the vector begins with: points [stack, K, 3] (x, y, confidence), or latents
        [stack, Z], which are left alone.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, vector: Tensor) -> Tensor:
        """Return [..., V + 2 stack (K - 1)] for [..., V]."""
        if len(self.shape) != 3:
            return vector
        points = vector[..., : math.prod(self.shape)].unflatten(-1, self.shape)[..., :2]
        relative = points[..., 1:, :] - points[..., :1, :]
        return torch.cat([vector, relative.flatten(-3)], dim=-1)


class ImageEncoder(nn.Module):
    """Convolutions from images to flat feature maps [B, size]; without images `size` is 0. Designed for 32 px."""

    def __init__(self, space: gymnasium.spaces.Dict) -> None:
        super().__init__()
        self.size = 0
        if "image" in space.spaces:
            shape = space["image"].shape
            assert shape is not None
            self.convolutions = nn.Sequential(
                nn.Conv2d(shape[2], 16, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
            )
            with torch.no_grad():
                self.size = self.convolutions(torch.zeros(1, shape[2], shape[0], shape[1])).shape[1]

    def forward(self, observation: TensorObservation) -> Tensor:
        """Compute feature maps [B, size] of an observation."""
        if self.size == 0:
            return observation["vector"][..., :0]
        maps: Tensor = self.convolutions(observation["image"].permute(0, 3, 1, 2).float() * (1 / 127.5) - 1)
        return maps


class Trunk(nn.Module):
    """Concatenates projected feature maps and the normalised vector, [B, size].

    Parameters
    ----------
    maps
        Size of the feature maps; 0 if there are none.
    vector
        Size of the vector.
    expand
        A module that appends values to the vector before it is normalised, as `RelativePoints` does.
    clip
        Clip of the normaliser.

    References
    ----------
    The projection is that of SAC-AE: linear, layer normalisation, tanh (Yarats et al. 2021,
    https://arxiv.org/abs/1910.01741).
    """

    def __init__(self, maps: int, vector: int, expand: nn.Module | None = None, clip: float = CLIP) -> None:
        super().__init__()
        self.expand = expand if expand is not None else nn.Identity()
        size = self.expand(torch.zeros(1, vector)).shape[1]
        self.normaliser = RunningNormaliser(size, clip)
        self.size = size + (BOTTLENECK if maps else 0)
        if maps:
            self.projection = nn.Sequential(nn.Linear(maps, BOTTLENECK), nn.LayerNorm(BOTTLENECK), nn.Tanh())

    def observe(self, vector: Tensor) -> None:
        """Add vectors [N, V] to the normaliser's statistics."""
        self.normaliser.observe(self.expand(vector))

    def forward(self, maps: Tensor, vector: Tensor) -> Tensor:
        """Return [B, size] for maps [B, M] and vector [B, V]."""
        normal: Tensor = self.normaliser(self.expand(vector))
        return torch.cat([self.projection(maps), normal], dim=-1) if maps.shape[-1] else normal


def vector_size(space: gymnasium.spaces.Dict, name: str = "vector") -> int:
    """Return the length of a vector of the observation."""
    shape = space[name].shape
    assert shape is not None
    return shape[0]


def policy_step(policy: nn.Module, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the action to deploy [B, A] and the next state [B, S] of a policy, with or without memory.

    Parameters
    ----------
    policy
        The result of an algorithm's `train`.
    observation
        The observation.
    state
        The policy's memory [B, S], zeros at the start of an episode; a policy without memory leaves it unchanged.
    """
    step = getattr(policy, "step", None)
    if step is None:
        return policy(observation), state * 1.0
    action, next_state = step(observation, state)
    return action, next_state


def state_size(policy: nn.Module) -> int:
    """Return the number of values in a policy's memory; 1 without memory."""
    return int(getattr(policy, "state_size", 1))


class SquashedGaussian:
    """The distribution of tanh(x) for independent Gaussian x.

    Parameters
    ----------
    parameters
        Mean and raw log standard deviation of x side by side, [B, 2 A]; the latter is squashed into [-5, 2].

    References
    ----------
    Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, appendix C.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.mean, log_std = parameters.chunk(2, dim=-1)
        self.log_std = torch.tanh(log_std) * 3.5 - 1.5

    def mode(self) -> Tensor:
        """The action to deploy, [B, A]: the squashed mean."""
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a differentiable sample [B, A] and its log-likelihood [B].

        `noise` [B, A], of zero mean and unit variance, replaces the independent Gaussian noise.
        """
        noise = torch.randn_like(self.mean) if noise is None else noise
        raw = self.mean + self.log_std.exp() * noise
        likelihood = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        correction = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))  # log(1 - tanh^2), stable
        return torch.tanh(raw), (likelihood - correction).sum(dim=-1)


class ActorCritic(nn.Module):
    """A Gaussian policy and a value that share the encoder: the network of PPO and A3C.

    Parameters
    ----------
    space
        Space of the observations.
    action_size
        A, the number of action components.
    hidden
        Units in each of two hidden layers.
    log_std
        Logarithm of the initial standard deviation of the actions.
    """

    def __init__(self, space: gymnasium.spaces.Dict, action_size: int, hidden: int, log_std: float) -> None:
        super().__init__()
        self.encoder = ImageEncoder(space)
        self.trunk = Trunk(self.encoder.size, vector_size(space))
        self.policy = layers(self.trunk.size, hidden, action_size)
        self.value = layers(self.trunk.size, hidden, 1)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))
        with (
            torch.no_grad()
        ):  # makes the first actions small: Andrychowicz et al. 2021, https://arxiv.org/abs/2006.05990
            last = self.policy[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.01)
            last.bias.zero_()

    def evaluate(self, observation: TensorObservation) -> tuple[Independent, Tensor]:
        """Return the distribution of actions [B, A] before clipping, and the value [B]."""
        embedding = self.trunk(self.encoder(observation), observation["vector"])
        normal = Normal(self.policy(embedding), self.log_std.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False), self.value(embedding).squeeze(-1)

    @torch.no_grad()
    def sample(self, observation: TensorObservation) -> Tensor:
        """Return actions [B, A] before clipping."""
        mean: Tensor = self.policy(self.trunk(self.encoder(observation), observation["vector"]))
        return mean + self.log_std.exp() * torch.randn_like(mean)

    def forward(self, observation: TensorObservation) -> Tensor:
        """The action to deploy [B, A], in [-1, 1]."""
        mean: Tensor = self.policy(self.trunk(self.encoder(observation), observation["vector"]))
        return mean.clamp(-1, 1)


class GaussianActor(nn.Module):
    """Feature maps, vector and memory to a squashed Gaussian over actions.

    Parameters
    ----------
    trunk
        Joins feature maps and vector.
    action_size
        A, the number of action components.
    hidden
        Units in each of two hidden layers.
    memory
        Units of a gated recurrent unit; 0 for none.
    """

    def __init__(self, trunk: Trunk, action_size: int, hidden: int, memory: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        self.state_size = max(1, memory)  # without memory one value, which stays zero
        self.cell = nn.GRUCell(trunk.size, memory) if memory else None
        self.layers = layers(trunk.size + memory, hidden, 2 * action_size)

    def forward(self, maps: Tensor, vector: Tensor, state: Tensor | None = None) -> tuple[SquashedGaussian, Tensor]:
        """Return the action distribution and the next state [B, S]; a state of None is the start of an episode."""
        if state is None:
            state = vector.new_zeros(len(vector), self.state_size)
        inputs = self.trunk(maps, vector)
        if self.cell is None:
            return SquashedGaussian(self.layers(inputs)), state * 1.0
        state = self.cell(inputs, state)
        return SquashedGaussian(self.layers(torch.cat([inputs, state], dim=-1))), state


class TwinCritic(nn.Module):
    """Two estimates of the return that share the trunk.

    Parameters
    ----------
    trunk
        Joins feature maps and vector.
    action_size
        A, the number of action components.
    hidden
        Units in each of two hidden layers.
    """

    def __init__(self, trunk: Trunk, action_size: int, hidden: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.first = layers(trunk.size + action_size, hidden, 1)
        self.second = layers(trunk.size + action_size, hidden, 1)

    def forward(self, maps: Tensor, vector: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return two values, each [B]."""
        inputs = torch.cat([self.trunk(maps, vector), action], dim=-1)
        return self.first(inputs).squeeze(-1), self.second(inputs).squeeze(-1)
