"""Reinforcement learning of a policy on features, started and guided by a teacher.

For encoders and policies that the estimator of `imitation` cannot serve: latents, and policies with a memory.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlfp_ros.learning.encoders.encoder import Encoder, features_of
from rlfp_ros.learning.recipes.collector import Collector, Experience, success_rate
from rlfp_ros.learning.recipes.dagger import TREMBLING
from rlfp_ros.learning.recipes.privileged_sac import Actor, ReplayBuffer, SacSettings, SoftActorCritic
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show
from rlfp_ros.seeds import SELECTION

CHECKPOINT_ROUNDS = 20
SEEDS_PER_ROUND = 10_000


@dataclass(frozen=True)
class PolicyTraining:
    """How long the policy learns."""

    steps: int = 15_000  # camera frames played
    round_steps: int = 250  # camera frames between two exchanges of weights and experience
    updates_per_step: float = 0.5  # gradient steps per played frame
    first_rounds: int = 8  # rounds played by the teacher alone, before the first gradient step
    imitation_updates: int = 12_000  # gradient steps towards the teacher, on the encoder's images, before it plays
    teacher_share: float = 0.05  # share of the episodes after that; keeps successful ends in the buffer
    selection_episodes: int = 100  # played by the actor before and after reinforcement learning; the better one ships


Demonstrations = dict[str, np.ndarray]  # observation [N, O], teacher [N, A]


def image_demonstrations(encoder: Encoder, frames: Path, stack: int) -> Demonstrations:
    """Compute what the teacher would do in each of the encoder's images.

    They show far more cameras and places than reinforcement learning visits, for one pass of the encoder.

    Parameters
    ----------
    encoder
        The finished encoder.
    frames
        The folder of training's images and labels.
    stack
        Number of frames of features in an observation.
    """
    features = features_of(encoder, np.load(frames / "images.npy", mmap_mode="r"))
    # An image has no frame before it; the same one, with the noise that features have, stands for it.
    earlier = [features + TREMBLING * torch.randn_like(features) for _ in range(stack - 1)]
    stacked = torch.stack([*earlier, features], dim=1).flatten(1).numpy()
    parts = [stacked, np.load(frames / "proprioception.npy"), np.load(frames / "goal.npy")]
    return {"observation": np.concatenate(parts, axis=1), "teacher": np.load(frames / "teacher.npy")}


class GuidedTraining:
    """One training: the learner, its buffer, and what it resumes from."""

    def __init__(
        self,
        sizes: dict[str, int],
        points: tuple[int, ...],
        settings: SacSettings,
        training: PolicyTraining,
        demonstrations: Demonstrations,
        seed: int,
    ) -> None:
        self._settings, self._training = settings, training
        self._demonstrations = demonstrations
        self._rng = np.random.default_rng([seed, 7])
        self._buffer = ReplayBuffer(settings.capacity, sizes)
        self.learner = SoftActorCritic(sizes, points, settings)
        self.imitator = copy.deepcopy(self.learner.actor)
        self.recent: deque[bool] = deque(maxlen=100)

    @property
    def has_experience(self) -> bool:
        """Whether there is anything to learn from."""
        return self._buffer.count > 0

    def add(self, transitions: dict[str, np.ndarray], successes: list[bool]) -> None:
        """Take a round's experience."""
        self._buffer.add(transitions)
        self.recent.extend(successes)

    def learn(self, updates: int, progress: float) -> dict[str, float]:
        """Take gradient steps; `progress` is the share of the training that is done. Returns figures of the last."""
        figures: dict[str, float] = {}
        for _ in range(updates):
            figures = self.learner.update(self._played(), progress, self._some_demonstrations())
        return figures

    def imitate(self, show: Show, steps: int) -> None:
        """Learn what the teacher does, and remember that actor."""
        self.learner.fit_normalisers(self._buffer)
        updates = self._training.imitation_updates
        for update in range(updates):
            sequences = self._played() if self._settings.memory else None
            loss = self.learner.imitate(self._some_demonstrations(), update / updates, sequences)
            if update % 100 == 0:
                show(steps, f"imitation {update}, loss {loss:.3f}")
        self.imitator = copy.deepcopy(self.learner.actor)

    def _some_demonstrations(self) -> dict[str, Tensor]:
        picks = self._rng.integers(0, len(self._demonstrations["teacher"]), self._settings.batch)
        return {name: torch.from_numpy(values[picks]) for name, values in self._demonstrations.items()}

    def _played(self) -> dict[str, Tensor]:
        settings = self._settings
        return self._buffer.sample(settings.batch, self._rng, settings.sequence if settings.memory else 1)


