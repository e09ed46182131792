"""Proximal policy optimisation: Schulman et al. 2017, https://arxiv.org/abs/1707.06347.

It uses generalised advantages (Schulman et al. 2016, https://arxiv.org/abs/1506.02438). If a time limit ends an
episode, the value of the last observation replaces the rest of it (Pardo et al. 2018,
https://arxiv.org/abs/1712.00378). With an augmentation, DrAC's regularisation is part of the loss (Raileanu et al.
2021, https://arxiv.org/abs/2006.12862).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.augmentation import AugmentationName, augmentation, augmented, drac_regularisation
from rlfp_ros.learning.algorithms.environments import Environment, EnvironmentMaker, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, TensorObservation, batch_of_one
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog


class PpoSettings(TrainingSettings):
    """Hyperparameters."""

    hidden: int = Field(128, ge=1, le=8192)  # units in each of two layers
    learning_rate: float = Field(1e-3, gt=0, le=1)  # falls linearly to zero
    rollout: int = Field(1_024, ge=2)  # environment steps between two rounds of updates
    batch: int = Field(128, ge=2)  # steps per update
    epochs: int = Field(10, ge=1)  # passes over a rollout
    discount: float = Field(0.96, ge=0, le=1)  # per environment step; a horizon of 0.8 s at 30 Hz
    trace: float = Field(0.95, ge=0, le=1)  # lambda of the generalised advantage
    clip: float = Field(0.2, gt=0, lt=1)  # half-width of the range about 1 to which the probability ratio is clipped
    value_weight: float = Field(0.5, ge=0)  # weight of the value's squared error
    entropy_weight: float = Field(0.0, ge=0)  # weight of the entropy bonus
    largest_gradient: float = Field(0.5, gt=0)  # norm to which gradients are clipped
    initial_log_std: float = Field(-0.5, ge=-5, le=2)  # logarithm of the actions' standard deviation at the start
    reward_scale: float = Field(0.1, gt=0)  # rewards are multiplied by this before anything learns from them
    augmentation: AugmentationName = "none"  # of images, for DrAC; names of augmentation.py
    drac_weight: float = Field(0.1, ge=0)  # weight of DrAC's regularisation


@dataclass(frozen=True)
class PpoRollout:
    """T consecutive steps."""

    observation: TensorObservation
    action: Tensor  # [T, A] before clipping
    reward: Tensor  # [T]
    ended: Tensor  # [T] bool: the episode ended with this step
    after: dict[int, TensorObservation]  # observation after step t, for truncated episodes and at the end


def generalised_advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, discount: float, trace: float
) -> Tensor:
    """Compute advantages [T]: sum over l of (discount trace)^l delta_{t+l}, up to the end of the episode.

    `next_value` [T] is the value of the state after step t, 0 after a terminal step.
    """
    delta = reward + discount * next_value - value
    advantage = torch.zeros_like(delta)
    following = 0.0
    for step in reversed(range(len(delta))):
        following = float(delta[step]) + discount * trace * following * (not ended[step])
        advantage[step] = following
    return advantage


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return minus PPO's objective L^CLIP.

    It has no gradient once the ratio has left [1 - clip, 1 + clip] in the advantage's direction.
    """
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


@algorithm("ppo", PpoSettings(), steps=200_000)
def train(make_env: EnvironmentMaker, settings: PpoSettings, steps: int, seed: int, log: TrainingLog) -> ActorCritic:
    """Learn for `steps` environment steps, in whole rollouts."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    network = ActorCritic(space, action_size, settings.hidden, settings.initial_log_std)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, eps=1e-5, fused=True)
    augment = augmentation(settings.augmentation)
    begin = 0
    if log.resumed:
        network.load_state_dict(log.resumed["network"])
        optimizer.load_state_dict(log.resumed["optimizer"])
        begin = int(log.resumed["step"])
        torch.manual_seed(seed + begin)
    player = Collector(env, settings, log, episode_seeds(seed, begin), begin)
    while player.step < steps:
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - player.step / steps)
        rollout = player.play(network, min(settings.rollout, steps - player.step))
        network.trunk.normaliser.observe(rollout.observation["vector"])
        old_likelihood, advantage, wanted = assess(network, rollout, settings)
        for _ in range(settings.epochs):
            for picks in torch.randperm(len(advantage)).split(settings.batch):
                observed = {name: value[picks] for name, value in rollout.observation.items()}
                policy, value = network.evaluate(observed)
                ratio = (policy.log_prob(rollout.action[picks]) - old_likelihood[picks]).exp()
                standardised = advantage[picks]
                if len(picks) > 1:
                    standardised = (standardised - standardised.mean()) / (standardised.std() + 1e-8)
                loss = (
                    clipped_loss(ratio, standardised, settings.clip)
                    + settings.value_weight * (value - wanted[picks]).square().mean()
                    - settings.entropy_weight * policy.entropy().mean()
                )
                if settings.augmentation != "none" and "image" in observed:
                    moved = network.evaluate(augmented(observed, augment))
                    regularisation = drac_regularisation(policy, moved[0], value, moved[1])
                    loss = loss + settings.drac_weight * regularisation
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.largest_gradient)
                optimizer.step()
        log.figures(player.step, loss=loss.item(), std=network.log_std.exp().mean().item())
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        log.checkpoint(player.step, lambda: state, last=player.step >= steps)  # noqa: B023 - called here
    env.close()
    return network


@torch.no_grad()
def assess(network: ActorCritic, rollout: PpoRollout, settings: PpoSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-likelihoods of the played actions, advantages and target values, each [T], in one pass."""
    policy, value = network.evaluate(rollout.observation)
    next_value = torch.zeros_like(value)
    next_value[:-1] = torch.where(rollout.ended[:-1], 0.0, value[1:])
    if rollout.after:
        names = rollout.observation
        after = {name: torch.cat([seen[name] for seen in rollout.after.values()]) for name in names}
        next_value[list(rollout.after)] = network.evaluate(after)[1]
    advantage = generalised_advantages(
        rollout.reward, value, next_value, rollout.ended, settings.discount, settings.trace
    )
    return policy.log_prob(rollout.action), advantage, advantage + value


class Collector:
    """Plays one environment. Each rollout continues where the last one ended."""

    def __init__(
        self, env: Environment, settings: PpoSettings, log: TrainingLog, seeds: Iterator[int], step: int
    ) -> None:
        self._env, self._settings, self._log, self._seeds = env, settings, log, seeds
        self._observation, _ = env.reset(seed=next(seeds))
        self.step = step  # total number of environment steps

    def play(self, network: ActorCritic, steps: int) -> PpoRollout:
        observations, actions, rewards, ended, after = [], [], [], [], {}
        for index in range(steps):
            observations.append(self._observation)
            action = network.sample(batch_of_one(self._observation))[0].numpy()
            self._observation, reward, terminated, truncated, info = self._env.step(action.clip(-1, 1))
            self.step += 1
            actions.append(action)
            rewards.append(self._settings.reward_scale * float(reward))
            ended.append(terminated or truncated)
            if not terminated and (truncated or index == steps - 1):
                after[index] = batch_of_one(self._observation)
            if ended[-1]:
                self._log.episode(self.step, info)
                self._observation, _ = self._env.reset(seed=next(self._seeds))
        observation = {
            name: torch.from_numpy(np.stack([one[name] for one in observations])) for name in observations[0]
        }
        return PpoRollout(
            observation, torch.from_numpy(np.stack(actions)), torch.tensor(rewards), torch.tensor(ended), after
        )
