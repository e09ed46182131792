"""The recipe's reinforcement stage: critics that know the state, a teacher, a turned camera, and collectors."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rlfp_ros.contract import load_bundle  # noqa: E402
from rlfp_ros.learning.algorithms.environments import Environment, TaskEnvironment, shapes  # noqa: E402
from rlfp_ros.learning.algorithms.networks import SquashedGaussian  # noqa: E402
from rlfp_ros.learning.algorithms.point_mass import LIMIT, MakePointMass  # noqa: E402
from rlfp_ros.learning.algorithms.replay import ReplayBuffer  # noqa: E402
from rlfp_ros.learning.recipes.collector import Collectors, Seen  # noqa: E402
from rlfp_ros.learning.recipes.expert import remember  # noqa: E402
from rlfp_ros.learning.recipes.guided import (  # noqa: E402
    RECIPE_SAC,
    CameraTurn,
    Playground,
    ReinforcementSettings,
    recipe_learner,
    train_reinforcement,
)
from rlfp_ros.schema import ConfigurationError  # noqa: E402

POINTS = (1, 2, 3)  # stack, points, x y confidence
SPACE = gymnasium.spaces.Dict(
    {
        "vector": gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32),
        "privileged": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
    }
)


pytestmark = pytest.mark.usefixtures("seeded_torch")


def test_turning_the_camera_moves_points_as_projection_does() -> None:
    points = torch.tensor([[0.1, -0.2, 0.7, -0.15, 0.05, 0.9, 5.0]])
    torch.manual_seed(3)
    turned = CameraTurn(POINTS, 0.05)(points)
    torch.manual_seed(3)
    a, b, c = (0.05 * torch.randn(3, 1, 1)).flatten().tolist()
    rotation = torch.tensor([[1.0, -c, b], [c, 1.0, -a], [-b, a, 1.0]])
    for index in range(2):
        ray = rotation @ torch.tensor([points[0, 3 * index], points[0, 3 * index + 1], 1.0])
        torch.testing.assert_close(turned[0, 3 * index : 3 * index + 2], ray[:2] / ray[2])
    assert turned[0, [2, 5, 6]].tolist() == points[0, [2, 5, 6]].tolist()  # confidences, and what follows the points


def test_sampled_actions_have_the_likelihood_that_is_given() -> None:
    """Haarnoja et al. 2018, appendix C: checked by importance sampling."""
    with torch.no_grad():
        action, likelihood = SquashedGaussian(torch.tensor([[0.3, 0.2]]).expand(200_000, 2)).sample()
    # The mean of 1 / density over the samples inside a region is the region's size.
    edges = torch.quantile(action[:, 0], torch.tensor([0.02, 0.3, 0.7, 0.98])).tolist()
    for low, high in itertools.pairwise(edges):
        inside = (action[:, 0] >= low) & (action[:, 0] < high)
        size = (inside / likelihood.exp()).mean().item()
        assert size == pytest.approx(high - low, rel=0.02)


def test_privileged_critics_train_an_actor_that_sees_only_the_observation() -> None:
    """Episodes of one step; the reward is highest if the action equals what the observation shows."""
    sac = RECIPE_SAC.changed(hidden=32, batch=128, learning_rate=3e-3, actor_learning_rate=3e-3)
    learner = recipe_learner(SPACE, POINTS, 1, ReinforcementSettings(sac=sac, camera_turn=0.0))
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(10_000, SPACE, np.zeros(1, np.float32), 0.96)
    wanted = rng.uniform(-0.8, 0.8, 5000).astype(np.float32)
    for value, action in zip(wanted, rng.uniform(-1, 1, (5000, 1)).astype(np.float32), strict=True):
        seen = {"vector": np.repeat(value, 6), "privileged": np.repeat(value, 2)}
        buffer.begin(seen)
        buffer.add(action, -float((action[0] - value) ** 2), True, False, seen)
    learner.observe({name: buffer.kept(name) for name in ("vector", "privileged")})
    for _ in range(600):
        learner.update(learner.sample(buffer, rng))
    shown = torch.from_numpy(np.repeat(wanted[:500, None], 6, axis=1))
    with torch.no_grad():
        action = learner.policy({"vector": shown})[:, 0].numpy()
    assert np.abs(action - wanted[:500]).mean() < 0.15


def test_the_actor_waits_while_only_the_critics_learn() -> None:
    learner = recipe_learner(SPACE, POINTS, 1, ReinforcementSettings())
    buffer = ReplayBuffer(100, SPACE, np.zeros(1, np.float32), 0.96)
    seen = {"vector": np.ones(6, np.float32), "privileged": np.ones(2, np.float32)}
    buffer.begin(seen)
    for _ in range(20):
        buffer.add(np.zeros(1, np.float32), 1.0, False, False, seen)
    actor = [parameter.clone() for parameter in learner.actor.parameters()]
    critic = [parameter.clone() for parameter in learner.critic.parameters()]
    learner.update(learner.sample(buffer, np.random.default_rng(0)), train_actor=False)
    assert all(torch.equal(one, other) for one, other in zip(actor, learner.actor.parameters(), strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(critic, learner.critic.parameters(), strict=True))


# --- collectors ------------------------------------------------------------------------------------------------------


class Chaser:
    """Moves a point mass; its only weight is its speed. The teacher goes straight to the goal."""

    def __init__(self) -> None:
        self.environment: Environment = MakePointMass()()
        self._speed = 0.0

    def load(self, weights: dict[str, Any]) -> None:
        self._speed = weights["speed"]

    def begin(self, rng: np.random.Generator) -> None:
        pass

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        return np.full(2, self._speed)

    def teacher(self, observation: Seen) -> np.ndarray:
        point, goal = np.split(observation["vector"], 2)
        return np.clip((goal - point) / 0.2, -1, 1)


@dataclass(frozen=True)
class Chase:
    """Lessons; made in the collectors' processes."""

    def student(self) -> Chaser:
        return Chaser()


