"""Reinforcement learning that a task's teacher guides, for policies of the recipe `imitation` without the estimator.

Soft actor-critic on features, with a teacher and critics that know the state.

The learner is `algorithms/sac.py`. In training the critics see the simulator's privileged state (Pinto et al. 2017,
https://arxiv.org/abs/1710.06542), the actor only its inputs on an arm. A teacher with privileged state initialises the
actor and guides it with a loss on every visited state (DAgger, Ross et al. 2011, https://arxiv.org/abs/1011.0686),
whose weight falls. In each update the actor's feature points are transformed by a small random rotation of the camera,
which has the effect of random shifts of pixels (DrQ, Yarats et al. 2021, https://arxiv.org/abs/2004.13649).
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.algorithms.environments import Environment, TaskEnvironment, shapes
from rlfp_ros.learning.algorithms.networks import RelativePoints, SquashedGaussian
from rlfp_ros.learning.algorithms.recurrent import MEMORY
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.algorithms.run import score_of
from rlfp_ros.learning.algorithms.sac import SacPolicy, SacSettings, SoftActorCritic
from rlfp_ros.learning.encoders.encoder import Encoder, features_of
from rlfp_ros.learning.recipes.collector import Collectors, Seen
from rlfp_ros.learning.recipes.dagger import TREMBLING
from rlfp_ros.learning.recipes.expert import remember
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.seeds import MAX_STEPS, SELECTION
from rlfp_ros.simulation.environment import ManipulationEnv

CLIP = 5.0  # standard deviations, of the networks' inputs
CHECKPOINT_ROUNDS = 20  # rounds between checkpoints; a resumed training repeats at most these

RECIPE_SAC = SacSettings(
    learning_rate=6e-4,
    actor_learning_rate=2e-4,
    final_rate=0.1,
    weight_decay=1e-4,
    largest_gradient=10.0,
    batch=256,
    target_entropy=-6.0,  # low, because the mean action is deployed
    initial_temperature=0.02,
    reward_scale=1.0,
    capacity=200_000,
    augmentation="none",
)


class ReinforcementSettings(TrainingSettings):
    """Length and hyperparameters of the training."""

    sac: SacSettings = RECIPE_SAC
    steps: int = Field(15_000, ge=1, le=MAX_STEPS)  # camera frames played
    round_steps: int = Field(250, ge=1)  # steps per round
    updates_per_step: float = Field(0.5, gt=0, le=100)  # gradient steps per played frame
    first_rounds: int = Field(8, ge=1)  # rounds that the teacher plays before the first gradient step
    teacher_share: float = Field(
        0.05, ge=0, le=1
    )  # share of later episodes that it plays; keeps successes in the buffer
    imitation_updates: int = Field(12_000, ge=0)  # updates of the actor towards the teacher, on images, before it plays
    imitation_learning_rate: float = Field(1e-3, gt=0, le=1)  # falls linearly to a twentieth
    critic_first: float = Field(0.15, ge=0, le=1)  # share of the training in which only the critics learn
    # Weight of the teacher's loss at the start; the critics' weight is 1. High, because after this number of updates
    # the critics are too coarse for the last two centimetres.
    teacher_weight: float = Field(100.0, ge=0)
    teacher_until: float = Field(2.0, gt=0)  # share of the training at which that weight is 0; above 1 it stays above
    camera_turn: float = Field(0.02, ge=0, le=0.5)  # rad, standard deviation of random rotations of the camera
    selection_episodes: int = Field(100, ge=1)  # episodes that choose the better actor, before or after reinforcement

    def teacher_weight_at(self, progress: float) -> float:
        """Return the weight of the teacher's loss at `progress` of the training, in [0, 1]."""
        return self.teacher_weight * max(0.0, 1 - progress / self.teacher_until)

    def shortened(self, factor: float) -> ReinforcementSettings:
        """Return the same settings with `factor` of the work."""
        return self.changed(
            steps=max(400, int(self.steps * factor)),
            round_steps=min(self.round_steps, 100),
            imitation_updates=int(self.imitation_updates * factor),
            selection_episodes=max(2, int(self.selection_episodes * factor)),
            first_rounds=max(2, int(self.first_rounds * factor)),
        )


@dataclass(frozen=True)
class CameraTurn:
    """Transforms feature points as if the camera were rotated by small random angles.

    Parameters
    ----------
    points
        Shape of the features that a vector begins with: [stack, K, 3] (x, y on the plane z = 1, confidence). Latents
        [stack, Z] are left alone.
    spread
        Standard deviation of the angles, rad.
    """

    points: tuple[int, ...]
    spread: float

    def __call__(self, vector: Tensor) -> Tensor:
        """Return transformed vectors [N, ..., V]; all vectors of one of the N are rotated equally."""
        if len(self.points) != 3 or self.spread == 0:
            return vector
        size = math.prod(self.points)
        points = vector[..., :size].unflatten(-1, (-1, 3))
        a, b, c = (self.spread * torch.randn(3, len(vector), *[1] * (points.dim() - 2))).unbind()
        x, y = points[..., 0], points[..., 1]
        depth = 1 - b * x + a * y  # rotation by (a, b, c) to first order, then back onto the plane z = 1
        turned = torch.stack([(x - c * y + b) / depth, (c * x + y - a) / depth, points[..., 2]], dim=-1)
        return torch.cat([turned.flatten(-2), vector[..., size:]], dim=-1)


