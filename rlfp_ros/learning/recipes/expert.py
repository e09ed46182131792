"""Trains an expert by reinforcement learning on the simulator's privileged state, without rendering.

The learner is `algorithms/sac.py`. Dynamics and timing are randomised as for the deployed policy. The camera's and the
commands' delays make control a delayed decision process, so the observation holds the past actions (Katsikopoulos and
Engelbrecht 2003, https://doi.org/10.1109/TAC.2003.809799). An action is held for several images, which shortens the
horizon (Mnih et al. 2015, https://doi.org/10.1038/nature14236). The reward is that of `shaping.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from rlfp_ros.learning.algorithms.environments import Environment, LearningObservation, TaskEnvironment, shapes
from rlfp_ros.learning.algorithms.networks import batch_of_one
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.algorithms.sac import SacPolicy, SacSettings, SoftActorCritic
from rlfp_ros.learning.recipes.collector import Collectors, Experience, Seen
from rlfp_ros.learning.recipes.hindsight import Hindsight
from rlfp_ros.learning.recipes.pink_noise import pink_noise
from rlfp_ros.learning.recipes.shaping import ProgressReward, RewardSettings
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show, described
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.seeds import MAX_STEPS, MAX_WORKERS

CLIP = 5.0  # standard deviations, of the networks' inputs
CHECKPOINT_ROUNDS = 20  # rounds between checkpoints; a resumed training repeats at most these
NOISE_STEPS = 256  # decisions after which an episode's noise repeats
SHOWN_EPISODES = 100  # episodes over which the shown success rate is taken
JUDGED_EPISODES = 200  # episodes over which the success rate that ends the training is taken

EXPERT_SAC = SacSettings(
    learning_rate=5e-4,
    actor_learning_rate=3e-4,
    weight_decay=1e-4,
    batch=128,
    discount=0.98,
    initial_temperature=0.02,
    temperature_learning_rate=1e-3,
    target_entropy=-1.5,
    actor_every=2,
    reward_scale=1.0,
    capacity=500_000,
    augmentation="none",
)


class ExpertSettings(TrainingSettings):
    """Length and hyperparameters of the training."""

    sac: SacSettings = EXPERT_SAC
    steps: int = Field(400_000, ge=1, le=MAX_STEPS)  # largest number of decisions
    round_steps: int = Field(400, ge=1)  # decisions per round of all collectors together
    collectors: int = Field(1, ge=1, le=MAX_WORKERS)  # processes that play
    random_rounds: int = Field(5, ge=1)  # first rounds, with random actions
    normalised_rounds: int = Field(150, ge=1)  # first rounds, whose observations set the scale of the inputs
    updates_per_step: float = Field(1.0, gt=0, le=100)  # gradient steps per decision
    # The policy is deployed without noise, and must not need it (to come free of a limit, for example).
    deployed_share: float = Field(0.25, ge=0, le=1)  # of the episodes, which are played without noise
    final_entropy: float = -6.0  # target entropy, nats, at a success rate of 1; up to one half it is that of `sac`
    hindsight: int = Field(2, ge=0)  # other goals with which each episode is learned from, if its task has goals
    hindsight_share: float = Field(0.5, ge=0, lt=1)  # largest share of these in a batch
    target_success: float = Field(0.98, ge=0, le=1)  # of the last episodes; ends the training

    def entropy_at(self, success: float, first: float) -> float:
        """Return the target entropy, nats, at a success rate, if it is `first` up to one half."""
        return first + (self.final_entropy - first) * max(0.0, 2 * success - 1)

    def shortened(self, factor: float) -> ExpertSettings:
        """Return the same settings with `factor` of the work."""
        return self.changed(
            steps=max(600, int(self.steps * factor)),
            round_steps=min(self.round_steps, 100),
            random_rounds=min(self.random_rounds, 2),
        )


@dataclass(frozen=True)
class ExpertLessons:
    """Makes the environment and the policy of a collector."""

    make_env: TaskEnvironment  # observes the state
    settings: ExpertSettings
    reward: RewardSettings = field(default_factory=RewardSettings)

    def student(self) -> ExpertPlayer:
        """A policy that explores."""
        env = self.environment()
        return ExpertPlayer(env, self.learner(env).policy, self.settings.deployed_share)

    def environment(self) -> Environment:
        """The task, with shaped rewards."""
        plain = self.make_env.plain()
        reward = ProgressReward(plain, self.reward)
        return Hindsight(plain, reward, LearningObservation(reward), self.settings.hindsight)

    def learner(self, env: Environment) -> SoftActorCritic:
        """Return an untrained learner for the observations of `env`."""
        space, action_size = shapes(env)
        return SoftActorCritic(space, action_size, self.settings.sac, clip=CLIP)


class ExpertPlayer:
    """A policy that samples its actions, or plays as it is deployed in a share of the episodes.

    Before it has weights, all actions are equally likely.
    """

    def __init__(self, env: Environment, policy: SacPolicy, deployed_share: float) -> None:
        self.environment, self._policy, self._deployed_share = env, policy, deployed_share
        self._size = int(np.prod(env.action_space.shape or ()))
        self._random, self._deployed = True, False
        self._noise = np.zeros((0, self._size))
        self._step = 0

    def load(self, weights: dict[str, Any]) -> None:
        """Use new weights; without any, play at random."""
        self._random = not weights
        if weights:
            self._policy.load_state_dict(weights)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self._noise, self._step = pink_noise(rng, NOISE_STEPS, self._size), 0
        self._deployed = rng.uniform() < self._deployed_share

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return an action [A]."""
        if self._random:
            return rng.uniform(-1, 1, self._size).astype(np.float32)
        if self._deployed:
            with torch.no_grad():
                action: np.ndarray = self._policy(batch_of_one(observation))[0].numpy()
            return action
        noise = self._noise[self._step % NOISE_STEPS]
        self._step += 1
        return self._policy.explore(observation, None, noise)[0]

    def teacher(self, observation: Seen) -> None:
        """There is none."""


