"""Tests of the Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlfp_ros.contract import BaseControllerContract
from rlfp_ros.control.observation import ObservationContract
from rlfp_ros.evaluation.feature_errors import measure_feature_errors
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import DRAWN, CountedSeeds
from rlfp_ros.simulation.deployment import Behaviour
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.feature_error import FeatureErrorModel, FeatureErrors, fit
from rlfp_ros.simulation.gymnasium_ids import environment_id
from rlfp_ros.simulation.scene_renderer import SceneRenderer
from rlfp_ros.simulation.tasks.task import TASKS


def teacher_episode(env: ManipulationEnv, seed: int) -> tuple[list[np.ndarray], bool]:
    env.reset(seed=seed)
    images, ended = [], False
    while not ended:
        action = env.world.task.teacher(env.world, env.behaviour.action)
        _, _, terminated, truncated, info = env.step(action)
        images.append(env.render().copy())
        ended = terminated or truncated
    return images, info["success"]


@pytest.mark.parametrize("task", ["reach", "push", "lift", "place", "stack", "drawer"])
@pytest.mark.parametrize("observation", ["pixels", "state", "both"])
def test_gymnasium_accepts_the_environment(task: str, observation: str) -> None:
    env = gymnasium.make(environment_id(task), observation=observation, profile="train", render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.metadata["render_fps"] == 30
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


def test_features_from_the_truth_have_an_encoders_errors_and_need_no_image() -> None:
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
    servo = Behaviour(action, BaseControllerContract(name="servo", parameters={"rate_hz": 4.0, "speed": 0.25}))
    env = ManipulationEnv("reach", profile="none", observation="state", behaviour=servo)
    env.reset(seed=1)
    ended = False
    info: dict[str, Any] = {}
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


def test_a_step_or_an_image_outside_an_episode_is_refused() -> None:
    env = ManipulationEnv(profile="none", observation="state")
    with pytest.raises(gymnasium.error.ResetNeeded, match="has not begun; call reset"):
        env.step(np.zeros(3))
    with pytest.raises(gymnasium.error.ResetNeeded, match="no image yet; call reset"):
        env.render()
    teacher_episode(env, 0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="has ended; call reset"):
        env.step(np.zeros(3))
    env.close()
    env.close()
    for use in (lambda: env.step(np.zeros(3)), env.reset, env.render):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="after close"):
            use()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"observation": "rgb"}, "observation is 'rgb', expected one of: pixels, features, state, both"),
        ({"observation": "image"}, "observation is 'image', expected one of"),
        ({"observation": "features"}, "give a perceiver with 'features' only"),
        ({"perceiver": np.mean}, "give a perceiver with 'features' only"),
        ({"observation": "features", "perceiver": "reach_panda"}, "perceiver is 'reach_panda', expected a function"),
        ({"render_mode": "human"}, "render_mode is 'human', expected 'rgb_array' or None"),
        ({"image_size": 0}, "image_size is 0, expected a whole number of pixels from 8 to 4096"),
        ({"image_size": -4}, "image_size is -4, expected"),
        ({"image_size": 7}, "image_size is 7, expected"),
        ({"image_size": 33.5}, "image_size is 33.5, expected"),
        ({"image_size": "64"}, "image_size is '64', expected"),
        ({"image_size": True}, "image_size is True, expected"),
        ({"image_size": 10**9}, "image_size is 1000000000, expected"),
        ({"task": "Reach"}, "task is 'Reach', expected one of: "),
        ({"arm": "Panda"}, "config/arms/ has no 'Panda'"),
        ({"profile": "nope"}, "sim/randomization/ has no 'nope'"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        ManipulationEnv(**arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_gymnasium_wraps_the_environment_for_human_rendering() -> None:
    """`gymnasium.make` applies a wrapper that shows what `rgb_array` gives, at `render_fps`."""
    env = gymnasium.make("rlfp_ros/Reach-v0", observation="state", profile="none", render_mode="human")
    assert env.render_mode == "human"
    assert env.unwrapped.render_mode == "rgb_array"
    env.close()


def test_unknown_options_and_malformed_seeds_are_refused() -> None:
    env = ManipulationEnv(profile="none", observation="state")
    with pytest.raises(ConfigurationError, match="options has goal, expected none"):
        env.reset(options={"goal": 1})
    env.reset(seed=1, options={})
    wrong: tuple[Any, ...] = (-1, 1.5, "7")
    for seed in wrong:
        with pytest.raises(gymnasium.error.Error, match=r"[Ss]eed"):
            env.reset(seed=seed)
    env.close()
    with pytest.raises(ConfigurationError, match="seed is -5, expected 0 or more"):
        CountedSeeds(-5)
    with pytest.raises(ConfigurationError, match="step of the seeds is 0"):
        CountedSeeds(0, 0)


def test_later_episodes_come_from_a_stream_of_the_seed() -> None:
    env, other = (ManipulationEnv(profile="train", observation="state") for _ in range(2))

    def sequence(env: ManipulationEnv, seed: int) -> list[int]:
        first = env.reset(seed=seed)[1]["sample"].seed
        return [first, *(env.reset()[1]["sample"].seed for _ in range(3))]

    first = sequence(env, 9)
    assert first[0] == 9
    assert len(set(first)) == 4
    assert sequence(env, 9) == sequence(other, 9) == first
    assert not set(first[1:]) & set(sequence(other, 10))
    assert all(seed in range(DRAWN.first, DRAWN.stop) for seed in first[1:])  # never one that an evaluation plays
    state = env.reset(seed=first[2])[0]["state"]  # a drawn episode can be played again by its seed
    np.testing.assert_array_equal(other.reset(seed=first[2])[0]["state"], state)
    env.close()
    other.close()


def test_counted_seeds_start_again_at_a_given_one() -> None:
    env = ManipulationEnv(profile="none", observation="state", seeds=CountedSeeds(4, 3))
    played = [env.reset()[1]["sample"].seed for _ in range(3)]
    played += [env.reset(seed=20)[1]["sample"].seed, env.reset()[1]["sample"].seed]
    assert played == [4, 7, 10, 20, 23]
    env.close()


def test_closing_one_of_several_environments_leaves_the_others() -> None:
    first, second = (ManipulationEnv("reach", observation="state") for _ in range(2))
    for env in (first, second):
        env.reset(seed=1)
    first.close()
    first.close()
    before = second.step(np.zeros(3, np.float32))[0]["state"]
    assert np.isfinite(before).all()
    third = ManipulationEnv("reach", observation="state")
    third.reset(seed=1)
    np.testing.assert_array_equal(third.step(np.zeros(3, np.float32))[0]["state"], before)
    second.close()
    third.close()
    with pytest.raises(Exception, match=r"after close\(\)"):
        first.reset()


@pytest.mark.parametrize("past_actions", [0, 6])
def test_images_without_a_decision_are_not_drawn_and_change_nothing(
    past_actions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, drawn = TASKS["push"], [0]
    draw = SceneRenderer.render

    def counted(renderer: SceneRenderer) -> np.ndarray:
        drawn[0] += 1
        return draw(renderer)

    monkeypatch.setattr(SceneRenderer, "render", counted)

    def play(watched: bool) -> tuple[list[np.ndarray], int]:
        behaviour = Behaviour(task.action.deciding_every(3), task.base_controller)
        observed = ObservationContract(feature_stack=1, past_actions=past_actions)
        env = ManipulationEnv("push", observation="pixels", behaviour=behaviour, observed=observed)
        env.on_held = (lambda frame: None) if watched else None  # draws all
        images, before = [], drawn[0]
        for seed in (1, 2):
            images.append(env.reset(seed=seed)[0]["image"])
            ended = False
            while not ended and len(images) % 40:
                action = np.random.default_rng(len(images)).uniform(-1, 1, 3)
                observation, _, terminated, truncated, _ = env.step(action)
                images.append(observation["image"])
                ended = terminated or truncated
        env.close()
        return images, drawn[0] - before

    (some, few), (all_, many) = play(watched=False), play(watched=True)
    assert few < many / 2
    assert len(some) == len(all_)
    for one, other in zip(some, all_, strict=True):
        np.testing.assert_array_equal(one, other)
