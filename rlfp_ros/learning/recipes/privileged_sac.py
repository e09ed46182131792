"""Soft actor-critic on features, with a critic that knows more than the actor.

Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905: twin critics, entropy temperature tuned to a target. Asymmetric
(Pinto et al. 2017, https://arxiv.org/abs/1710.06542): in training the critics see the simulator's privileged state, the
actor only what it will see on an arm. A teacher with privileged state starts the actor and pulls it for a while
(DAgger, Ross et al. 2011, https://arxiv.org/abs/1011.0686, as a loss on every visited state), with a weight that falls.
The actor's feature points are seen through a camera turned at random, a little differently in each update: the same for
points that random shifts are for pixels (DrQ, Yarats et al. 2021, https://arxiv.org/abs/2004.13649).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.algorithms.networks import layers


@dataclass(frozen=True)
class SacSettings:
    """Hyperparameters."""

    hidden: int = 256  # units in each of two layers
    memory: int = 0  # units of the actor's memory (`recurrent`); 0: it has none
    sequence: int = 16  # steps that an actor with memory learns from at a time
    burn_in: int = 4  # the first of them, which only warm the memory up
    learning_rate: float = 6e-4  # of critics and temperature; falls linearly to a tenth
    actor_learning_rate: float = 2e-4  # of the actor while it follows the critics; falls likewise
    imitation_learning_rate: float = 1e-3  # of the actor while it only imitates; falls linearly to a twentieth
    batch: int = 256  # transitions in an update
    discount: float = 0.96  # a camera frame; 0.8 s of foresight at 30 Hz
    target_rate: float = 0.01  # of the target critics, an update
    target_entropy: float = -6.0  # nats; low, since it is the mean action that is deployed
    initial_temperature: float = 0.02
    critic_first: float = 0.15  # share of the training in which the critics learn and the actor waits for them
    # The teacher's loss, against the critics' pull of 1, at the start. High, because the critics that this budget of
    # updates makes are too coarse for the last two centimetres.
    teacher_weight: float = 100.0
    teacher_until: float = 2.0  # share of the training after which the teacher is silent; above 1, it never quite is
    camera_turn: float = 0.02  # rad, standard deviation of turns of the camera that the actor's points are seen from
    capacity: int = 200_000  # transitions kept


class Normaliser(nn.Module):
    """Shifts and scales inputs to zero mean and unit variance; part of the exported network."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        """Set from a sample [N, size]."""
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(values.std(dim=0).clamp(min=1e-3))

    def forward(self, values: Tensor) -> Tensor:
        """Normalised and clipped: an input far outside training does not blow up the network."""
        return ((values - self.mean) / self.std).clamp(-5, 5)


class Actor(nn.Module):
    """Observation [B, O] to the mean and log standard deviation of an action before tanh.

    The observation begins with feature points [stack, K, 3]. The network also gets them relative to the first point of
    their frame, the task's object: what a camera that stands a little elsewhere hardly changes, and what a small
    network finds hard to compute to a pixel by itself. Latents [stack, Z] are taken as they are.
    """

    state_size = 1  # of the state that goes from step to step; without memory one value, always zero

    def __init__(self, observation_size: int, points: tuple[int, ...], action_size: int, hidden: int) -> None:
        super().__init__()
        self.points = tuple(points)
        size = observation_size
        if len(self.points) == 3:
            size += 2 * self.points[0] * (self.points[1] - 1)
        self.normaliser = Normaliser(size)
        self.layers = layers(size, hidden, 2 * action_size)

    def expand(self, observation: Tensor) -> Tensor:
        """The observation with relative points appended, [B, O + 2 stack (K - 1)]."""
        if len(self.points) != 3:
            return observation
        stack, count, width = self.points
        points = observation[:, : stack * count * width].reshape(-1, stack, count, width)[..., :2]
        relative = points[:, :, 1:] - points[:, :, :1]
        return torch.cat([observation, relative.flatten(1)], dim=-1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each [B, A]."""
        return self.spread(self.normaliser(self.expand(observation)))

    def spread(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of what the layers make of their inputs."""
        mean, log_std = self.layers(inputs).chunk(2, dim=-1)
        return mean, torch.tanh(log_std) * 3.5 - 1.5  # in [-5, 2]

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, and the next state [B, S], of observation and state [B, S]."""
        return *self(observation), state * 1.0

    def remember(self, observation: Tensor, state: Tensor) -> Tensor:
        """The next state alone."""
        return state

    def join(self, observation: Tensor, state: Tensor) -> Tensor:
        """What `forward` and `sample` take: with memory, the state belongs to it."""
        return observation

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """An action in [-1, 1] [B, A] and its log-likelihood [B]."""
        mean, log_std = self(observation)
        raw = mean + log_std.exp() * torch.randn_like(mean)
        likelihood = -0.5 * ((raw - mean) / log_std.exp()).square() - log_std - 0.9189385
        correction = 2 * (0.6931472 - raw - functional.softplus(-2 * raw))  # log(1 - tanh^2), stable
        return torch.tanh(raw), (likelihood - correction).sum(dim=-1)


def make_actor(observation_size: int, points: tuple[int, ...], action_size: int, hidden: int, memory: int) -> Actor:
    """An actor, with `memory` units of memory or none."""
    if memory:
        from rlfp_ros.learning.recipes.recurrent import RecurrentActor  # it builds on the actor above

        return RecurrentActor(observation_size, points, action_size, hidden, memory)
    return Actor(observation_size, points, action_size, hidden)


class Critic(nn.Module):
    """Two independent estimates of the return."""

    def __init__(self, state_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(state_size)
        self.first = layers(state_size + action_size, hidden, 1)
        self.second = layers(state_size + action_size, hidden, 1)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Two values, each [B]."""
        inputs = torch.cat([self.normaliser(state), action], dim=-1)
        return self.first(inputs).squeeze(-1), self.second(inputs).squeeze(-1)


FIELDS = ("observation", "state", "action", "reward", "next_observation", "next_state", "terminated", "teacher")


class ReplayBuffer:
    """The last `capacity` transitions, as arrays."""

    def __init__(self, capacity: int, sizes: dict[str, int]) -> None:
        self.capacity, self.count = capacity, 0
        self.arrays = {name: np.zeros((capacity, sizes[name]), np.float32) for name in FIELDS}

    def add(self, transitions: dict[str, np.ndarray]) -> None:
        """Append transitions, each field [N, size]."""
        number = len(transitions["reward"])
        places = (self.count + np.arange(number)) % self.capacity
        for name, array in self.arrays.items():
            array[places] = transitions[name]
        self.count += number

    def sample(self, batch: int, rng: np.random.Generator, length: int = 1) -> dict[str, Tensor]:
        """A batch drawn uniformly; runs of `length` consecutive transitions where asked, one run after the other."""
        first = rng.integers(0, min(self.count, self.capacity) - length + 1, batch // length)
        picks = (first[:, None] + np.arange(length)).ravel()
        return {name: torch.from_numpy(array[picks]) for name, array in self.arrays.items()}

    def everything(self, name: str) -> np.ndarray:
        """All kept values of a field, [N, size]."""
        return self.arrays[name][: min(self.count, self.capacity)]


class SoftActorCritic:
    """Actor, critics, temperature and one gradient step."""

    def __init__(self, sizes: dict[str, int], points: tuple[int, ...], settings: SacSettings) -> None:
        """`sizes` has the width of each field of a transition, `points` the shape of the features that an observation
        begins with: points [stack, K, 3] or latents [stack, Z]."""
        self.settings = settings
        self._points = math.prod(points)
        self._turns = len(points) == 3 and settings.camera_turn > 0
        self.actor = make_actor(sizes["observation"], points, sizes["action"], settings.hidden, settings.memory)
        self.critic = Critic(sizes["state"], sizes["action"], settings.hidden)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = torch.tensor(float(np.log(settings.initial_temperature)), requires_grad=True)
        rate = settings.learning_rate
        self.actor_optimizer = torch.optim.AdamW(self.actor.parameters(), rate, weight_decay=1e-4)
        self.critic_optimizer = torch.optim.AdamW(self.critic.parameters(), rate, weight_decay=1e-4)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], rate)

    def imitate(
        self, demonstrations: dict[str, Tensor], progress: float, sequences: dict[str, Tensor] | None = None
    ) -> float:
        """One step of the actor towards the teacher alone; its loss. `progress` of the imitation, in [0, 1].

        `sequences` of played steps are for an actor with memory, to which demonstrations are starts of episodes.
        """
        rate = self.settings.imitation_learning_rate * (1 - 0.95 * progress)
        self.actor_optimizer.param_groups[0]["lr"] = rate
        loss = self._teacher_loss(self._at_start(demonstrations["observation"]), demonstrations["teacher"])
        if sequences is not None:
            sequences = self._remembering(sequences)
            loss = loss + self._teacher_loss(sequences["observation"], sequences["teacher"])
        self._step(self.actor_optimizer, loss, self.actor)
        return loss.item()

    def _teacher_loss(self, observation: Tensor, teacher: Tensor) -> Tensor:
        mean, _ = self.actor(observation)
        return functional.mse_loss(torch.tanh(mean), teacher)

    def _at_start(self, observation: Tensor) -> Tensor:
        """The actor's input where an episode starts with this observation, seen through a turned camera."""
        return self.actor.join(
            self._turned(observation), observation.new_zeros(len(observation), self.actor.state_size)
        )

    def _remembering(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch as the actor sees it: through a turned camera, and with what it remembers."""
        names, settings = ("observation", "next_observation"), self.settings
        if not settings.memory:
            return batch | {name: self._turned(batch[name]) for name in names}
        from rlfp_ros.learning.recipes.recurrent import RecurrentActor, remembering

        assert isinstance(self.actor, RecurrentActor)
        pairs = torch.stack([batch[name] for name in names], dim=1)
        seen = self._turned(pairs.flatten(0, 1), 2 * settings.sequence)  # one camera for all of a sequence
        return remembering(self.actor, batch, seen.unflatten(0, (-1, 2)), settings.sequence, settings.burn_in)

    def _turned(self, observation: Tensor, together: int = 1) -> Tensor:
        """The observations as a camera turned by small random angles would give them; each `together` by the same."""
        if not self._turns:
            return observation
        points = observation[:, : self._points].reshape(len(observation), -1, 3)
        turns = self.settings.camera_turn * torch.randn(3, len(observation) // together, 1)
        a, b, c = turns.repeat_interleave(together, dim=1).unbind()
        x, y = points[..., 0], points[..., 1]
        depth = 1 - b * x + a * y  # rotation by (a, b, c) to first order, then back onto the plane z = 1
        turned = torch.stack([(x - c * y + b) / depth, (c * x + y - a) / depth, points[..., 2]], dim=-1)
        return torch.cat([turned.flatten(1), observation[:, self._points :]], dim=-1)

    def update(
        self, batch: dict[str, Tensor], progress: float, demonstrations: dict[str, Tensor] | None = None
    ) -> dict[str, float]:
        """One step on a batch. `progress` in [0, 1] sets learning rate and the teacher's weight."""
        settings = self.settings
        self.actor_optimizer.param_groups[0]["lr"] = settings.actor_learning_rate * (1 - 0.9 * progress)
        self.critic_optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - 0.9 * progress)
        temperature = self.log_temperature.exp().detach()
        batch = self._remembering(batch)
        observation, next_observation = batch["observation"], batch["next_observation"]
        state, reward, terminated = batch["state"], batch["reward"].squeeze(-1), batch["terminated"].squeeze(-1)
        with torch.no_grad():
            next_action, next_likelihood = self.actor.sample(next_observation)
            next_value = torch.min(*self.target(batch["next_state"], next_action)) - temperature * next_likelihood
            wanted = reward + settings.discount * (1 - terminated) * next_value
        first, second = self.critic(state, batch["action"])
        critic_loss = functional.mse_loss(first, wanted) + functional.mse_loss(second, wanted)
        self._step(self.critic_optimizer, critic_loss, self.critic)
        self._follow()
        figures = {"critic_loss": critic_loss.item(), "temperature": temperature.item(), "value": first.mean().item()}
        if progress < settings.critic_first:
            return figures

        action, likelihood = self.actor.sample(observation)
        for parameter in self.critic.parameters():
            parameter.requires_grad_(False)
        value = torch.min(*self.critic(state, action))
        actor_loss = (temperature * likelihood - value).mean()
        weight = settings.teacher_weight * max(0.0, 1 - progress / settings.teacher_until)
        if weight > 0:
            actor_loss = actor_loss + weight * self._teacher_loss(observation, batch["teacher"])
            if demonstrations is not None:
                seen = self._at_start(demonstrations["observation"])
                actor_loss = actor_loss + weight * self._teacher_loss(seen, demonstrations["teacher"])
        self._step(self.actor_optimizer, actor_loss, self.actor)
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)

        temperature_loss = -self.log_temperature * (likelihood.detach().mean() + settings.target_entropy)
        self._step(self.temperature_optimizer, temperature_loss, None)
        return figures

    @torch.no_grad()
    def _follow(self) -> None:
        """The target critics go a little way after the critics."""
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.settings.target_rate)

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module | None) -> None:
        optimizer.zero_grad()
        loss.backward()
        if module is not None:
            nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()

    def fit_normalisers(self, buffer: ReplayBuffer) -> None:
        """Set input statistics from the first experience; they stay fixed from then on."""
        self.actor.normaliser.fit(self.actor.expand(torch.from_numpy(buffer.everything("observation"))))
        self.critic.normaliser.fit(torch.from_numpy(buffer.everything("state")))
        self.target.normaliser.load_state_dict(self.critic.normaliser.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {
            "actor": self.actor.state_dict(), "critic": self.critic.state_dict(), "target": self.target.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in ("actor", "critic", "target", "actor_optimizer", "critic_optimizer", "temperature_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