def recipe_learner(
    space: gymnasium.spaces.Dict, points: tuple[int, ...], action_size: int, settings: ReinforcementSettings
) -> SoftActorCritic:
    """Make the learner for observations whose vectors begin with features of the shape `points`."""
    turn = CameraTurn(points, settings.camera_turn)
    return SoftActorCritic(space, action_size, settings.sac, RelativePoints(points), turn, CLIP)


@dataclass(frozen=True)
class Playground:
    """Makes the environment and the actor of reinforcement learning."""

    make_env: TaskEnvironment  # features with the privileged state
    settings: ReinforcementSettings

    def student(self) -> Explorer:
        """An actor that explores."""
        env = self.make_env()
        return Explorer(env, self.learner(env).policy)

    def learner(self, env: Environment) -> SoftActorCritic:
        """Return an untrained learner for the observations of `env`."""
        space, action_size = shapes(env)
        features = cast(gymnasium.spaces.Dict, env.unwrapped.observation_space)["features"]
        return recipe_learner(space, features.shape or (), action_size, self.settings)


class Explorer:
    """A policy that samples its actions, and a teacher with privileged state."""

    def __init__(self, env: Environment, policy: SacPolicy) -> None:
        self.environment, self._policy = env, policy
        self._memory: Tensor | None = None

    def load(self, weights: dict[str, Any]) -> None:
        """Use new weights."""
        self._policy.load_state_dict(weights)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self._memory = None

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return a sampled action [A]."""
        action, self._memory = self._policy.explore(observation, self._memory)
        return action

    def teacher(self, observation: Seen) -> np.ndarray:
        """Return the action of the task's teacher, [A]."""
        env = self.environment.unwrapped
        assert isinstance(env, ManipulationEnv)
        return env.world.task.teacher(env.world, env.behaviour.action)


def image_demonstrations(encoder: Encoder, frames: Path, stack: int) -> dict[str, Tensor]:
    """Return the teacher's actions in the encoder's images: vectors [N, V] and actions [N, A].

    These show far more cameras and places than reinforcement learning visits, and need only one pass of the encoder.
    """
    images = np.load(frames / "images.npy", mmap_mode="r")
    features = features_of(encoder, images)
    # The previous frame is missing and is replaced by the same frame with the encoder's noise.
    earlier = [features + TREMBLING * torch.randn_like(features) for _ in range(stack - 1)]
    parts = [torch.stack([*earlier, features], 1).flatten(1)]
    parts += [torch.from_numpy(np.load(frames / f"{name}.npy")) for name in ("proprioception", "goal")]
    return {"vector": torch.cat(parts, dim=1), "teacher": torch.from_numpy(np.load(frames / "teacher.npy"))}


def train_reinforcement(
    playground: Playground, demonstrations: dict[str, Tensor], seed: int, run: Path, show: Show
) -> tuple[SacPolicy, dict[str, float]]:
    """Train a policy, or continue from `run/policy.pt`.

    Parameters
    ----------
    playground
        What to play.
    demonstrations
        Vectors and the teacher's actions, of `image_demonstrations`.
    seed
        Of the training.
    run
        The run folder.
    show
        Reports the progress.

    Returns
    -------
    SacPolicy
        The better of the policies before and after reinforcement; the later one if both are equal.
    dict
        The success rate of each on the same episodes.
    """
    torch.set_num_threads(1)  # the collector has the other core
    settings, checkpoint = playground.settings, run / "policy.pt"
    key = {"stage": "policy", "settings": settings.model_dump(), "seed": seed}
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    env = playground.make_env()
    space, action_size = shapes(env)
    learner = playground.learner(env)
    env.close()
    action = np.zeros(action_size, np.float32)
    buffer = ReplayBuffer(settings.sac.capacity, space, action, settings.sac.discount, teacher=True)
    imitator = copy.deepcopy(learner.policy)
    recent: deque[bool] = deque(maxlen=100)
    state, first_round = load_checkpoint(checkpoint, key), 0
    if state:
        learner.load_state_dict(state["learner"])
        imitator.load_state_dict(state["imitator"])
        recent.extend(state["recent"])
        first_round = state["round"]
    warm = first_round if state else settings.first_rounds
    rounds = settings.steps // settings.round_steps
    with Collectors(playground, 1, seed, first_round * settings.round_steps) as collectors:
        for index in range(first_round, rounds):
            # A resumed training has no experience yet, so it first plays one round without learning.
            guided = index < settings.first_rounds and not state
            share = 1.0 if guided else settings.teacher_share
            collectors.start_round(learner.policy.state_dict(), settings.round_steps, share)
            figures: dict[str, float] = {}
            if len(buffer) and index >= warm:
                for _ in range(int(settings.round_steps * settings.updates_per_step)):
                    figures = _update(learner, buffer, demonstrations, settings, index / rounds, rng)
            for part in collectors.finish_round():
                remember(buffer, part)
                recent.extend(part.successes)
            steps = (index + 1) * settings.round_steps
            if index + 1 == settings.first_rounds and not state:
                learner.observe({name: buffer.kept(name) for name in ("vector", "privileged")})
                for update in range(settings.imitation_updates):
                    loss = _imitate(learner, buffer, demonstrations, settings, update, rng)
                    if update % 100 == 0:
                        show(steps, f"imitation {update}, loss {loss:.3f}")
                imitator = copy.deepcopy(learner.policy)
            share_won = float(np.mean(recent)) if recent else 0.0
            text = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
            show(steps, f"success {share_won:.2f}{text}", success_rate=share_won, **figures)
            if (index + 1) % CHECKPOINT_ROUNDS == 0 or index + 1 == rounds:
                save_checkpoint(
                    checkpoint,
                    key,
                    learner=learner.state_dict(),
                    imitator=imitator.state_dict(),
                    round=index + 1,
                    recent=list(recent),
                )
    return _better({"imitation": imitator, "reinforcement": learner.policy}, playground, show)