def train_guided(
    experience: Experience,
    demonstrations: Demonstrations,
    settings: SacSettings,
    training: PolicyTraining,
    seed: int,
    run: Path,
    show: Show,
) -> tuple[Actor, dict[str, float]]:
    """Train an actor, or continue from `run/policy.pt`.

    Returns
    -------
    actor
        The better one of the actor that imitates and the actor that was reinforced.
    selection
        Success rates of both.
    """
    torch.set_num_threads(1)  # the collector has the other core
    checkpoint = run / "policy.pt"
    key = {"stage": "policy", "training": asdict(training), "settings": asdict(settings), "seed": seed}
    torch.manual_seed(seed)
    rounds = training.steps // training.round_steps
    state = load_checkpoint(checkpoint, key)
    first_round = state["round"] if state else 0
    played = replace(experience, seed=experience.seed + first_round * SEEDS_PER_ROUND)
    with Collector(played) as collector:
        sizes, points = collector.shapes()
        stage = GuidedTraining(sizes, points, settings, training, demonstrations, seed)
        if state:
            stage.learner.load_state_dict(state["learner"])
            stage.imitator.load_state_dict(state["imitator"])
            stage.recent.extend(state["recent"])
        # A resumed training learns from its first round on; that round is played before, to have experience at all.
        warm = first_round if state else training.first_rounds
        for index in range(first_round, rounds):
            guided = index < training.first_rounds and not state
            share = 1.0 if guided else training.teacher_share
            collector.start_round(stage.learner.actor.state_dict(), training.round_steps, share)
            figures: dict[str, float] = {}
            if stage.has_experience and index >= warm:
                figures = stage.learn(int(training.round_steps * training.updates_per_step), index / rounds)
            stage.add(*collector.finish_round())
            steps = (index + 1) * training.round_steps
            if index + 1 == training.first_rounds and not state:
                stage.imitate(show, steps)
            success = float(np.mean(stage.recent)) if stage.recent else 0.0
            text = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
            show(steps, f"success {success:.2f}{text}", success_rate=success, **figures)
            if (index + 1) % CHECKPOINT_ROUNDS == 0 or index + 1 == rounds:
                save_checkpoint(
                    checkpoint,
                    key,
                    learner=stage.learner.state_dict(),
                    imitator=stage.imitator.state_dict(),
                    round=index + 1,
                    recent=list(stage.recent),
                )
    return _better(experience, {"imitation": stage.imitator, "reinforcement": stage.learner.actor}, training, show)


def _better(
    experience: Experience, actors: dict[str, Actor], training: PolicyTraining, show: Show
) -> tuple[Actor, dict[str, float]]:
    """The actor that solves more of the same fresh episodes (the later one if they are equal), and both rates."""
    fresh = replace(experience, seed=SELECTION.first)
    rates: dict[str, float] = {}
    for name, actor in actors.items():
        rates[name] = success_rate(fresh, actor, training.selection_episodes)
        show(training.steps, ", ".join(f"{key} {rate:.2f}" for key, rate in rates.items()))
    chosen = max(reversed(rates), key=lambda name: rates[name])
    return actors[chosen], rates
