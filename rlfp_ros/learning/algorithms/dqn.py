"""Deep Q-learning over a set of discrete actions: Mnih et al. 2015, https://doi.org/10.1038/nature14236.

It uses experience replay, a target network that is copied at intervals, and an epsilon-greedy policy. Double
Q-learning (van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461) and n-step returns (Hessel et al. 2018,
https://arxiv.org/abs/1710.02298) are settings. The actions are every combination of a few levels of each velocity
component.
"""

from __future__ import annotations

import copy
import itertools

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.augmentation import AugmentationName, augmentation, augmented
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import (
    ImageEncoder,
    TensorObservation,
    Trunk,
    batch_of_one,
    layers,
    vector_size,
)
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog


class DqnSettings(TrainingSettings):
    """Hyperparameters."""

    hidden: int = Field(256, ge=1, le=8192)  # units in each of two layers
    learning_rate: float = Field(5e-4, gt=0, le=1)
    batch: int = Field(128, ge=1)  # transitions per update
    discount: float = Field(0.96, ge=0, lt=1)  # per environment step; a horizon of 0.8 s at 30 Hz
    return_steps: int = Field(1, ge=1)  # n of n-step returns
    double: bool = True  # double Q-learning: the network chooses the next action, the target network evaluates it
    copy_every: int = Field(500, ge=1)  # updates between two copies to the target network
    update_every: int = Field(2, ge=1)  # environment steps per update
    first_steps: int = Field(1_000, ge=1)  # random actions before the first update
    first_epsilon: float = Field(1.0, ge=0, le=1)  # share of random actions at the start
    last_epsilon: float = Field(0.05, ge=0, le=1)  # share of random actions after `exploration`
    exploration: float = Field(0.3, gt=0, le=1)  # share of the training over which epsilon falls
    levels: int = Field(3, ge=2, le=9)  # values per action component, evenly spaced over [-1, 1]
    reward_scale: float = Field(0.1, gt=0)  # rewards are multiplied by this before anything learns from them
    capacity: int = Field(100_000, ge=2)  # frames kept
    augmentation: AugmentationName = "none"  # of images; names of augmentation.py


def action_set(action_size: int, levels: int) -> Tensor:
    """Return every combination of `levels` values, [levels^A, A], in [-1, 1]."""
    values = torch.linspace(-1, 1, levels).tolist()
    return torch.tensor(list(itertools.product(values, repeat=action_size)))


class QNetwork(nn.Module):
    """The Q-network: values of all discrete actions."""

    actions: Tensor

    def __init__(self, space: gymnasium.spaces.Dict, actions: Tensor, hidden: int) -> None:
        super().__init__()
        self.register_buffer("actions", actions)
        self.encoder = ImageEncoder(space)
        self.trunk = Trunk(self.encoder.size, vector_size(space))
        self.layers = layers(self.trunk.size, hidden, len(actions))

    def values(self, observation: TensorObservation) -> Tensor:
        """Return the values [B, number of actions]."""
        value: Tensor = self.layers(self.trunk(self.encoder(observation), observation["vector"]))
        return value

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return the action to deploy [B, A], in [-1, 1]: the one with the highest value."""
        return self.actions[self.values(observation).argmax(dim=-1)]


class DeepQLearner:
    """Network, target network and one gradient step."""

    def __init__(self, space: gymnasium.spaces.Dict, actions: Tensor, settings: DqnSettings) -> None:
        self.settings = settings
        self.network = QNetwork(space, actions, settings.hidden)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.target.trunk.normaliser = self.network.trunk.normaliser  # one, for both
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate, fused=True)
        self.updates = 0
        self.augment = augmentation(settings.augmentation)

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one gradient step. Every `copy_every`-th ends with a copy to the target network."""
        target = self.targets(batch)
        values = self.network.values(augmented(batch.observation, self.augment))
        chosen = values.gather(1, batch.action[:, None]).squeeze(1)
        loss = functional.smooth_l1_loss(chosen, target)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.settings.copy_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return {"loss": loss.item(), "value": chosen.mean().item()}

    @torch.no_grad()
    def targets(self, batch: TransitionBatch) -> Tensor:
        """Return the n-step return plus the target network's value of the best action after it, [B]."""
        observation = augmented(batch.next_observation, self.augment)
        values = self.target.values(observation)
        if self.settings.double:
            best = self.network.values(observation).argmax(dim=-1, keepdim=True)
        else:
            best = values.argmax(dim=-1, keepdim=True)
        return batch.reward + batch.discount * values.gather(1, best).squeeze(1)


def epsilon(settings: DqnSettings, progress: float) -> float:
    """Return the share of random actions at `progress` of the training, in [0, 1]."""
    fallen = min(1.0, progress / settings.exploration)
    return settings.first_epsilon + fallen * (settings.last_epsilon - settings.first_epsilon)


@algorithm("dqn", DqnSettings(), steps=100_000)
def train(make_env: EnvironmentMaker, settings: DqnSettings, steps: int, seed: int, log: TrainingLog) -> QNetwork:
    """Learn for `steps` environment steps. A resumed training starts with an empty buffer."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    actions = action_set(action_size, settings.levels)
    learner = DeepQLearner(space, actions, settings)
    network = learner.network
    begin = 0
    if log.resumed:
        network.load_state_dict(log.resumed["network"])
        learner.target.load_state_dict(log.resumed["target"])
        learner.optimizer.load_state_dict(log.resumed["optimizer"])
        learner.updates, begin = int(log.resumed["updates"]), int(log.resumed["step"])

    def state() -> dict[str, object]:
        return {
            "network": network.state_dict(),
            "target": learner.target.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "updates": learner.updates,
        }

    rng = np.random.default_rng([seed, begin])
    buffer = ReplayBuffer(settings.capacity, space, np.zeros((), np.int64), settings.discount, settings.return_steps)
    seeds = episode_seeds(seed, begin)
    observation, _ = env.reset(seed=next(seeds))
    buffer.begin(observation)
    for step in range(begin + 1, steps + 1):
        random = begin == 0 and step <= settings.first_steps
        if random or rng.uniform() < epsilon(settings, step / steps):
            index = int(rng.integers(len(actions)))
        else:
            with torch.no_grad():
                index = int(network.values(batch_of_one(observation)).argmax())
        observation, reward, terminated, truncated, info = env.step(actions[index].numpy())
        buffer.add(np.asarray(index), settings.reward_scale * float(reward), terminated, truncated, observation)
        network.trunk.normaliser.observe(torch.from_numpy(observation["vector"])[None])
        if terminated or truncated:
            log.episode(step, info)
            observation, _ = env.reset(seed=next(seeds))
            buffer.begin(observation)
        if len(buffer) > settings.first_steps and step % settings.update_every == 0:
            figures = learner.update(buffer.sample(settings.batch, rng))
            if step % 500 == 0:
                log.figures(step, **figures)
        log.checkpoint(step, state)
    log.checkpoint(steps, state, last=True)
    env.close()
    return network
