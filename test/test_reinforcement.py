"""Tests of the recipe `reinforcement`: reward, hindsight, expert, and the whole training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_trainings import STATE, expert_lessons, quiet, untrained_expert  # noqa: E402

from rlfp_ros import plugins  # noqa: E402
from rlfp_ros.control.arm import load_arm  # noqa: E402
from rlfp_ros.control.policy import Policy  # noqa: E402
from rlfp_ros.learning.algorithms.environments import shapes  # noqa: E402
from rlfp_ros.learning.algorithms.point_mass import MakePointMass  # noqa: E402
from rlfp_ros.learning.algorithms.replay import ReplayBuffer  # noqa: E402
from rlfp_ros.learning.recipes.expert import (  # noqa: E402
    ExpertLessons,
    ExpertSettings,
    initialise_values,
    train_expert,
)
from rlfp_ros.learning.recipes.hindsight import Hindsight  # noqa: E402
from rlfp_ros.learning.recipes.pink_noise import pink_noise  # noqa: E402
from rlfp_ros.learning.recipes.reinforcement import ReinforcementRecipe  # noqa: E402
from rlfp_ros.learning.recipes.shaping import ProgressReward, RewardSettings  # noqa: E402
from rlfp_ros.learning.recipes.student import StudentSettings  # noqa: E402
from rlfp_ros.learning.recipes.train import main  # noqa: E402
from rlfp_ros.learning.recipes.train_encoder import SMALLEST_WORK  # noqa: E402
from rlfp_ros.schema import ConfigurationError  # noqa: E402
from rlfp_ros.simulation.environment import ManipulationEnv  # noqa: E402
from rlfp_ros.simulation.tasks.goal import GoalTask  # noqa: E402
from rlfp_ros.simulation.tasks.task import TASKS, Task, load_task  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")

# --- the reward ------------------------------------------------------------------------------------------------------


def test_rewards_add_up_to_the_change_of_the_tasks_reward_and_the_bonus() -> None:
    plain = ManipulationEnv("reach", profile="none", observation="state")
    env = ProgressReward(plain, RewardSettings())
    env.reset(seed=4)
    first, total, ended, success = plain.world.task.reward(plain.world, False), 0.0, False, False
    while not ended:
        action = plain.world.task.teacher(plain.world, plain.behaviour.action)
        _, reward, terminated, truncated, info = env.step(action)
        total, ended, success = total + reward, terminated or truncated, info["success"]
    last = plain.world.task.reward(plain.world, False)
    assert success
    assert total == pytest.approx(10 * (last - first) + 5)
    env.reset(seed=4)
    assert abs(env.step(np.zeros(3, np.float32))[1]) < 0.1  # nothing is earned by staying, near or far
    env.close()


# --- hindsight -------------------------------------------------------------------------------------------------------


def test_an_episode_is_also_experience_with_the_goal_that_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher pushes the brick to its goal; the other goal is where the brick lies at the end."""
    monkeypatch.setattr("rlfp_ros.learning.recipes.hindsight.JITTER", 0.0)
    env = ExpertLessons(replace(STATE, task="push"), ExpertSettings(hindsight=1)).environment()
    assert isinstance(env, Hindsight)
    plain = env.unwrapped
    assert isinstance(plain, ManipulationEnv)
    task = plain.world.task
    assert isinstance(task, GoalTask)
    first, _ = env.reset(seed=3)
    start, ended = task.object_pose(plain.world)[0], False
    seen, rewards, info = [first["vector"]], [], dict[str, Any]()
    while not ended:
        action = task.teacher(plain.world, plain.behaviour.action)
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation["vector"])
        rewards.append(reward)
        ended = terminated or truncated
    assert info["success"]
    (found,) = info["hindsight"]
    end = task.object_pose(plain.world)[0]
    assert np.linalg.norm(end - start) > 0.05
    length = len(found.reward)
    assert length <= len(rewards)
    assert found.terminated.tolist() == [False] * (length - 1) + [True]
    assert found.begins.tolist() == [True] + [False] * (length - 1)
    state = slice(13, 16)  # of the privileged state: from the brick to the goal
    goal = found.observation["vector"][0][state] + start
    np.testing.assert_allclose(goal[:2], end[:2], atol=0.01)
    unchanged = slice(20, 40)  # joints
    np.testing.assert_allclose(found.observation["vector"][:, unchanged], np.stack(seen)[:length, unchanged])
    assert found.reward[-1] > RewardSettings().success_bonus / 2
    assert found.reward.sum() == pytest.approx(sum(rewards), abs=2.0)  # about as far to go, and as well done
    np.testing.assert_allclose(
        task.goal_position, first["vector"][state] + start, atol=1e-3
    )  # the episode's own goal is back
    env.close()


