"""Reinforcement learning of the deployed policy, after it has imitated the expert.

Soft actor-critic over whole episodes. The critics see the simulator's privileged state (Pinto et al. 2017,
https://arxiv.org/abs/1710.06542) and start as the expert's, which know the task already. The actor sees only what it
sees when it is deployed. At first it is also held to the expert's actions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from rlfp_ros.learning.algorithms.sac import SacPolicy, SoftActorCritic
from rlfp_ros.learning.recipes.collector import Collectors, Seen
from rlfp_ros.learning.recipes.episodes import Lesson, PlayedEpisodes
from rlfp_ros.learning.recipes.expert import NOISE_STEPS, SHOWN_EPISODES
from rlfp_ros.learning.recipes.pink_noise import pink_noise
from rlfp_ros.learning.recipes.student import StudentLearner, StudentLessons, StudentPlayer, TrainedStudent, masked_mean
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show, described
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.seeds import MAX_STEPS, MAX_WORKERS

CHECKPOINT_ROUNDS = 5  # rounds between checkpoints; a resumed training repeats at most these


class StudentReinforcementSettings(TrainingSettings):
    """Length and hyperparameters of the training."""

    steps: int = Field(30_000, ge=0, le=MAX_STEPS)  # decisions played; 0 leaves the policy as it is
    round_steps: int = Field(600, ge=1)  # decisions per round of all collectors together
    collectors: int = Field(1, ge=1, le=MAX_WORKERS)  # processes that play
    critic_rounds: int = Field(3, ge=0)  # first rounds, in which only the critics learn
    updates_per_round: int = Field(150, ge=1)  # gradient steps
    episodes: int = Field(12, ge=1)  # episodes per gradient step
    actor_learning_rate: float = Field(3e-4, gt=0, le=1)
    learning_rate: float = Field(5e-4, gt=0, le=1)  # of the critics
    final_rate: float = Field(0.1, gt=0, le=1)  # factor of the learning rates at the end; changes linearly
    target_rate: float = Field(0.01, gt=0, le=1)  # Polyak step of the target critics per update
    target_entropy: float = -6.0  # nats; low, because the policy is deployed without noise
    imitation: float = Field(1.0, ge=0)  # weight of the expert's actions at first; falls linearly to 0
    imitation_share: float = Field(0.5, ge=0, le=1)  # of the training, after which that weight is 0
    auxiliary: float = Field(1.0, ge=0)  # weight of the predictions of the privileged state

    def shortened(self, factor: float) -> StudentReinforcementSettings:
        """Return the same settings with `factor` of the work."""
        return self.changed(
            steps=int(self.steps * factor),
            round_steps=min(self.round_steps, 200),
            updates_per_round=max(1, int(self.updates_per_round * factor)),
        )


@dataclass(frozen=True)
class ReinforcementLessons:
    """Makes the environment, the policy and the expert of a collector."""

    imitation: StudentLessons
    settings: StudentReinforcementSettings

    def student(self) -> ExploringStudent:
        """A policy that explores."""
        env = self.imitation.environment()
        return ExploringStudent(env, self.imitation.policy(env), self.imitation.expert, 0.0)


class ExploringStudent(StudentPlayer):
    """A policy that samples its actions, or plays as it is deployed in every second episode; and its expert."""

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        super().begin(rng)
        size = int(np.prod(self.environment.action_space.shape or ()))
        self._exploration, self._step = pink_noise(rng, NOISE_STEPS, size), 0
        self._deployed = rng.uniform() < 0.5

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return an action [A]."""
        if self._deployed:
            return super().act(observation, rng)
        noise = self._exploration[self._step % NOISE_STEPS]
        self._step += 1
        action, self.memory = self.policy.explore(observation, self.memory, noise)
        return action