def train_expert(lessons: ExpertLessons, seed: int, run: Path, show: Show) -> SoftActorCritic:
    """Train an expert, or continue from `run/expert.pt`.

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

    Returns
    -------
    SoftActorCritic
        Policy and critics after all steps, or once the policy wins often enough.
    """
    torch.set_num_threads(1)  # the collectors have the other cores
    settings, checkpoint = lessons.settings, run / "expert.pt"
    sac = settings.sac
    key = {"stage": "expert", "settings": settings.model_dump(), "seed": seed}
    torch.manual_seed(seed)
    env = lessons.environment()
    space, action_size = shapes(env)
    learner = lessons.learner(env)
    env.close()
    first_entropy = learner.target_entropy
    buffer, hindsight = (
        ReplayBuffer(sac.capacity, space, np.zeros(action_size, np.float32), sac.discount, sac.return_steps)
        for _ in range(2)
    )
    recent: deque[bool] = deque(maxlen=JUDGED_EPISODES)
    state, first = load_checkpoint(checkpoint, key), 0
    if state:
        learner.load_state_dict(state["learner"])
        buffer.load_state_dict(state["buffer"])
        hindsight.load_state_dict(state["hindsight"])
        recent.extend(state["recent"])
        first = state["round"]
        torch.manual_seed(seed + (first << 32))  # other numbers than those drawn before
        if state["finished"]:
            return learner
    rng = np.random.default_rng([seed, first])
    rounds = max(1, settings.steps // settings.round_steps)
    with Collectors(lessons, settings.collectors, seed, first * settings.round_steps) as collectors:
        for index in range(first, rounds):
            learning = index >= settings.random_rounds
            collectors.start_round(learner.policy.state_dict() if learning else {}, settings.round_steps, 0.0)
            figures: dict[str, float] = {}
            learner.target_entropy = settings.entropy_at(float(np.mean(recent)) if recent else 0.0, first_entropy)
            if learning:
                if index == settings.random_rounds:
                    initialise_values(learner, buffer)
                for _ in range(int(settings.round_steps * settings.updates_per_step)):
                    figures = learner.update(_draw(buffer, hindsight, settings, rng))
            for part in collectors.finish_round():
                remember(buffer, part)
                for episode in part.hindsight:
                    remember(hindsight, episode)
                recent.extend(part.successes)
                if index < settings.normalised_rounds:
                    learner.observe({"vector": torch.from_numpy(part.observation["vector"])})
            won = float(np.mean(recent)) if recent else 0.0
            shown = float(np.mean(list(recent)[-SHOWN_EPISODES:])) if recent else 0.0
            show((index + 1) * settings.round_steps, described(shown, figures), success_rate=shown, **figures)
            finished = index + 1 == rounds or (len(recent) == JUDGED_EPISODES and won >= settings.target_success)
            if finished or (index + 1) % CHECKPOINT_ROUNDS == 0:
                save_checkpoint(
                    checkpoint,
                    key,
                    learner=learner.state_dict(),
                    buffer=buffer.state_dict(),
                    hindsight=hindsight.state_dict(),
                    round=index + 1,
                    recent=list(recent),
                    finished=finished,
                )
            if finished:
                show(settings.steps, f"success {won:.2f} after {(index + 1) * settings.round_steps} decisions")
                break
    return learner


def _draw(
    buffer: ReplayBuffer, hindsight: ReplayBuffer, settings: ExpertSettings, rng: np.random.Generator
) -> TransitionBatch:
    """Draw transitions uniformly from both, with at most `hindsight_share` of other goals."""
    share = min(settings.hindsight_share, len(hindsight) / (len(hindsight) + len(buffer)))
    others = int(share * settings.sac.batch)
    if others == 0:
        return buffer.sample(settings.sac.batch, rng)
    return buffer.sample(settings.sac.batch - others, rng).joined(hindsight.sample(others, rng))


def initialise_values(learner: SoftActorCritic, buffer: ReplayBuffer) -> None:
    """Let the critics begin at the value of random play, which they would need thousands of updates to reach."""
    value = buffer.mean_reward() / (1 - learner.settings.discount)
    for critic in (learner.critic, learner.target):
        for network in (critic.first, critic.second):
            last = network[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias, value)


def remember(buffer: ReplayBuffer, experience: Experience) -> None:
    """Add the steps of one collector to the replay buffer."""
    for step in range(len(experience.reward)):
        if step == 0 or experience.begins[step]:
            buffer.begin({name: values[step] for name, values in experience.observation.items()})
        buffer.add(
            experience.action[step],
            float(experience.reward[step]),
            bool(experience.terminated[step]),
            bool(experience.truncated[step]),
            {name: values[step] for name, values in experience.next_observation.items()},
            None if experience.teacher is None else experience.teacher[step],
        )
