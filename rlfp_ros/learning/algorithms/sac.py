"""Soft actor-critic as published, from a vector or from pixels; from pixels with augmentation it is DrQ.

Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905: the smaller of two critics, entropy temperature tuned to a
target. Pixels: Yarats et al. 2021, https://arxiv.org/abs/2004.13649 (targets and losses averaged over augmentations),
and DrQ-v2, Yarats et al. 2022, https://arxiv.org/abs/2107.09645 (n-step returns, one encoder that the critics teach).
Nothing but the observation is used; `sac.py` has the recipe's, with a privileged critic and a teacher.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.algorithms.augmentation import augmentation, augmented, averaged
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seed, shapes
from rlfp_ros.learning.algorithms.networks import ImageEncoder, Observation, Trunk, batch_of_one, layers
from rlfp_ros.learning.algorithms.replay import Batch, ReplayBuffer
from rlfp_ros.learning.runs.training_log import TrainingLog


@dataclass(frozen=True)
class DrqSettings:
    """Hyperparameters."""

    hidden: int = 256  # units in each of two layers
    learning_rate: float = 1e-3  # of everything
    batch: int = 128  # transitions in an update
    discount: float = 0.96  # an environment step; 0.8 s of foresight at 30 Hz
    return_steps: int = 1  # n of n-step returns; the actions of the steps between are older policies'
    target_rate: float = 0.01  # of the target critics, an update
    initial_temperature: float = 0.1  # what the entropy is worth at the start
    target_entropy_scale: float = 1.0  # the target entropy is minus this, for each action component
    reward_scale: float = 0.1  # rewards are multiplied by this before anything learns from them
    first_steps: int = 1_000  # random actions before the first update
    update_every: int = 1  # environment steps
    capacity: int = 100_000  # frames kept
    augmentation: str = "shift"  # of pictures; names of augmentation.py
    target_augmentations: int = 1  # K of DrQ, over which a target is averaged
    critic_augmentations: int = 1  # M of DrQ, over which the critics' loss is averaged


class Actor(nn.Module):
    """Feature maps and vector to a squashed Gaussian over actions."""

    def __init__(self, maps: int, space: gymnasium.spaces.Dict, action_size: int, hidden: int) -> None:
        super().__init__()
        self.trunk = Trunk(maps, space)
        self.layers = layers(self.trunk.size, hidden, 2 * action_size)

    def forward(self, maps: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before tanh, each [B, A]."""
        mean, log_std = self.layers(self.trunk(maps, vector)).chunk(2, dim=-1)
        return mean, torch.tanh(log_std) * 3.5 - 1.5  # in [-5, 2]

    def sample(self, maps: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """An action in [-1, 1] [B, A] and its log-likelihood [B]."""
        mean, log_std = self(maps, vector)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        likelihood = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        correction = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))  # log(1 - tanh^2), stable
        return torch.tanh(raw), (likelihood - correction).sum(dim=-1)