class StudentReinforcement:
    """Actor, critics and temperature, and one gradient step.

    Parameters
    ----------
    learner
        The policy.
    expert
        Its critics, temperature and hyperparameters are used and changed.
    settings
        Hyperparameters.
    """

    def __init__(
        self, learner: StudentLearner, expert: SoftActorCritic, settings: StudentReinforcementSettings
    ) -> None:
        self.learner, self.expert, self.settings = learner, expert, settings
        self.discount = expert.settings.discount
        expert.target_entropy = settings.target_entropy

    def update(self, played: PlayedEpisodes, progress: float, train_actor: bool) -> dict[str, float]:
        """Take one step of the critics, and of actor and temperature if `train_actor`.

        `progress` is the share of the training that is over.
        """
        expert, learner, settings = self.expert, self.learner, self.settings
        rate = 1 - (1 - settings.final_rate) * progress
        expert.critic_optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
        learner.optimizer.param_groups[0]["lr"] = settings.actor_learning_rate * rate
        episode, there = played.draw(settings.episodes)
        state, empty = episode.privileged[:, :-1], episode.privileged[..., :0]
        temperature = expert.log_temperature.exp().detach()

        policy, memory = learner.act(episode.vector)
        action, likelihood = policy.sample()
        with torch.no_grad():
            value = torch.min(*expert.target(empty[:, 1:], episode.privileged[:, 1:], action[:, 1:]))
            value = value - temperature * likelihood[:, 1:]
            target = episode.reward + self.discount * (1 - episode.terminated) * value
        first, second = expert.critic(empty[:, 1:], state, episode.action)
        error = masked_mean((first - target).square() + (second - target).square(), there)
        expert.gradient_step(expert.critic_optimizer, error)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(expert.target.parameters()), list(expert.critic.parameters()), settings.target_rate
            )
        figures = {"critic_loss": error, "value": masked_mean(first, there), "temperature": temperature}

        imitation, prediction = learner.errors(policy, memory, episode, there)
        if train_actor:
            expert.critic.requires_grad_(False)
            value = torch.min(*expert.critic(empty[:, 1:], state, action[:, :-1]))
            loss = masked_mean(temperature * likelihood[:, :-1] - value, there)
            weight = settings.imitation * max(0.0, 1 - progress / max(settings.imitation_share, 1e-9))
            learner.step(loss + weight * imitation + settings.auxiliary * prediction)
            expert.critic.requires_grad_(True)
            entropy = -masked_mean(likelihood[:, :-1].detach(), there)
            expert.gradient_step(expert.temperature_optimizer, expert.temperature_loss(entropy))
            figures["entropy"] = entropy
        figures |= {"action_error": imitation.sqrt(), "state_error": prediction.sqrt()}
        return {name: value.item() for name, value in figures.items()}


def reinforce_student(
    student: TrainedStudent, expert: SoftActorCritic, lessons: ReinforcementLessons, seed: int, run: Path, show: Show
) -> SacPolicy:
    """Train a student further, or continue from `run/reinforcement.pt`.

    Parameters
    ----------
    student
        What imitation made; changed.
    expert
        Its critics are used and changed.
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
    settings, checkpoint = lessons.settings, run / "reinforcement.pt"
    key = {"stage": "reinforcement", "settings": settings.model_dump(), "seed": seed}
    learner, played, recent, first = student.learner, student.played, deque[bool](maxlen=SHOWN_EPISODES), 0
    training = StudentReinforcement(learner, expert, settings)
    torch.manual_seed(seed)
    state = load_checkpoint(checkpoint, key)
    if state:
        learner.load_state_dict(state["learner"])
        learner.optimizer.load_state_dict(state["optimizer"])
        expert.load_state_dict(state["expert"])
        played.finished = [Lesson(*parts) for parts in state["episodes"]]
        recent.extend(state["recent"])
        first = state["round"]
        torch.manual_seed(seed + (first << 32))  # other numbers than those drawn before
    rounds = settings.steps // settings.round_steps
    if first >= rounds:
        return learner.policy
    # Seeds that imitation did not use.
    begin = lessons.imitation.settings.steps + first * settings.round_steps
    with Collectors(lessons, settings.collectors, seed, begin) as collectors:
        for index in range(first, rounds):
            collectors.start_round(learner.policy.state_dict(), settings.round_steps, 0.0)
            figures: dict[str, float] = {}
            for _ in range(settings.updates_per_round):
                figures = training.update(played, index / rounds, index >= settings.critic_rounds)
            for collector, part in enumerate(collectors.finish_round()):
                played.add(collector, part)
                recent.extend(part.successes)
            won = float(np.mean(recent)) if recent else 0.0
            show((index + 1) * settings.round_steps, described(won, figures), success_rate=won, **figures)
            if (index + 1) % CHECKPOINT_ROUNDS == 0 or index + 1 == rounds:
                save_checkpoint(
                    checkpoint,
                    key,
                    learner=learner.state_dict(),
                    optimizer=learner.optimizer.state_dict(),
                    expert=expert.state_dict(),
                    episodes=[one.tensors() for one in played.finished],
                    recent=list(recent),
                    round=index + 1,
                )
    return learner.policy
