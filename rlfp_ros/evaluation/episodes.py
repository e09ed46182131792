"""Plays episodes in an environment and counts successes.

`play_episodes` runs a policy in any Gymnasium environment of this project, `count` turns outcomes into a score. A
bundle is played by `rollout.Rollout`, whose outcomes are counted here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from rlfp_ros.evaluation.statistics import wilson95

Act = Callable[[Any], np.ndarray]  # an observation -> an action [A] in [-1, 1]


class Ended(Protocol):
    """A finished episode, such as `EpisodeResult` or `simulation.ticked_world.Outcome`."""

    @property
    def success(self) -> bool:
        """Whether it was won."""
        ...

    @property
    def steps(self) -> int:
        """Its length in camera frames."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """An episode that was played in an environment."""

    seed: int
    success: bool
    steps: int  # camera frames
    episode_return: float  # sum of rewards


@dataclass(frozen=True)
class Score:
    """Successes in a number of episodes."""

    episodes: int
    successes: int
    mean_steps: float  # camera frames per episode

    @property
    def success_rate(self) -> float:
        """Fraction of episodes that succeeded; 0 if none was played."""
        return self.successes / max(1, self.episodes)

    @property
    def wilson95(self) -> tuple[float, float]:
        """The 95 % interval of the success rate (Wilson 1927)."""
        return wilson95(self.successes, self.episodes)

    def document(self) -> dict[str, Any]:
        """Return the score under the keys that result files use."""
        low, high = self.wilson95
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.success_rate,
            "wilson95": [round(low, 4), round(high, 4)],
            "mean_steps": self.mean_steps,
        }


def count(episodes: Iterable[Ended]) -> Score:
    """Return the score of episodes that have ended."""
    ended = list(episodes)
    return Score(
        episodes=len(ended),
        successes=sum(episode.success for episode in ended),
        mean_steps=sum(episode.steps for episode in ended) / max(1, len(ended)),
    )


def play_episodes(
    env: gymnasium.Env[Any, np.ndarray],
    act: Act,
    seeds: Iterable[int],
    begin: Callable[[], None] = lambda: None,
) -> Iterator[EpisodeResult]:
    """Play one episode per seed and yield the result of each.

    Parameters
    ----------
    env
        An environment whose `info` has `success`; a seed decides the whole episode. It stays open.
    act
        The policy: the action for an observation.
    seeds
        The seeds of the episodes.
    begin
        Called after each reset, for policies with memory.
    """
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        begin()
        steps, total, ended = 0, 0.0, False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(act(observation))
            steps, total, ended = steps + 1, total + float(reward), terminated or truncated
        yield EpisodeResult(seed, bool(info["success"]), steps, total)
