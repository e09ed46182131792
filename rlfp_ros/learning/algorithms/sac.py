"""Soft actor-critic, from a vector or from pixels; from pixels with augmentation it is DrQ.

`learning/recipes/guided.py` uses the same learner. Three parts are optional: critics that see the simulator's
privileged state, if observations hold `privileged`; an actor with memory; and an additional term of the actor's loss,
such as imitation of a teacher.

References
----------
- Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905: the smaller of two critics, a temperature tuned to an entropy.
- Yarats et al. 2021, DrQ, https://arxiv.org/abs/2004.13649: targets and losses averaged over augmentations.
- Yarats et al. 2022, DrQ-v2, https://arxiv.org/abs/2107.09645: n-step returns, one encoder that the critics teach.
- Pinto et al. 2017, https://arxiv.org/abs/1710.06542: critics that know more than the actor.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.augmentation import AugmentationName, augmentation, augmented, averaged, together
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import (
    CLIP,
    GaussianActor,
    ImageEncoder,
    SquashedGaussian,
    TensorObservation,
    Trunk,
    TwinCritic,
    batch_of_one,
    vector_size,
)
from rlfp_ros.learning.algorithms.recurrent import MEMORY, transitions, unroll
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, SequenceBatch, TransitionBatch
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog


class SacSettings(TrainingSettings):
    """Hyperparameters."""

    hidden: int = Field(256, ge=1, le=8192)  # units in each of two layers
    memory: int = Field(0, ge=0, le=8192)  # units of the actor's memory; 0 for none
    sequence: int = Field(16, ge=2)  # steps that an actor with memory learns from at a time
    burn_in: int = Field(4, ge=0)  # the first steps of a sequence, which only fill the memory
    learning_rate: float = Field(1e-3, gt=0, le=1)  # of the critics
    actor_learning_rate: float | None = Field(None, gt=0, le=1)  # by default `learning_rate`
    temperature_learning_rate: float | None = Field(None, gt=0, le=1)  # by default `learning_rate`
    final_rate: float = Field(1.0, gt=0, le=1)  # factor of the learning rates at the end; changes linearly
    weight_decay: float = Field(0.0, ge=0, lt=1)  # of AdamW
    largest_gradient: float | None = Field(None, gt=0)  # norm to which gradients are clipped; None for no clipping
    batch: int = Field(128, ge=1)  # transitions per update
    discount: float = Field(0.96, ge=0, lt=1)  # per environment step; a horizon of 0.8 s at 30 Hz
    return_steps: int = Field(1, ge=1)  # n of n-step returns, without off-policy correction
    target_rate: float = Field(0.01, gt=0, le=1)  # Polyak step of the target critics per update
    initial_temperature: float = Field(0.1, gt=0)  # weight of the entropy at the start
    target_entropy: float | None = None  # nats; by default minus the number of action components
    reward_scale: float = Field(0.1, gt=0)  # rewards are multiplied by this before anything learns from them
    first_steps: int = Field(1_000, ge=1)  # random actions before the first update
    update_every: int = Field(1, ge=1)  # environment steps per update
    actor_every: int = Field(1, ge=1)  # updates of the critics per update of actor and temperature
    capacity: int = Field(100_000, ge=2)  # frames kept
    augmentation: AugmentationName = "shift"  # of images; names of augmentation.py
    target_augmentations: int = Field(1, ge=1)  # K of DrQ, over which a target is averaged
    critic_augmentations: int = Field(1, ge=1)  # M of DrQ, over which the critics' loss is averaged

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.memory and self.burn_in >= self.sequence:
            raise ValueError(f"burn_in is {self.burn_in}, expected less than sequence, which is {self.sequence}")
        if self.memory and self.batch < self.sequence:
            raise ValueError(f"batch is {self.batch}, expected at least sequence, which is {self.sequence}")
        if self.memory and self.return_steps > 1:
            raise ValueError(f"return_steps is {self.return_steps}, expected 1 with memory")
        return self


class SacPolicy(nn.Module):
    """Encoder and actor, the deployed part."""

    def __init__(self, encoder: ImageEncoder, actor: GaussianActor) -> None:
        super().__init__()
        self.encoder, self.actor = encoder, actor
        self.state_size = actor.state_size

    def forward(self, observation: TensorObservation) -> Tensor:
        """The action to deploy at the start of an episode, or without memory, [B, A] in [-1, 1]."""
        policy, _ = self.actor(self.encoder(observation), observation["vector"])
        return policy.mode()

    def step(self, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
        """The action to deploy [B, A] and the next state [B, S]."""
        policy, state = self.actor(self.encoder(observation), observation["vector"], state)
        return policy.mode(), state

    @torch.no_grad()
    def explore(
        self, observation: dict[str, np.ndarray], state: Tensor | None, noise: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """A random action [A] for an environment's observation, and the next state [1, S].

        `noise` [A], of zero mean and unit variance, replaces the independent Gaussian noise.
        """
        observed = batch_of_one(observation)
        policy, state = self.actor(self.encoder(observed), observed["vector"], state)
        drawn = None if noise is None else torch.from_numpy(noise[None].astype(np.float32))
        return policy.sample(drawn)[0][0].numpy(), state


class SoftActorCritic:
    """Policy, critics, temperature, and one gradient step.

    Parameters
    ----------
    space
        Space of the observations. Critics see `privileged`, if it is there, instead of `vector`.
    action_size
        A, the number of action components.
    settings
        Hyperparameters.
    expand
        Appends values to the actor's vector, see `Trunk`.
    augment_vector
        Changes vectors [N, ..., V] at random before learning; all vectors of one of the N are changed equally.
    clip
        Clip of the normalisers.
    """

    def __init__(
        self,
        space: gymnasium.spaces.Dict,
        action_size: int,
        settings: SacSettings,
        expand: nn.Module | None = None,
        augment_vector: Callable[[Tensor], Tensor] | None = None,
        clip: float = CLIP,
    ) -> None:
        self.settings = settings
        self.critic_input = "privileged" if "privileged" in space.spaces else "vector"
        self.encoder = ImageEncoder(space)
        maps, width = self.encoder.size, settings.hidden
        self.actor = GaussianActor(Trunk(maps, vector_size(space), expand, clip), action_size, width, settings.memory)
        vector_width = vector_size(space, self.critic_input)
        self.critic = TwinCritic(
            Trunk(maps, vector_width, expand if self.critic_input == "vector" else None, clip), action_size, width
        )
        if self.critic_input == "vector":
            self.critic.trunk.normaliser = self.actor.trunk.normaliser  # one for all
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.target.trunk.normaliser = self.critic.trunk.normaliser
        self.policy = SacPolicy(self.encoder, self.actor)
        self.log_temperature = torch.tensor(math.log(settings.initial_temperature), requires_grad=True)
        self.target_entropy = -float(action_size) if settings.target_entropy is None else settings.target_entropy
        self.augment = augmentation(settings.augmentation)
        self.augment_vector = augment_vector or (lambda vector: vector)
        rate, decay = settings.learning_rate, settings.weight_decay
        self._actor_rate = settings.actor_learning_rate or rate
        taught_by_critics = itertools.chain(self.encoder.parameters(), self.critic.parameters())
        self.actor_optimizer = torch.optim.AdamW(
            self.actor.parameters(), self._actor_rate, weight_decay=decay, fused=True
        )
        self.critic_optimizer = torch.optim.AdamW(taught_by_critics, rate, weight_decay=decay, fused=True)
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_temperature], settings.temperature_learning_rate or rate
        )
        self.updates = 0  # of the critics

    def observe(self, observation: TensorObservation) -> None:
        """Add observations [N, ...] to the normalisers' statistics."""
        self.actor.trunk.observe(observation["vector"])
        if self.critic_input != "vector":
            self.critic.trunk.observe(observation[self.critic_input])

    def sample(self, buffer: ReplayBuffer, rng: np.random.Generator) -> TransitionBatch | SequenceBatch:
        """Draw the experience of one update."""
        settings = self.settings
        if settings.memory:
            return buffer.sample_sequences(settings.batch // settings.sequence, settings.sequence, rng)
        return buffer.sample(settings.batch, rng)

    def update(
        self,
        experience: TransitionBatch | SequenceBatch,
        progress: float = 0.0,
        train_actor: bool = True,
        actor_term: Callable[[SquashedGaussian, TransitionBatch], Tensor] | None = None,
    ) -> dict[str, float]:
        """Take one step of critics, actor and temperature.

        Parameters
        ----------
        experience
            The result of `sample`.
        progress
            Share of the training that is over, in [0, 1]; sets the learning rates.
        train_actor
            Whether actor and temperature learn too.
        actor_term
            Computes a loss that is added to the actor's, from its actions for a batch.

        Returns
        -------
        dict
            Figures by name.
        """
        settings = self.settings
        share = 1 - (1 - settings.final_rate) * progress
        self.actor_optimizer.param_groups[0]["lr"] = self._actor_rate * share
        self.critic_optimizer.param_groups[0]["lr"] = settings.learning_rate * share
        batch = self.with_memory(experience) if isinstance(experience, SequenceBatch) else self._augmented(experience)

        temperature = self.log_temperature.exp().detach()
        target = self.targets(batch).repeat(settings.critic_augmentations)
        observation = augmented(batch.observation, self.augment, settings.critic_augmentations)
        maps, action = self.encoder(observation), batch.action.repeat(settings.critic_augmentations, 1)
        first, second = self.critic(maps, observation[self.critic_input], action)
        critic_loss = functional.mse_loss(first, target) + functional.mse_loss(second, target)
        self.gradient_step(self.critic_optimizer, critic_loss)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), settings.target_rate)
        figures = {"critic_loss": critic_loss, "value": first.mean(), "temperature": temperature}
        self.updates += 1
        if not train_actor or self.updates % settings.actor_every:
            return {name: value.item() for name, value in figures.items()}

        # Only the critics teach the encoder: the actor's gradient ends at the maps.
        maps = maps.detach()
        self.critic.requires_grad_(False)
        policy, _ = self.actor(maps, observation["vector"], observation.get(MEMORY))
        action, likelihood = policy.sample()
        value = torch.min(*self.critic(maps, observation[self.critic_input], action))
        actor_loss = (temperature * likelihood - value).mean()
        if actor_term is not None:
            actor_loss = actor_loss + actor_term(policy, batch)
        self.gradient_step(self.actor_optimizer, actor_loss)
        self.critic.requires_grad_(True)

        entropy = -likelihood.detach().mean()
        self.gradient_step(self.temperature_optimizer, self.temperature_loss(entropy))
        figures |= {"entropy": entropy, "actor_loss": actor_loss}
        return {name: value.item() for name, value in figures.items()}

    @torch.no_grad()
    def targets(self, batch: TransitionBatch) -> Tensor:
        """Return the critics' targets [B]: n-step return plus the smaller target critic's soft value after it."""
        copies = self.settings.target_augmentations
        observation = augmented(batch.next_observation, self.augment, copies)
        maps = self.encoder(observation)
        policy, _ = self.actor(maps, observation["vector"], observation.get(MEMORY))
        action, likelihood = policy.sample()
        value = torch.min(*self.target(maps, observation[self.critic_input], action))
        value = value - self.log_temperature.exp() * likelihood
        return batch.reward + batch.discount * averaged(value, copies)

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """Return a loss that lowers the temperature if `entropy` is above its target, and raises it otherwise."""
        return self.log_temperature * (entropy - self.target_entropy)

    def with_memory(self, sequences: SequenceBatch) -> TransitionBatch:
        """Return the transitions of sequences, each with the actor's memory before it."""
        assert self.actor.cell is not None
        frames = dict(sequences.observation)
        frames["vector"] = self.augment_vector(frames["vector"])
        sequences = dataclasses.replace(sequences, observation=frames)
        if "image" in frames:  # the update augments the images of each step anew
            frames = frames | {"image": together(frames["image"], self.augment)}
        flat = {name: values.flatten(0, 1) for name, values in frames.items()}
        with torch.no_grad():
            maps = self.encoder(flat)
        inputs = self.actor.trunk(maps, flat["vector"]).unflatten(0, sequences.starts.shape)
        empty = inputs.new_zeros(len(inputs), self.actor.state_size)
        burn_in = self.settings.burn_in
        return transitions(sequences, unroll(self.actor.cell, inputs, sequences.starts, empty, burn_in), burn_in)

    def _augmented(self, batch: TransitionBatch) -> TransitionBatch:
        """Return the batch with augmented vectors; images are augmented later."""
        one, other = (
            observation | {"vector": self.augment_vector(observation["vector"])}
            for observation in (batch.observation, batch.next_observation)
        )
        return dataclasses.replace(batch, observation=one, next_observation=other)

    def gradient_step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Take one step of an optimizer, with clipped gradients if the settings say so."""
        optimizer.zero_grad()
        loss.backward()
        if self.settings.largest_gradient is not None:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.settings.largest_gradient)
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in CHECKPOINTED}
        return parts | {"log_temperature": self.log_temperature.detach(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for name in CHECKPOINTED:
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        self.updates = state["updates"]


CHECKPOINTED = ("policy", "critic", "target", "actor_optimizer", "critic_optimizer", "temperature_optimizer")


@algorithm("sac", SacSettings(), steps=60_000)
def train(make_env: EnvironmentMaker, settings: SacSettings, steps: int, seed: int, log: TrainingLog) -> SacPolicy:
    """Learn for `steps` environment steps and update after each. A resumed training starts with an empty buffer."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    learner = SoftActorCritic(space, action_size, settings)
    policy, begin = learner.policy, 0
    if log.resumed:
        learner.load_state_dict(log.resumed["learner"])
        begin = int(log.resumed["step"])
    rng = np.random.default_rng([seed, begin])
    action = np.zeros(action_size, np.float32)
    buffer = ReplayBuffer(settings.capacity, space, action, settings.discount, settings.return_steps)
    seeds = episode_seeds(seed, begin)
    observation, _ = env.reset(seed=next(seeds))
    memory: Tensor | None = None
    buffer.begin(observation)
    for step in range(begin + 1, steps + 1):
        random = begin == 0 and step <= settings.first_steps
        if settings.memory or not random:
            action, memory = policy.explore(observation, memory)
        if random:
            action = rng.uniform(-1, 1, action_size).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        buffer.add(action, settings.reward_scale * float(reward), terminated, truncated, observation)
        learner.observe(batch_of_one(observation))
        if terminated or truncated:
            log.episode(step, info)
            observation, _ = env.reset(seed=next(seeds))
            memory = None
            buffer.begin(observation)
        if len(buffer) > max(settings.first_steps, settings.sequence) and step % settings.update_every == 0:
            figures = learner.update(learner.sample(buffer, rng))
            if step % 500 == 0:
                log.figures(step, **figures)
        log.checkpoint(step, lambda: {"learner": learner.state_dict()})
    log.checkpoint(steps, lambda: {"learner": learner.state_dict()}, last=True)
    env.close()
    return policy
