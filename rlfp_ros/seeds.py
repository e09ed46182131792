"""Ranges of episode seeds, one per purpose. No two ranges share a seed.

A training has a seed, `rlfp train --seed`. The episodes that it plays have seeds in the training's block of a range, so
two trainings never share an episode, and no training shares one with selection, export or evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlfp_ros.schema import ConfigurationError

MAX_TRAINING_SEED = 9_999
MAX_STEPS = 10_000_000  # environment steps of a training; each worker's part of a block has as many seeds
MAX_WORKERS = 100


@dataclass(frozen=True)
class SeedRange:
    """Seeds `first` to `stop - 1`.

    Parameters
    ----------
    name
        What its episodes are for, for messages.
    first, stop
        The seeds, as in `range`.
    block
        Seeds of one training; 0 if the range is not divided among trainings.
    """

    name: str
    first: int
    stop: int
    block: int = 0

    def of_training(self, seed: int, worker: int = 0, offset: int = 0) -> range:
        """The seeds of the training `seed`, for one of its worker processes, from its `offset`-th seed on.

        Raises
        ------
        ConfigurationError
            If the seed, the worker or the offset would reach into the seeds of another training or worker.
        """
        part = self.block // MAX_WORKERS
        if not (0 <= worker < MAX_WORKERS and 0 <= offset < part):
            raise ConfigurationError(
                f"{self.name}: worker {worker} after {offset} seeds is outside the seeds of training {seed}, expected "
                f"a worker from 0 to {MAX_WORKERS - 1} and fewer than {part} seeds"
            )
        first = self.block_of(seed).start + worker * part
        return range(first + offset, first + part)

    def block_of(self, seed: int) -> range:
        """All seeds of the training `seed`. Raises ConfigurationError if there is no such training."""
        check_training_seed(seed)
        first = self.first + seed * self.block
        return range(first, first + self.block)

    def episodes(self, seed: int, count: int, name: str = "--seed") -> range:
        """The seeds of `count` episodes from `seed` on.

        Raises
        ------
        ConfigurationError
            If one of them is outside this range, where it may be that of an episode in a training.
        """
        if not (self.first <= seed and seed + count <= self.stop):
            raise ConfigurationError(
                f"{name} is {seed} for {count} episodes, expected {self.first} to {self.stop - count}; "
                "other seeds belong to trainings"
            )
        return range(seed, seed + count)


EVALUATION = SeedRange("evaluation", 0, 1_000_000)  # `rlfp evaluate`, `demo`, `preview` and the graph
FRAMES = SeedRange("frames", 1_000_000, 1_000_000 * (MAX_TRAINING_SEED + 2), 1_000_000)
SELECTION = SeedRange("selection", 20_000_000_000, 20_001_000_000)  # which of a training's policies is the best
HELD_OUT = SeedRange("held-out episodes", 30_000_000_000, 30_001_000_000)  # at the end of `rlfp train --algorithm`
GOLDEN = SeedRange("golden frames", 40_000_000_000, 40_001_000_000)
TRUST = SeedRange("images of the domain-shift score", 45_000_000_000, 45_001_000_000)
ADAPTATION = SeedRange("images of training for an adaptation", 46_000_000_000, 46_001_000_000)
BENCHMARKS = SeedRange("benchmarks", 50_000_000_000, 51_000_000_000)
EXPERIENCE = SeedRange(
    "experience",
    100_000_000_000,
    100_000_000_000 + MAX_STEPS * MAX_WORKERS * (MAX_TRAINING_SEED + 1),
    MAX_STEPS * MAX_WORKERS,
)
DRAWN = SeedRange("episodes of a Gymnasium environment", 2**50, 2**51)  # drawn by `reset()` without a seed
RANGES = (EVALUATION, FRAMES, SELECTION, HELD_OUT, GOLDEN, TRUST, ADAPTATION, BENCHMARKS, EXPERIENCE, DRAWN)


def check_training_seed(seed: int, name: str = "--seed") -> int:
    """The seed of a training. Raises ConfigurationError if it is negative or above `MAX_TRAINING_SEED`."""
    if not 0 <= seed <= MAX_TRAINING_SEED:
        raise ConfigurationError(
            f"{name} is {seed}, expected 0 to {MAX_TRAINING_SEED}; other seeds would meet those of evaluation"
        )
    return seed


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed of any episode. Raises ConfigurationError if it is negative."""
    if seed < 0:
        raise ConfigurationError(f"{name} is {seed}, expected 0 or more")
    return seed


@dataclass(frozen=True)
class CountedSeeds:
    """Episode n has seed `first + n * step`, and `reset(seed=s)` starts the count again at s.

    Trainings and evaluations use this, so that several environments share one series of episodes.
    """

    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        check_seed(self.first)
        if self.step < 1:
            raise ConfigurationError(f"step of the seeds is {self.step}, expected 1 or more")