def test_an_episode_that_moves_nothing_has_no_hindsight() -> None:
    env = ExpertLessons(replace(STATE, task="push"), ExpertSettings()).environment()
    env.reset(seed=3)
    ended, info = False, dict[str, Any]()
    while not ended:
        _, _, terminated, truncated, info = env.step(np.zeros(3, np.float32))
        ended = terminated or truncated
    assert info["hindsight"] == []
    env.close()


@pytest.mark.parametrize("task_name", ["push", "place"])
def test_another_goal_may_ask_other_questions_of_an_episode(task_name: str) -> None:
    """At its own goal `place` asks for the gripper's opening, and away from it for the fingers' contacts."""
    env = ExpertLessons(replace(STATE, task=task_name), ExpertSettings(hindsight=4)).environment()
    plain = env.unwrapped
    assert isinstance(plain, ManipulationEnv)
    task = plain.world.task
    env.reset(seed=1)
    ended, info = False, dict[str, Any]()
    while not ended:
        teacher = task.teacher(plain.world, plain.behaviour.action)
        _, _, terminated, truncated, info = env.step(teacher)
        ended = terminated or truncated
    assert info["success"]
    assert info["hindsight"]
    env.close()


def test_a_recorded_scene_stays_as_it_was() -> None:
    env = ManipulationEnv("push", profile="none", observation="state")
    env.records_scenes = True
    env.reset(seed=0)
    scene, task = env.scene, env.world.task
    there = task.reward(scene, False)
    assert there == task.reward(env.world, False)
    for _ in range(20):
        env.step(task.teacher(env.world, env.behaviour.action))
    assert task.reward(scene, False) == there
    assert task.reward(env.scene, False) != there
    env.close()


def test_a_task_that_says_which_goal_a_scene_reaches_must_take_it() -> None:
    class Halved(GoalTask):
        pursue = Task.pursue

        def distance(self, scene: Any) -> float:
            return 1.0

        def reward(self, scene: Any, success: bool) -> float:
            return 0.0

    settings = load_task("push").settings
    with pytest.raises(ConfigurationError, match="Halved defines `reached_goal` without `pursue`"):
        Halved(settings)


def test_pink_noise_changes_slowly_and_is_as_large_as_white_noise() -> None:
    noise = pink_noise(np.random.default_rng(0), 256, 400)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    assert abs(noise.mean()) < 0.2
    neighbours = np.mean(noise[1:] * noise[:-1])
    assert 0.5 < neighbours < 0.9  # white noise: 0


# --- the expert ------------------------------------------------------------------------------------------------------


def test_the_critics_begin_at_the_value_of_random_play() -> None:
    lessons = expert_lessons()
    env = lessons.environment()
    learner, (space, action_size) = lessons.learner(env), shapes(env)
    buffer = ReplayBuffer(100, space, np.zeros(action_size, np.float32), 0.9)
    observation, _ = env.reset(seed=0)
    buffer.begin(observation)
    for _ in range(20):
        buffer.add(np.zeros(3, np.float32), -0.5, False, False, observation)
    initialise_values(learner, buffer)
    vector = torch.from_numpy(observation["vector"])[None]
    values = learner.critic(vector[:, :0], vector, torch.zeros(1, 3))
    wanted = -0.5 / (1 - learner.settings.discount)
    assert [value.item() for value in values] == pytest.approx([wanted, wanted], rel=0.15)
    env.close()


def test_an_expert_is_the_same_every_time_and_continues_where_it_stopped(tmp_path: Path) -> None:
    one = train_expert(expert_lessons(), 0, tmp_path / "one", quiet).policy
    other = train_expert(expert_lessons(), 0, tmp_path / "other", quiet).policy
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
    again = train_expert(expert_lessons(), 0, tmp_path / "one", quiet).policy  # has ended
    for name, value in one.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match="this training has 1"):
        train_expert(expert_lessons(), 1, tmp_path / "one", quiet)