def test_collectors_play_the_same_rounds_every_time_and_each_its_own_episodes() -> None:
    def rounds() -> list[list[Any]]:
        with Collectors(Chase(), 2, seed=3) as collectors:
            played = []
            for speed, share in ((0.0, 1.0), (0.25, 0.0), (0.5, 0.0)):
                collectors.start_round({"speed": speed}, 2 * 40, share)
                played.append(collectors.finish_round())
        return played

    one, other = rounds(), rounds()
    for parts, again in zip(one, other, strict=True):
        for part, same in zip(parts, again, strict=True):
            np.testing.assert_array_equal(part.action, same.action)
            np.testing.assert_array_equal(part.observation["vector"], same.observation["vector"])
    first, second = one[0]
    assert (first.observation["vector"][0] != second.observation["vector"][0]).any()
    assert first.begins.nonzero()[0].tolist() == [0, LIMIT, 2 * LIMIT]
    assert not one[0][0].successes  # the teacher's episodes do not count
    assert one[1][0].begins.nonzero()[0].tolist() == [
        LIMIT - 8,
        2 * LIMIT - 8,
    ]  # the episode continues in the next round
    np.testing.assert_allclose(one[2][0].action[8:], 0.5)  # the weights of the round
    np.testing.assert_array_equal(one[1][0].observation["vector"][0], one[0][0].next_observation["vector"][-1])
    assert len(one[1][0].successes) + len(one[2][0].successes) >= 3


