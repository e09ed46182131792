"""Trains the deployed policy to act like an expert, from features and joints, with a learned memory.

The student plays, and the expert, which sees the simulator's privileged state, labels every visited decision with its
own action (DAgger, Ross et al. 2011, https://arxiv.org/abs/1011.0686). A gated recurrent unit remembers the episode, so
that the student can find the camera's pose from the arm in the images, and an object that the hand hides. Auxiliary
heads predict the privileged state from the memory (teacher-student training, Lee et al. 2020,
https://arxiv.org/abs/2010.11251); only training uses them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rlfp_ros.learning.algorithms.environments import Environment, TaskEnvironment, shapes
from rlfp_ros.learning.algorithms.networks import (
    GaussianActor,
    ImageEncoder,
    RelativePoints,
    RunningNormaliser,
    SquashedGaussian,
    Trunk,
    batch_of_one,
    vector_size,
)
from rlfp_ros.learning.algorithms.sac import SacPolicy
from rlfp_ros.learning.recipes.collector import Collectors, Experience, Seen
from rlfp_ros.learning.recipes.episodes import Lesson, PlayedEpisodes
from rlfp_ros.learning.recipes.expert import CLIP, SHOWN_EPISODES
from rlfp_ros.learning.recipes.shaping import ProgressReward, RewardSettings
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show, described
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.seeds import MAX_STEPS, MAX_WORKERS
from rlfp_ros.simulation.environment import ManipulationEnv

CHECKPOINT_ROUNDS = 2  # rounds between checkpoints; a resumed training repeats at most these
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped


class StudentSettings(TrainingSettings):
    """Length and hyperparameters of the training."""

    hidden: int = Field(256, ge=1, le=8192)  # units in each of the policy's two layers
    memory: int = Field(192, ge=1, le=8192)  # units of its memory
    steps: int = Field(100_000, ge=1, le=MAX_STEPS)  # decisions played
    round_steps: int = Field(1_000, ge=1)  # decisions per round of all collectors together
    collectors: int = Field(2, ge=1, le=MAX_WORKERS)  # processes that play
    expert_rounds: int = Field(2, ge=1)  # first rounds, which the expert plays with noise
    updates_per_round: int = Field(100, ge=1)  # gradient steps
    final_updates: int = Field(2_000, ge=0)  # gradient steps at the end, with a falling learning rate
    episodes: int = Field(12, ge=1)  # episodes per gradient step
    noise: float = Field(0.15, ge=0, le=1)  # standard deviation added to the actions in every second episode
    learning_rate: float = Field(1e-3, gt=0, le=1)  # falls linearly to 3 % in the final updates
    weight_decay: float = Field(1e-4, ge=0, lt=1)  # of AdamW
    auxiliary: float = Field(1.0, ge=0)  # weight of the predictions of the privileged state

    def shortened(self, factor: float) -> StudentSettings:
        """Return the same settings with `factor` of the work."""
        return self.changed(
            steps=max(600, int(self.steps * factor)),
            round_steps=min(self.round_steps, 200),
            updates_per_round=max(1, int(self.updates_per_round * factor)),
            final_updates=int(self.final_updates * factor) + 1,
        )


@dataclass(frozen=True)
class StudentLessons:
    """Makes the environment, the policy and the expert of a collector."""

    make_env: TaskEnvironment  # observes features, and the privileged state for the expert
    settings: StudentSettings
    expert: SacPolicy
    reward: RewardSettings = field(default_factory=RewardSettings)

    def student(self) -> StudentPlayer:
        """A policy that plays beside the expert."""
        env = self.environment()
        return StudentPlayer(env, self.policy(env), self.expert, self.settings.noise)

    def environment(self) -> Environment:
        """The task, with the learner's rewards."""
        return ProgressReward(self.make_env(), self.reward)

    def policy(self, env: Environment) -> SacPolicy:
        """Return an untrained policy for the observations of `env`."""
        space, action_size = shapes(env)
        points = cast(gymnasium.spaces.Dict, env.unwrapped.observation_space)["features"].shape or ()
        trunk = Trunk(0, vector_size(space), RelativePoints(points), CLIP)
        actor = GaussianActor(trunk, action_size, self.settings.hidden, self.settings.memory)
        return SacPolicy(ImageEncoder(space), actor)

    def learner(self) -> StudentLearner:
        """Return an untrained policy with what its training needs."""
        env = self.environment()
        plain = env.unwrapped
        assert isinstance(plain, ManipulationEnv)
        state = len(plain.world.task.privileged_state(plain.world))
        learner = StudentLearner(self.policy(env), state, self.settings)
        env.close()
        return learner


