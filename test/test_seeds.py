"""Tests of seeds: no episode of a training is one of selection, export or evaluation, or of another training."""

from __future__ import annotations

import itertools

import pytest

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import (
    EVALUATION,
    EXPERIENCE,
    FRAMES,
    MAX_STEPS,
    MAX_TRAINING_SEED,
    MAX_WORKERS,
    RANGES,
    SeedRange,
    check_seed,
    check_training_seed,
)


def test_no_two_purposes_share_a_seed() -> None:
    for one, other in itertools.combinations(RANGES, 2):
        assert one.stop <= other.first or other.stop <= one.first, (one.name, other.name)
    assert all(0 <= one.first < one.stop for one in RANGES)


@pytest.mark.parametrize("seeds", [FRAMES, EXPERIENCE], ids=lambda seeds: seeds.name)
def test_every_training_and_worker_has_seeds_of_its_own_inside_the_range(seeds: SeedRange) -> None:
    used = [
        seeds.of_training(seed, worker)
        for seed in (0, 1, MAX_TRAINING_SEED - 1, MAX_TRAINING_SEED)
        for worker in (0, 1, MAX_WORKERS - 1)
    ]
    for before, after in itertools.pairwise(used):
        assert before.stop <= after.start
    assert seeds.first <= used[0].start
    assert used[-1].stop == seeds.stop


def test_seeds_that_would_reach_into_another_range_are_refused() -> None:
    for training, worker, offset in (
        (-1, 0, 0),
        (MAX_TRAINING_SEED + 1, 0, 0),
        (0, MAX_WORKERS, 0),
        (0, -1, 0),
        (0, 0, MAX_STEPS),
        (0, 0, -1),
    ):
        with pytest.raises(ConfigurationError, match="expected"):
            EXPERIENCE.of_training(training, worker, offset)
    assert EVALUATION.episodes(999_800, 200) == range(999_800, 1_000_000)
    with pytest.raises(ConfigurationError, match="--seed is 999801 for 200 episodes, expected 0 to 999800"):
        EVALUATION.episodes(999_801, 200)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--seed is -1, expected 0 to 9999"):
        check_training_seed(-1)
    with pytest.raises(ConfigurationError, match="seed is -1, expected 0 or more"):
        check_seed(-1)
    with pytest.raises(ConfigurationError, match="--seed is -1 for 5 episodes"):
        EVALUATION.episodes(-1, 5)
