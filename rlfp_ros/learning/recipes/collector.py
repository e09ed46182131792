"""Collects experience in separate processes while the learner learns.

In each round the collectors play a fixed number of steps with the weights that they got at its start, while the learner
uses the experience of earlier rounds. Timing therefore never changes a training.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import torch

from rlfp_ros.learning.algorithms.environments import Environment, episode_seeds
from rlfp_ros.learning.runs.player import Player

TEACHER_NOISE = 0.3  # standard deviation of noise on the teacher's actions, so that its data includes corrections

Seen = dict[str, np.ndarray]  # an observation, as `LearningObservation` has it


class Student(Protocol):
    """The learner in a collector: an environment, and the actions of learner and teacher in it.

    A learner without a teacher returns None for its action, and then plays all episodes itself.
    """

    environment: Environment

    def load(self, weights: dict[str, Any]) -> None:
        """Use new weights."""

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return the learner's action for the next frame [A], with exploration."""

    def teacher(self, observation: Seen) -> np.ndarray | None:
        """Return the teacher's action, [A] in [-1, 1], or None if there is no teacher."""


class Lessons(Protocol):
    """Builds a student in a collector's process; picklable."""

    def student(self) -> Student:
        """Build the student."""


@dataclass(frozen=True)
class Experience:
    """N consecutive steps of one collector."""

    observation: Seen  # before each step, each [N, ...]
    next_observation: Seen  # after each step
    action: np.ndarray  # float32 [N, A]
    teacher: np.ndarray | None  # float32 [N, A], the teacher's action
    reward: np.ndarray  # float32 [N]
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]
    begins: np.ndarray  # bool [N]: the first step of an episode
    successes: list[bool]  # one per finished episode of the learner, without the teacher's
    hindsight: list[Experience] = field(default_factory=list)  # whole episodes with other goals

    @classmethod
    def of(cls, rows: list[tuple[Seen, Seen, np.ndarray, float, bool, bool]]) -> Experience:
        """Make experience of one episode's observations, next observations, actions, rewards and ends."""
        episode = [
            (seen, after, action, None, *rest, not step) for step, (seen, after, action, *rest) in enumerate(rows)
        ]
        return _stacked(episode, [])


class Collectors(ExitStack):
    """Processes that play episodes. A context manager that ends them.

    Parameters
    ----------
    lessons
        What to play.
    count
        Number of processes.
    seed
        Seed of the training.
    played
        Steps that each process played in earlier sessions; their episodes are not played again.
    """

    def __init__(self, lessons: Lessons, count: int, seed: int, played: int = 0) -> None:
        super().__init__()
        self._players = [Player(_play, (lessons, seed, played, worker)) for worker in range(count)]

    def __enter__(self) -> Collectors:
        for player in self._players:
            self.enter_context(player)
        return self

    def start_round(self, weights: dict[str, Any], steps: int, teacher_share: float) -> None:
        """Play `steps`, by all processes together, with the learner's `weights`.

        `teacher_share` is the share of the episodes that the teacher plays instead.
        """
        # PyTorch sends tensors as shared memory, in which the learner's next updates would appear during the round.
        weights = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in weights.items()}
        for player in self._players:
            player.send((weights, steps // len(self._players), teacher_share))

    def finish_round(self) -> list[Experience]:
        """Wait for the round's experience, one part per process."""
        return [player.receive() for player in self._players]


def _play(work: tuple[Lessons, int, int, int], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C here too; the learner ends this process
    torch.set_num_threads(1)
    lessons, seed, played, worker = work
    seeds = episode_seeds(seed, played, worker)
    first = next(seeds)
    torch.manual_seed(first)
    rounds = _rounds(lessons.student(), first, seeds)
    next(rounds)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return  # the learner has ended
        connection.send(rounds.send(request))


def _rounds(
    student: Student, first: int, seeds: Iterator[int]
) -> Generator[Experience | None, tuple[dict[str, Any], int, float], None]:
    """Play rounds: receives weights, steps and the teacher's share, and yields the experience; first yields None."""
    env, rng = student.environment, np.random.default_rng(first)
    observation, _ = env.reset(seed=first)
    student.begin(rng)
    guided, begins = True, True
    experience: Experience | None = None
    while True:
        weights, steps, teacher_share = yield experience
        student.load(weights)
        rows: list[tuple[Any, ...]] = []
        successes = []
        hindsight: list[Experience] = []
        for _ in range(steps):
            teacher, action = student.teacher(observation), student.act(observation, rng)
            if guided and teacher is not None:
                action = teacher + rng.normal(0, TEACHER_NOISE, len(teacher))
            action = np.clip(action, -1, 1)
            following, reward, terminated, truncated, info = env.step(action)
            rows.append((observation, following, action, teacher, reward, terminated, truncated, begins))
            observation, begins = following, terminated or truncated
            if begins:
                hindsight += info.get("hindsight", [])
                if not guided or teacher is None:
                    successes.append(bool(info["success"]))
                observation, _ = env.reset(seed=next(seeds))
                guided = rng.uniform() < teacher_share
                student.begin(rng)
        experience = _stacked(rows, successes, hindsight)


def _stacked(rows: list[tuple[Any, ...]], successes: list[bool], hindsight: Sequence[Experience] = ()) -> Experience:
    seen, following, action, teacher, reward, terminated, truncated, begins = zip(*rows, strict=True)
    before, after = (
        {name: np.stack([one[name] for one in observations]) for name in observations[0]}
        for observations in (seen, following)
    )
    return Experience(
        before,
        after,
        np.asarray(action, np.float32),
        None if teacher[0] is None else np.asarray(teacher, np.float32),
        np.asarray(reward, np.float32),
        np.asarray(terminated, bool),
        np.asarray(truncated, bool),
        np.asarray(begins, bool),
        successes,
        list(hindsight),
    )