def test_an_expert_that_wins_often_enough_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlfp_ros.learning.recipes.expert.JUDGED_EPISODES", 1)
    decisions: list[int] = []

    def show(done: int, text: str, **figures: float) -> None:
        decisions.append(done)

    train_expert(expert_lessons(steps=900, target_success=0.0), 0, tmp_path, show)
    assert decisions[-2] < 300  # the round in which the first episode ended


def test_the_policy_gets_less_random_as_it_wins_more() -> None:
    settings = ExpertSettings(final_entropy=-6.0)
    assert [settings.entropy_at(won, -2.0) for won in (0.0, 0.5, 0.75, 1.0)] == [-2.0, -2.0, -4.0, -6.0]


def test_an_expert_plays_some_episodes_as_it_is_deployed() -> None:
    def actions(share: float) -> list[np.ndarray]:
        player = expert_lessons(deployed_share=share).student()
        player.load(untrained_expert().policy.state_dict())
        observation, rng = player.environment.reset(seed=0)[0], np.random.default_rng(0)
        found = []
        for _ in range(2):
            player.begin(rng)
            found.append(player.act(observation, rng))
        player.environment.close()
        return found

    one, other = actions(1.0)
    np.testing.assert_array_equal(one, other)
    one, other = actions(0.0)
    assert np.abs(one - other).max() > 0.01


def test_a_replay_buffer_continues_from_its_checkpoint() -> None:
    space, action_size = shapes(MakePointMass()())
    rng = np.random.default_rng(0)

    def buffer() -> ReplayBuffer:
        return ReplayBuffer(50, space, np.zeros(action_size, np.float32), 0.9, steps=2)

    one, other = buffer(), buffer()
    observation = {"vector": np.zeros(4, np.float32)}
    one.begin(observation)
    for step in range(70):  # more than it holds
        after = {"vector": rng.normal(size=4).astype(np.float32)}
        one.add(rng.normal(size=2).astype(np.float32), float(step), step % 11 == 10, step % 13 == 12, after)
        if step % 11 == 10 or step % 13 == 12:
            one.begin(after)
    other.load_state_dict(one.state_dict())
    batch, same = one.sample(64, np.random.default_rng(1)), other.sample(64, np.random.default_rng(1))
    torch.testing.assert_close(batch.reward, same.reward)
    torch.testing.assert_close(batch.next_observation["vector"], same.next_observation["vector"])
    assert one.mean_reward() == other.mean_reward()


def test_the_recipes_modules_do_not_use_teacher_and_estimator() -> None:
    recipes = Path(__file__).parents[1] / "rlfp_ros" / "learning" / "recipes"
    for name in (
        "reinforcement",
        "expert",
        "student",
        "student_reinforcement",
        "episodes",
        "shaping",
        "hindsight",
        "perception",
        "train_encoder",
    ):
        text = (recipes / f"{name}.py").read_text()
        for forbidden in ("task.teacher", "recipes.estimator", "recipes.dagger", "recipes.imitation"):
            assert forbidden not in text, f"{name}.py has {forbidden}"


# --- the whole training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_with_a_reward_and_no_teacher_becomes_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parents[1] / "examples" / "my_task.py"
    plugin = tmp_path / "reward_alone.py"
    plugin.write_text(example.read_text().replace('"touch"', '"touch_alone"'))
    monkeypatch.setenv(plugins.VARIABLE, str(plugin))
    try:
        recipe = ReinforcementRecipe.for_task("touch_alone", "panda", "train", 0).shortened(SMALLEST_WORK)
        assert not load_task("touch_alone").has_teacher
        bundle = main(recipe, tmp_path / "bundle", tmp_path / "run", evaluation_episodes=1, observations=2)
        policy, action = bundle.contract.policy, bundle.contract.action
        assert (policy.past_actions, action.images_per_decision) == (9, 3)
        assert policy.state_size == StudentSettings().memory
        Policy(bundle, load_arm("panda"))  # repeats the golden frames
    finally:
        TASKS.remove("touch_alone")
