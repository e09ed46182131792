"""The interface of a reinforcement learning algorithm, and the registry of those that `rlfp train` knows by name.

An algorithm is one file: settings, networks, loss, and a function `train`, registered by a decorator:

    class MySettings(TrainingSettings):
        learning_rate: float = Field(1e-3, gt=0)

    @algorithm("mine", MySettings(), steps=50_000)
    def train(make_env, settings, steps, seed, log): ...

`rlfp train reach --algorithm mine --plugin my_algorithm.py` runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

from rlfp_ros.learning.algorithms.environments import EnvironmentMaker
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError


class Train(Protocol):
    """Trains a policy."""

    def __call__(self, make_env: EnvironmentMaker, settings: Any, steps: int, seed: int, log: TrainingLog) -> nn.Module:
        """Learn for `steps` environment steps.

        Parameters
        ----------
        make_env
            Builds an environment; its observations are those of `LearningObservation`, its actions are in [-1, 1].
        settings
            The settings that the algorithm was registered with, or changed ones of the same type.
        steps
            Environment steps.
        seed
            Seed of the training. Episodes take theirs from `environments.episode_seeds`.
        log
            Takes episodes, figures and checkpoints; `log.resumed` is the state to continue from, or None.

        Returns
        -------
        nn.Module
            The policy: `forward(observation)` is the action to deploy, [B, A] in [-1, 1]. A policy with memory also
            has `state_size` and `step(observation, state)`, which returns the action and the next state [B, S]; zeros
            are the state at the start of an episode.
        """


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm."""

    settings: TrainingSettings  # the defaults
    train: Train
    steps: int  # environment steps of a training, by default


ALGORITHMS: Registry[Algorithm] = Registry("algorithm", builtin="rlfp_ros.learning.algorithms")

Trainer = TypeVar("Trainer", bound=Callable[..., nn.Module])


def algorithm(name: str, settings: TrainingSettings, steps: int) -> Callable[[Trainer], Trainer]:
    """Return a decorator that registers a `Train` function as the algorithm `name`.

    Parameters
    ----------
    name
        Name for `--algorithm`.
    settings
        The default settings.
    steps
        The default number of environment steps.
    """

    def decorate(train: Trainer) -> Trainer:
        try:
            inspect.signature(train).bind("make_env", "settings", "steps", "seed", "log")
        except TypeError as error:
            raise ConfigurationError(
                f"algorithm {name!r}: {train.__qualname__} cannot be called with make_env, settings, steps, seed and "
                f"log ({error}); give it these parameters"
            ) from None
        ALGORITHMS.add(name, Algorithm(settings, train, steps))
        return train

    return decorate
