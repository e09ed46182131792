"""Tests of outliers of feature points for training."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from rlfp_ros.learning.algorithms.feature_outliers import FeatureOutliers, OutlierSettings

POINTS, STEPS = 5, 40
PLAIN = np.tile([0.1, -0.2, 0.8], (POINTS, 1)).astype(np.float32)


class Still(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Always the same features."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, stack: int) -> None:
        features = gymnasium.spaces.Box(-np.inf, np.inf, (stack, POINTS, 3), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"features": features})  # type: ignore[assignment]
        self._observation = {"features": np.stack([PLAIN] * stack)}

    def reset(self, **_: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return self._observation, {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        return self._observation, 0.0, False, False, {}


def play(seed: int, stack: int = 1, **settings: float) -> np.ndarray:
    """The observed features of an episode, [STEPS + 1, stack, POINTS, 3]."""
    env = FeatureOutliers(Still(stack), OutlierSettings(**settings))
    seen = [env.reset(seed=seed)[0]["features"]]
    seen += [env.step(np.zeros(1))[0]["features"] for _ in range(STEPS)]
    return np.stack(seen)


def are_out(seen: np.ndarray) -> np.ndarray:
    """Whether a point is an outlier, [T, POINTS]."""
    return np.abs(seen[:, -1] - PLAIN).max(-1) > 1e-6


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_and_length_are_as_set(share: float) -> None:
    out = np.stack([are_out(play(seed, share=share, decisions=4.0)) for seed in range(600)])
    assert out[:, 10:].mean() == pytest.approx(share / 3, rel=0.1)  # the mean of share * u ** 2
    assert out.mean((1, 2)).max() > 1.5 * out.mean()  # episodes differ
    before, after = out[:, :-1], out[:, 1:]
    assert (before & ~after).sum() / before.sum() == pytest.approx(1 / 4, rel=0.1)


def test_an_outlier_stays_at_its_place_with_less_confidence() -> None:
    seen = play(3, share=0.9, decisions=5.0)
    out = are_out(seen)
    assert out.any()
    assert not out.all()
    assert (seen[:, -1, :, 2][out] <= 0.5 * PLAIN[0, 2]).all()
    np.testing.assert_array_equal(seen[:, -1][~out], np.broadcast_to(PLAIN, seen[:, -1].shape)[~out])
    both = out[1:] & out[:-1]
    assert both.any()
    np.testing.assert_array_equal(seen[1:, -1][both], seen[:-1, -1][both])
    assert np.linalg.norm((seen[:, -1] - PLAIN)[out][:, :2], axis=-1).mean() > 0.1


def test_a_seed_repeats_an_episode_and_the_stack_holds_what_was_shown() -> None:
    seen = play(7, stack=3, share=0.9)
    np.testing.assert_array_equal(seen, play(7, stack=3, share=0.9))
    assert not np.array_equal(seen, play(8, stack=3, share=0.9))
    for age in (1, 2):
        np.testing.assert_array_equal(seen[age:, -1 - age], seen[:-age, -1])
    np.testing.assert_array_equal(seen[0], np.stack([seen[0, -1]] * 3))


def test_without_a_share_nothing_changes() -> None:
    seen = play(0, stack=2, share=0.0)
    np.testing.assert_array_equal(seen, np.broadcast_to(PLAIN, seen.shape))
