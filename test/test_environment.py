"""The Gymnasium environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv


def teacher_episode(env: ManipulationEnv, seed: int) -> tuple[list[np.ndarray], bool]:
    env.reset(seed=seed)
    pictures, ended = [], False
    while not ended:
        action = env.world.task.teacher(env.world, env.behaviour.action)
        _, _, terminated, truncated, info = env.step(action)
        pictures.append(env.render().copy())
        ended = terminated or truncated
    return pictures, info["success"]


@pytest.mark.parametrize("observation", ["pixels", "state", "both"])
def test_gymnasium_accepts_the_environment(observation: str) -> None:
    env = gymnasium.make("rlfp_ros/Reach-v0", observation=observation, profile="train")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_features_come_from_the_given_perceiver() -> None:
    env = ManipulationEnv(observation="features", perceiver=lambda image: np.full((4, 3), image.mean(), np.float32))
    observation, _ = env.reset(seed=1)
    assert observation["features"].shape == (2, 4, 3)
    assert observation["features"][-1, 0, 0] == pytest.approx(env.render().mean(), rel=1e-5)
    check_env(env, skip_render_check=True)
    env.close()


def test_features_without_a_perceiver_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="give a perceiver"):
        ManipulationEnv(observation="features")


def test_the_teacher_reaches_and_standing_still_does_not() -> None:
    env = ManipulationEnv(profile="train", observation="state")
    assert all(teacher_episode(env, seed)[1] for seed in range(5))
    env.reset(seed=0)
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(np.zeros(3))
        ended = terminated or truncated
    assert truncated
    assert not info["success"]
    env.close()


def test_the_same_seed_gives_the_same_episode() -> None:
    first, second = (ManipulationEnv(profile="train", observation="pixels") for _ in range(2))
    teacher_episode(first, 3)  # an episode before must not matter
    for one, two in zip(teacher_episode(first, 7)[0], teacher_episode(second, 7)[0], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("action", [np.array([np.nan, 0, 0]), np.zeros(2), np.array([0, np.inf, 0])])
def test_a_malformed_action_is_refused(action: np.ndarray) -> None:
    env = ManipulationEnv(profile="none", observation="state")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected 3 finite values"):
        env.step(action)
    env.close()


def test_a_step_after_the_end_is_refused() -> None:
    env = ManipulationEnv(profile="none", observation="state")
    teacher_episode(env, 0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(3))
    env.close()