class StudentPlayer:
    """A policy that plays, with noise in every second episode, and its expert."""

    def __init__(self, env: Environment, policy: SacPolicy, expert: SacPolicy, noise: float) -> None:
        self.environment, self.policy, self._expert = env, policy, expert
        self._largest_noise, self._noise = noise, 0.0
        self._start = torch.zeros(1, policy.state_size)
        self.memory = self._start

    def load(self, weights: dict[str, Any]) -> None:
        """Use new weights."""
        self.policy.load_state_dict(weights)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.memory = self._start
        self._noise = self._largest_noise * (rng.uniform() < 0.5)

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return the policy's action [A], with noise."""
        with torch.no_grad():
            action, self.memory = self.policy.step(batch_of_one(observation), self.memory)
        return action[0].numpy() + self._noise * rng.normal(size=action.shape[1])

    def teacher(self, observation: Seen) -> np.ndarray:
        """Return the expert's action [A]."""
        with torch.no_grad():
            action: np.ndarray = self._expert({"vector": torch.from_numpy(observation["privileged"])[None]})[0].numpy()
        return action


class StudentLearner(nn.Module):
    """The policy, the auxiliary heads and the optimiser.

    Parameters
    ----------
    policy
        The policy.
    state
        Size of the simulator's privileged state, with which observations of the expert begin.
    settings
        Hyperparameters.
    """

    def __init__(self, policy: SacPolicy, state: int, settings: StudentSettings) -> None:
        super().__init__()
        self.policy, self._state, self._settings = policy, slice(state), settings
        actor = policy.actor
        assert actor.cell is not None
        self.normaliser = RunningNormaliser(state, CLIP)
        self.head = nn.Linear(settings.memory, state)
        # The cell over whole episodes at once; it shares the cell's parameters.
        self._recurrence = nn.GRU(actor.trunk.size, settings.memory, batch_first=True)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self._recurrence, f"{name}_l0", getattr(actor.cell, name))
        self._recurrence.flatten_parameters()
        self.optimizer = torch.optim.AdamW(
            [*policy.parameters(), *self.head.parameters()],
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def observe(self, experience: Experience) -> None:
        """Add decisions to the statistics of the inputs and of the privileged state."""
        self.policy.actor.trunk.observe(torch.from_numpy(experience.observation["vector"]))
        self.normaliser.observe(torch.from_numpy(experience.observation["privileged"][:, self._state]))

    def act(self, vector: Tensor) -> tuple[SquashedGaussian, Tensor]:
        """Compute the distributions of actions [N, L, A], and the memory after each, of whole episodes [N, L, V]."""
        actor = self.policy.actor
        inputs = actor.trunk(vector[..., :0], vector)
        memory, _ = self._recurrence(inputs)
        return SquashedGaussian(actor.layers(torch.cat([inputs, memory], dim=-1))), memory

    def errors(self, policy: SquashedGaussian, memory: Tensor, episode: Lesson, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared differences from the expert's actions and from the privileged state.

        Parameters
        ----------
        policy, memory
            Of all observations of the episodes, see `act`.
        episode, there
            The episodes, see `PlayedEpisodes.draw`.
        """
        action = masked_mean((policy.mode()[:, :-1] - episode.expert).square().mean(dim=-1), there)
        state = self.head(memory[:, :-1]) - self.normaliser(episode.privileged[:, :-1, self._state])
        return action, masked_mean(state.square().mean(dim=-1), there)

    def imitate(self, played: PlayedEpisodes, rate: float) -> tuple[float, float]:
        """Take one gradient step; return the squared errors of actions and of predictions."""
        self.optimizer.param_groups[0]["lr"] = rate
        episode, there = played.draw(self._settings.episodes)
        action, state = self.errors(*self.act(episode.vector), episode, there)
        self.step(action + self._settings.auxiliary * state)
        return action.item(), state.item()

    def step(self, loss: Tensor) -> None:
        """Take one step of the optimiser."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()


def masked_mean(values: Tensor, there: Tensor) -> Tensor:
    """Return the mean of the values [N, L] of decisions that are `there`, 1 or 0."""
    return (values * there).sum() / there.sum()


@dataclass(frozen=True)
class TrainedStudent:
    """A policy that acts like an expert, and what it learned from."""

    learner: StudentLearner
    played: PlayedEpisodes


def train_student(lessons: StudentLessons, seed: int, run: Path, show: Show) -> TrainedStudent:
    """Train a policy, or continue from `run/student.pt`.

    Parameters
    ----------
    lessons
        What to play.
    seed
        Of the training.
    run
        The run folder.
    show
        Reports the progress.
    """
    torch.set_num_threads(1)  # the collectors have the other cores
    settings, checkpoint = lessons.settings, run / "student.pt"
    key = {"stage": "student", "settings": settings.model_dump(), "seed": seed}
    torch.manual_seed(seed)
    learner, played, first, recent = lessons.learner(), PlayedEpisodes(), 0, deque[bool](maxlen=SHOWN_EPISODES)
    rounds = max(settings.expert_rounds + 1, settings.steps // settings.round_steps)
    state = load_checkpoint(checkpoint, key)
    if state:
        learner.load_state_dict(state["learner"])
        learner.optimizer.load_state_dict(state["optimizer"])
        played.finished = [Lesson(*parts) for parts in state["episodes"]]
        recent.extend(state["recent"])
        first = state["round"]
        torch.manual_seed(seed + (first << 32))  # other numbers than those drawn before
        if state["finished"]:
            return TrainedStudent(learner, played)

    def imitate(updates: int, falling: bool) -> dict[str, float]:
        errors = [
            learner.imitate(played, settings.learning_rate * (1 - 0.97 * update / updates if falling else 1))
            for update in range(updates if played.finished else 0)
        ]
        if not errors:
            return {}
        actions, predictions = np.mean(errors, axis=0)
        return {"action_error": math.sqrt(actions), "state_error": math.sqrt(predictions)}

    def save(rounds_done: int, finished: bool) -> None:
        save_checkpoint(
            checkpoint,
            key,
            learner=learner.state_dict(),
            optimizer=learner.optimizer.state_dict(),
            episodes=[one.tensors() for one in played.finished],
            round=rounds_done,
            recent=list(recent),
            finished=finished,
        )

    with Collectors(lessons, settings.collectors, seed, first * settings.round_steps) as collectors:
        for index in range(first, rounds):
            share = 1.0 if index < settings.expert_rounds else 0.0
            collectors.start_round(learner.policy.state_dict(), settings.round_steps, share)
            figures = imitate(settings.updates_per_round, falling=False)
            for collector, part in enumerate(collectors.finish_round()):
                played.add(collector, part)
                learner.observe(part)
                recent.extend(part.successes)
            won = float(np.mean(recent)) if recent else 0.0
            show((index + 1) * settings.round_steps, described(won, figures), success_rate=won, **figures)
            if (index + 1) % CHECKPOINT_ROUNDS == 0:
                save(index + 1, finished=False)
    played.end()
    figures = imitate(settings.final_updates, falling=True)
    save(rounds, finished=True)
    show(settings.steps, described(won, figures))
    return TrainedStudent(learner, played)