def teacher_loss(policy: SquashedGaussian, teacher: Tensor) -> Tensor:
    """Return the mean squared error between the actions to deploy and the teacher's [B, A]."""
    return functional.mse_loss(policy.mode(), teacher)


def _update(
    learner: SoftActorCritic,
    buffer: ReplayBuffer,
    demonstrations: dict[str, Tensor],
    settings: ReinforcementSettings,
    progress: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Take one step of reinforcement learning, with the teacher's loss on experience and on demonstrations."""
    weight = settings.teacher_weight_at(progress)

    def pull(policy: SquashedGaussian, batch: TransitionBatch) -> Tensor:
        assert batch.teacher is not None
        return weight * (teacher_loss(policy, batch.teacher) + _demonstration_loss(learner, demonstrations, rng))

    train_actor = progress >= settings.critic_first
    return learner.update(learner.sample(buffer, rng), progress, train_actor, pull if weight > 0 else None)


def _imitate(
    learner: SoftActorCritic,
    buffer: ReplayBuffer,
    demonstrations: dict[str, Tensor],
    settings: ReinforcementSettings,
    update: int,
    rng: np.random.Generator,
) -> float:
    """Take one step of the actor towards the teacher; return its loss.

    An actor with memory also learns from played sequences, because a demonstration is the start of an episode to it.
    """
    rate = settings.imitation_learning_rate * (1 - 0.95 * update / settings.imitation_updates)
    learner.actor_optimizer.param_groups[0]["lr"] = rate
    loss = _demonstration_loss(learner, demonstrations, rng)
    if settings.sac.memory:
        loss = loss + sequence_loss(learner, buffer, rng)
    learner.gradient_step(learner.actor_optimizer, loss)
    return loss.item()


def sequence_loss(learner: SoftActorCritic, buffer: ReplayBuffer, rng: np.random.Generator) -> Tensor:
    """Return the teacher's loss of an actor with memory on played sequences."""
    settings = learner.settings
    batch = learner.with_memory(buffer.sample_sequences(settings.batch // settings.sequence, settings.sequence, rng))
    assert batch.teacher is not None
    vector = batch.observation["vector"]
    return teacher_loss(learner.actor(vector[:, :0], vector, batch.observation[MEMORY])[0], batch.teacher)


def _demonstration_loss(
    learner: SoftActorCritic, demonstrations: dict[str, Tensor], rng: np.random.Generator
) -> Tensor:
    """Return the teacher's loss on a batch of images, each the start of an episode with a rotated camera."""
    picks = torch.from_numpy(rng.integers(0, len(demonstrations["teacher"]), learner.settings.batch))
    vector = learner.augment_vector(demonstrations["vector"][picks])
    return teacher_loss(learner.actor(vector[:, :0], vector)[0], demonstrations["teacher"][picks])


def _better(policies: dict[str, SacPolicy], playground: Playground, show: Show) -> tuple[SacPolicy, dict[str, float]]:
    """Return the policy with more successes on the same new episodes, and both success rates."""
    settings = playground.settings
    seeds = SELECTION.episodes(SELECTION.first, settings.selection_episodes, "the first selection seed")
    rates: dict[str, float] = {}
    for name, policy in policies.items():
        rates[name] = score_of(playground.make_env, policy, seeds).success_rate
        show(settings.steps, ", ".join(f"{key} {rate:.2f}" for key, rate in rates.items()))
    chosen = max(reversed(rates), key=lambda name: rates[name])
    return policies[chosen], rates
