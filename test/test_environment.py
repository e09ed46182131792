"""The Gymnasium environment."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlfp_ros.contract import BaseController
from rlfp_ros.evaluation.feature_errors import measure_feature_errors
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.deployment import Behaviour
from rlfp_ros.simulation.environment import CountedSeeds, ManipulationEnv
from rlfp_ros.simulation.feature_error import FeatureErrorModel, FeatureErrors, fit
from rlfp_ros.simulation.tasks.task import TASKS


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


ERRORS = FeatureErrorModel(
    bias=np.array([[0.02, -0.01], [0.0, 0.0], [0.01, 0.0]]),
    covariance=np.array([np.diag([1e-4, 4e-4]), np.diag([1e-4, 1e-4]), [[1e-4, 5e-5], [5e-5, 1e-4]]]),
    persistence=np.array([0.0, 0.6, 0.9]),
    outlier_rate=np.array([0.0, 0.1, 0.0]),
    outlier_spread=np.array([0.0, 0.3, 0.0]),
    confidence=np.array([[0.9, 0.02]] * 3),
)


def test_an_error_model_is_fitted_to_errors_like_those_it_makes() -> None:
    make = FeatureErrors(ERRORS, np.random.default_rng(0))
    true = np.random.default_rng(1).uniform(-0.3, 0.3, (6000, 3, 2))
    found = fit(np.stack([make(points) for points in true]), true, np.arange(6000) % 150 == 0)
    np.testing.assert_allclose(found.bias, ERRORS.bias, atol=0.003)
    np.testing.assert_allclose(found.covariance, ERRORS.covariance, atol=5e-5)
    np.testing.assert_allclose(found.persistence, ERRORS.persistence, atol=0.06)
    np.testing.assert_allclose(found.outlier_rate, ERRORS.outlier_rate, atol=0.03)
    assert found.outlier_spread[1] == pytest.approx(0.3, rel=0.2)
    np.testing.assert_allclose(found.confidence, ERRORS.confidence, atol=0.01)


def test_features_from_the_truth_have_an_encoders_errors_and_need_no_picture() -> None:
    env = ManipulationEnv("reach", profile="train", image_size=16, seeds=CountedSeeds(3))
    shift = np.array([0.05, 0.02])
    model = measure_feature_errors(
        env, lambda image: np.insert(env.world.keypoints() + shift, 2, 0.9, axis=1), episodes=1
    )
    env.close()
    fast = ManipulationEnv("reach", profile="train", observation="features", perceiver=model)
    check_env(fast, skip_render_check=True)
    observation, _ = fast.reset(seed=0)
    truth = fast.world.keypoints()
    assert observation["features"].shape == (2, len(truth), 3)
    np.testing.assert_allclose(observation["features"][-1, :, :2] - truth, [shift] * len(truth), atol=1e-5)
    assert not fast.world.image.any()
    assert fast.render().any()
    fast.close()


def test_a_saved_error_model_comes_back(tmp_path: Path) -> None:
    ones = np.ones((2, 2))
    model = FeatureErrorModel(ones, np.ones((2, 2, 2)), ones[0], ones[0], ones[0], ones)
    model.save(tmp_path / "errors.npz")
    np.testing.assert_array_equal(FeatureErrorModel.load(tmp_path / "errors.npz").bias, ones)
    (tmp_path / "errors.npz").write_text("no")
    with pytest.raises(ConfigurationError, match="not a feature error model"):
        FeatureErrorModel.load(tmp_path / "errors.npz")


def test_a_base_controller_that_follows_the_object_sees_the_truth_in_training() -> None:
    action = TASKS["reach"].action
    servo = Behaviour(action, BaseController(name="servo", parameters={"rate_hz": 4.0, "speed": 0.25}))
    env = ManipulationEnv("reach", profile="none", observation="state", behaviour=servo)
    env.reset(seed=1)
    ended, info = False, {}
    while not ended:
        *_, terminated, truncated, info = env.step(np.zeros(3))
        ended = terminated or truncated
    assert info["success"]
    env.close()


def test_a_stock_agent_learns_on_the_environment() -> None:
    """Stable-Baselines3 checks the interface and trains on it for a few hundred steps."""
    baselines = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as check

    env = gymnasium.make("rlfp_ros/Reach-v0", observation="both", profile="train", image_size=36)
    check(env)
    model = baselines.PPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(256)
    assert any((one != two).any() for one, two in zip(before, model.policy.parameters(), strict=True))
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