def test_experience_of_two_collectors_stays_apart_in_one_replay_buffer() -> None:
    space, action_size = shapes(MakePointMass()())
    buffer = ReplayBuffer(1000, space, np.zeros(action_size, np.float32), 0.9, steps=3, teacher=True)
    with Collectors(Chase(), 2, seed=0) as collectors:
        for _ in range(2):
            collectors.start_round({"speed": 0.25}, 2 * 40, 0.0)
            for part in collectors.finish_round():
                remember(buffer, part)
    batch = buffer.sample(500, np.random.default_rng(0))
    before, after = batch.observation["vector"], batch.next_observation["vector"]
    torch.testing.assert_close(before[:, 2:], after[:, 2:])  # the goal: no transition leads into another episode
    assert batch.teacher is not None
    torch.testing.assert_close(batch.teacher, ((before[:, 2:] - before[:, :2]) / 0.2).clamp(-1, 1))


def test_a_collector_that_dies_is_reported() -> None:
    with Collectors(Broken(), 1, seed=0) as collectors, pytest.raises(RuntimeError, match="died with exit code 1"):
        play_a_round(collectors)


def play_a_round(collectors: Collectors) -> None:
    collectors.start_round({}, 1, 0.0)
    collectors.finish_round()


@dataclass(frozen=True)
class Broken:
    """Lessons without a student."""

    def student(self) -> Chaser:
        raise OSError("no simulator here")


# --- the whole stage -------------------------------------------------------------------------------------------------


def playground(**changes: Any) -> Playground:
    encoder = load_bundle("reach_panda").file("encoder.onnx")
    make_env = TaskEnvironment("reach", profile="none", observation="features", encoder=encoder, privileged=True)
    settings = ReinforcementSettings(
        sac=RECIPE_SAC.changed(hidden=16, batch=32),
        steps=80,
        round_steps=20,
        first_rounds=2,
        imitation_updates=5,
        critic_first=0.0,
        selection_episodes=1,
    )
    return Playground(make_env, settings.changed(**changes))


def demonstrations(play: Playground) -> dict[str, Any]:
    space, action_size = shapes(play.make_env())
    size = (space["vector"].shape or ())[0]
    return {"vector": torch.randn(64, size), "teacher": torch.rand(64, action_size) * 2 - 1}


def test_the_privileged_state_is_for_the_critics_alone() -> None:
    env = playground().make_env()
    observation, info = env.reset(seed=1)
    state, proprioception = info["privileged_state"], 7 + 7 + 1 + 3 + 3
    goal = 3 + 1  # the point and its mask
    assert observation["privileged"].shape == (len(state) + proprioception + goal + 3,)
    np.testing.assert_array_equal(observation["privileged"][: len(state)], state)
    assert not observation["privileged"][-3:].any()  # the last action
    action = np.array([0.5, -0.5, 0.25], np.float32)
    np.testing.assert_array_equal(env.step(action)[0]["privileged"][-3:], action)
    learner = playground().learner(env)
    assert learner.actor.trunk.normaliser.mean.shape[0] == observation["vector"].size + 2 * 2 * 15  # relative points
    assert learner.critic.trunk.normaliser.mean.shape[0] == observation["privileged"].size
    env.close()


def test_the_stage_trains_and_resumes(tmp_path: Path) -> None:
    play = playground()
    texts: list[str] = []

    def show(done: int, text: str, **figures: float) -> None:
        texts.append(text)

    policy, rates = train_reinforcement(play, demonstrations(play), 0, tmp_path, show)
    assert set(rates) == {"imitation", "reinforcement"}
    assert any("critic loss" in text for text in texts)
    again, _ = train_reinforcement(play, demonstrations(play), 0, tmp_path, show)
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    with pytest.raises(ConfigurationError, match="this training has 1"):
        train_reinforcement(play, demonstrations(play), 1, tmp_path, show)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"teacher_share": 1.5}, "teacher_share is 1.5, but it should be less than or equal to 1"),
        ({"round_steps": 0}, "round_steps is 0, but it should be greater than or equal to 1"),
        ({"camera_turn": float("nan")}, "camera_turn is nan, but it should be a finite number"),
        ({"no_such": 1}, "no_such is not a known field"),
    ],
)
def test_settings_outside_their_bounds_give_one_sentence(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        ReinforcementSettings().changed(**change)