class Critic(nn.Module):
    """Two estimates of the return that share the trunk."""

    def __init__(self, maps: int, space: gymnasium.spaces.Dict, action_size: int, hidden: int) -> None:
        super().__init__()
        self.trunk = Trunk(maps, space)
        self.first = layers(self.trunk.size + action_size, hidden, 1)
        self.second = layers(self.trunk.size + action_size, hidden, 1)

    def forward(self, maps: Tensor, vector: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Two values, each [B]."""
        inputs = torch.cat([self.trunk(maps, vector), action], dim=-1)
        return self.first(inputs).squeeze(-1), self.second(inputs).squeeze(-1)


class Agent(nn.Module):
    """Encoder and actor: what is deployed."""

    def __init__(self, encoder: ImageEncoder, actor: Actor) -> None:
        super().__init__()
        self.encoder, self.actor = encoder, actor

    def forward(self, observation: Observation) -> Tensor:
        """The action to deploy [B, A], in [-1, 1]: the mean, squashed."""
        mean, _ = self.actor(self.encoder(observation), observation["vector"])
        return torch.tanh(mean)


class Drq:
    """Agent, critics, temperature and one gradient step."""

    def __init__(self, space: gymnasium.spaces.Dict, action_size: int, settings: DrqSettings) -> None:
        self.settings = settings
        self.encoder = ImageEncoder(space)
        sizes = (self.encoder.size, space, action_size, settings.hidden)
        self.actor, self.critic = Actor(*sizes), Critic(*sizes)
        self.critic.trunk.normaliser = self.actor.trunk.normaliser  # one, for all
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.target.trunk.normaliser = self.actor.trunk.normaliser
        self.agent = Agent(self.encoder, self.actor)
        self.log_temperature = torch.tensor(math.log(settings.initial_temperature), requires_grad=True)
        self.target_entropy = -settings.target_entropy_scale * action_size
        self._augment = augmentation(settings.augmentation)
        rate = settings.learning_rate
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), rate, fused=True)
        learnt_by_critics = itertools.chain(self.encoder.parameters(), self.critic.parameters())
        self.critic_optimizer = torch.optim.Adam(learnt_by_critics, rate, fused=True)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], rate)

    def update(self, batch: Batch) -> dict[str, float]:
        """One step of critics, actor and temperature."""
        settings = self.settings
        target = self.targets(batch).repeat(settings.critic_augmentations)
        observation = augmented(batch.observation, self._augment, settings.critic_augmentations)
        maps = self.encoder(observation)
        action = batch.action.repeat(settings.critic_augmentations, 1)
        first, second = self.critic(maps, observation["vector"], action)
        critic_loss = functional.mse_loss(first, target) + functional.mse_loss(second, target)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), settings.target_rate)

        # Only the critics teach the encoder: the actor's gradient ends at the maps.
        maps, vector = maps.detach(), observation["vector"]
        self.critic.requires_grad_(False)
        action, likelihood = self.actor.sample(maps, vector)
        value = torch.min(*self.critic(maps, vector, action))
        actor_loss = (self.log_temperature.exp().detach() * likelihood - value).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.critic.requires_grad_(True)

        entropy = -likelihood.detach().mean()
        self.temperature_optimizer.zero_grad()
        self.temperature_loss(entropy).backward()
        self.temperature_optimizer.step()
        return {"critic_loss": critic_loss.item(), "value": value.mean().item(), "entropy": entropy.item(),
                "temperature": self.log_temperature.exp().item()}  # fmt: skip

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """What the critics should say [B]: n-step return and the smaller target critic's soft value after it."""
        copies = self.settings.target_augmentations
        observation = augmented(batch.next_observation, self._augment, copies)
        maps, vector = self.encoder(observation), observation["vector"]
        action, likelihood = self.actor.sample(maps, vector)
        value = torch.min(*self.target(maps, vector, action)) - self.log_temperature.exp() * likelihood
        return batch.reward + batch.discount * averaged(value, copies)

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """Falls when the temperature falls while `entropy` is above its target, and when it rises while below."""
        return self.log_temperature * (entropy - self.target_entropy)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {"agent": self.agent.state_dict(), "critic": self.critic.state_dict(),
                "target": self.target.state_dict(), "log_temperature": self.log_temperature.detach(),
                "actor_optimizer": self.actor_optimizer.state_dict(),
                "critic_optimizer": self.critic_optimizer.state_dict(),
                "temperature_optimizer": self.temperature_optimizer.state_dict()}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in ("agent", "critic", "target", "actor_optimizer", "critic_optimizer", "temperature_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])


def train(make_env: EnvironmentMaker, settings: DrqSettings, steps: int, seed: int, log: TrainingLog) -> Agent:
    """Learn for `steps` environment steps; one update for each. A resumed training fills its buffer anew."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    learner = Drq(space, action_size, settings)
    begin = 0
    if log.resumed:
        learner.load_state_dict(log.resumed["learner"])
        begin = int(log.resumed["step"])
    rng = np.random.default_rng([seed, begin])
    buffer = ReplayBuffer(
        settings.capacity, space, np.zeros(action_size, np.float32), settings.discount, settings.return_steps
    )
    agent, normaliser = learner.agent, learner.actor.trunk.normaliser
    observation, _ = env.reset(seed=episode_seed(seed, begin))
    buffer.begin(observation)
    for step in range(begin + 1, steps + 1):
        if begin == 0 and step <= settings.first_steps:
            action = rng.uniform(-1, 1, action_size).astype(np.float32)
        else:
            with torch.no_grad():
                seen = batch_of_one(observation)
                action = agent.actor.sample(agent.encoder(seen), seen["vector"])[0][0].numpy()
        observation, reward, terminated, truncated, info = env.step(action)
        buffer.add(action, settings.reward_scale * float(reward), terminated, truncated, observation)
        normaliser.observe(torch.from_numpy(observation["vector"])[None])
        if terminated or truncated:
            log.episode(step, info)
            observation, _ = env.reset()
            buffer.begin(observation)
        if len(buffer) > settings.first_steps and step % settings.update_every == 0:
            figures = learner.update(buffer.sample(settings.batch, rng))
            if step % 500 == 0:
                log.figures(step, **figures)
        log.checkpoint(step, lambda: {"learner": learner.state_dict()})
    log.checkpoint(steps, lambda: {"learner": learner.state_dict()}, last=True)
    env.close()
    return agent
