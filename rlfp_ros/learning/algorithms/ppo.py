"""Proximal policy optimisation: Schulman et al. 2017, https://arxiv.org/abs/1707.06347.

Advantages are generalised (Schulman et al. 2016, https://arxiv.org/abs/1506.02438). An episode that its time limit cuts
off goes on in the value of its last observation (Pardo et al. 2018, https://arxiv.org/abs/1712.00378). With an
augmentation, DrAC's regularisation is part of the loss (Raileanu et al. 2021, https://arxiv.org/abs/2006.12862).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.learning.algorithms.augmentation import augmentation, augmented, drac_regularisation
from rlfp_ros.learning.algorithms.environments import Environment, EnvironmentMaker, episode_seed, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, Observation, batch_of_one
from rlfp_ros.learning.runs.training_log import TrainingLog


@dataclass(frozen=True)
class PpoSettings:
    """Hyperparameters."""

    hidden: int = 128  # units in each of two layers
    learning_rate: float = 1e-3  # falls linearly to zero
    rollout: int = 1_024  # environment steps between two rounds of updates
    batch: int = 128  # steps in an update
    epochs: int = 10  # passes over a rollout
    discount: float = 0.96  # an environment step; 0.8 s of foresight at 30 Hz
    trace: float = 0.95  # lambda of the generalised advantage
    clip: float = 0.2  # of the probability ratio about 1
    value_weight: float = 0.5  # of the value's squared error
    entropy_weight: float = 0.0  # of the entropy bonus
    largest_gradient: float = 0.5  # norm to which gradients are cut
    initial_log_std: float = -0.5  # of the actions
    reward_scale: float = 0.1  # rewards are multiplied by this before anything learns from them
    augmentation: str = "none"  # of pictures, for DrAC; names of augmentation.py
    drac_weight: float = 0.1  # of its regularisation


@dataclass(frozen=True)
class Rollout:
    """T consecutive steps."""

    observation: Observation
    action: Tensor  # [T, A] before clipping
    reward: Tensor  # [T]
    ended: Tensor  # [T] bool: the episode ended with this step
    after: dict[int, Observation]  # the observation after step t where it is not that of t + 1 and has a value


def generalised_advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, discount: float, trace: float
) -> Tensor:
    """Advantages [T]: sum over l of (discount trace)^l delta_{t+l}, as far as the episode goes.

    `next_value` [T] is the value of what followed step t, 0 after a terminal one.
    """
    delta = reward + discount * next_value - value
    advantage = torch.zeros_like(delta)
    following = 0.0
    for step in reversed(range(len(delta))):
        following = float(delta[step]) + discount * trace * following * (not ended[step])
        advantage[step] = following
    return advantage


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Minus PPO's objective L^CLIP: no gradient where the ratio has left [1 - clip, 1 + clip] in the advantage's
    direction."""
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


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
    player = _Player(env, settings, log, episode_seed(seed, begin), begin)
    while player.step < steps:
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - player.step / steps)
        rollout = player.play(network, min(settings.rollout, steps - player.step))
        network.trunk.normaliser.observe(rollout.observation["vector"])
        old_likelihood, advantage, wanted = _assess(network, rollout, settings)
        for _ in range(settings.epochs):
            for picks in torch.randperm(len(advantage)).split(settings.batch):
                seen = {name: value[picks] for name, value in rollout.observation.items()}
                policy, value = network.evaluate(seen)
                ratio = (policy.log_prob(rollout.action[picks]) - old_likelihood[picks]).exp()
                standardised = advantage[picks]
                if len(picks) > 1:
                    standardised = (standardised - standardised.mean()) / (standardised.std() + 1e-8)
                loss = (
                    clipped_loss(ratio, standardised, settings.clip)
                    + settings.value_weight * (value - wanted[picks]).square().mean()
                    - settings.entropy_weight * policy.entropy().mean()
                )
                if settings.augmentation != "none" and "image" in seen:
                    moved = network.evaluate(augmented(seen, augment))
                    regularisation = drac_regularisation(policy, moved[0], value, moved[1])
                    loss = loss + settings.drac_weight * regularisation
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.largest_gradient)
                optimizer.step()
        log.figures(player.step, loss=loss.item(), std=network.log_std.exp().mean().item())
        log.checkpoint(
            player.step, lambda: {"network": network.state_dict(), "optimizer": optimizer.state_dict()},
            last=player.step >= steps,
        )  # fmt: skip
    env.close()
    return network


@torch.no_grad()
def _assess(network: ActorCritic, rollout: Rollout, settings: PpoSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods of the actions played, advantages and wanted values, each [T]: all in one pass."""
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


class _Player:
    """One environment, played on and on."""

    def __init__(self, env: Environment, settings: PpoSettings, log: TrainingLog, episode_seed: int, step: int) -> None:
        self._env, self._settings, self._log = env, settings, log
        self._observation, _ = env.reset(seed=episode_seed)
        self.step = step  # environment steps taken in all

    def play(self, network: ActorCritic, steps: int) -> Rollout:
        seen, actions, rewards, ended, after = [], [], [], [], {}
        for index in range(steps):
            seen.append(self._observation)
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
                self._observation, _ = self._env.reset()
        observation = {name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in seen[0]}
        return Rollout(
            observation, torch.from_numpy(np.stack(actions)), torch.tensor(rewards), torch.tensor(ended), after
        )
