"""Tests of the algorithms: each key computation matches its paper, and each solves a small task in seconds."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from python_process import run_python

pytest.importorskip("torch")

import torch
from torch import Tensor

from rlfp_ros import cli
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.learning.algorithms import a3c, dqn, ppo, sac
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS
from rlfp_ros.learning.algorithms.environments import LearningObservation, TaskEnvironment, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, RunningNormaliser, SquashedGaussian, batch_of_one
from rlfp_ros.learning.algorithms.point_mass import LIMIT, MakePointMass
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.algorithms.run import Plan, main, save_policy, score_of, settings_of
from rlfp_ros.learning.export.export import export_bundle
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile

SPACE, ACTIONS = shapes(MakePointMass()())
IMAGE_SHAPES, _ = shapes(MakePointMass(pixels=True, frame_stack=2)())


pytestmark = pytest.mark.usefixtures("seeded_torch")


def batch_of(space: gymnasium.spaces.Dict, size: int, action: Any) -> TransitionBatch:
    """Transitions of noise."""
    rng = np.random.default_rng(0)

    def observation() -> dict[str, Any]:
        seen = {}
        for name, box in space.spaces.items():
            assert box.shape is not None
            shape = (size, *box.shape)
            noise = (
                rng.integers(0, 256, shape, np.uint8) if name == "image" else rng.normal(size=shape).astype(np.float32)
            )
            seen[name] = torch.from_numpy(noise)
        return seen

    return TransitionBatch(observation(), action, torch.randn(size), torch.full((size,), 0.9), observation())


# --- PPO -------------------------------------------------------------------------------------------------------------


def test_generalised_advantages_are_the_papers_sum() -> None:
    """Schulman et al. 2016, equation 16: sum over l of (gamma lambda)^l delta_{t+l}, cut at the end of an episode."""
    steps, discount, trace = 12, 0.9, 0.8
    reward, value, following = torch.randn(3, steps)
    ended = torch.zeros(steps, dtype=torch.bool)
    ended[4] = ended[8] = True
    following[8] = 0.0  # terminal; step 4 was cut off by its time limit and has a value
    found = ppo.generalised_advantages(reward, value, following, ended, discount, trace)
    for start in range(steps):
        expected, weight = 0.0, 1.0
        for step in range(start, steps):
            expected += weight * float(reward[step] + discount * following[step] - value[step])
            weight *= discount * trace
            if ended[step]:
                break
        assert float(found[start]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1.0, False), (0.7, 1.0, True), (1.3, -1.0, True), (0.7, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_ppo_has_no_gradient_if_the_ratio_is_clipped(ratio: float, advantage: float, moves: bool) -> None:
    """Schulman et al. 2017, figure 1."""
    given = torch.tensor([ratio], requires_grad=True)
    ppo.clipped_loss(given, torch.tensor([advantage]), clip=0.2).backward()
    assert given.grad is not None
    assert float(given.grad) == pytest.approx(-advantage if moves else 0.0)


def test_ppo_bootstraps_after_a_time_limit_and_not_after_a_terminal_step() -> None:
    class Cut(gymnasium.Env[Any, np.ndarray]):
        """Ends after every third step, in turns by a time limit and by itself."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        count = 0

        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.array([self.count], np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.count += 1
            ends = self.count % 3 == 0
            late = self.count % 6 == 0
            return np.array([self.count], np.float32), 1.0, ends and late, ends and not late, {}

    env = LearningObservation(Cut())
    network = ActorCritic(shapes(env)[0], 1, 8, 0.0)
    settings = ppo.PpoSettings(reward_scale=1.0)
    rollout = ppo.Collector(env, settings, TrainingLog(), itertools.count(), 0).play(network, 8)
    assert rollout.ended.tolist() == [False, False, True, False, False, True, False, False]
    assert {step: seen["vector"].item() for step, seen in rollout.after.items()} == {2: 3.0, 7: 8.0}
    _, advantage, wanted = ppo.assess(network, rollout, settings.changed(trace=0.0))
    with torch.no_grad():
        value = network.evaluate({"vector": torch.arange(9.0)[:, None]})[1]
    # With lambda 0 what is wanted is the reward and the discounted value of what came next; 0 after step 5.
    expected = 1 + settings.discount * torch.where(torch.arange(8) == 5, 0.0, value[1:])
    torch.testing.assert_close(wanted, expected)
    torch.testing.assert_close(advantage, expected - value[:8])


# --- A3C -------------------------------------------------------------------------------------------------------------


def test_n_step_returns_end_with_the_piece_and_with_the_episode() -> None:
    """Mnih et al. 2016, algorithm S3."""
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    ended = torch.tensor([False, True, False, True, False, False])
    after = torch.tensor([9.0, 7.0, 9.0, 0.0, 9.0, 8.0])  # step 1: time limit, worth 7; step 3: terminal
    found = a3c.n_step_returns(reward, ended, after, 0.5)
    assert found.tolist() == [
        1 + 0.5 * (2 + 0.5 * 7),
        2 + 0.5 * 7,
        3 + 0.5 * 4,
        4,
        5 + 0.5 * (6 + 0.5 * 8),
        6 + 0.5 * 8,
    ]


def test_the_shared_step_is_the_papers_rmsprop() -> None:
    """Mnih et al. 2016, equations S2 and S3, twice in a row."""
    settings = a3c.A3cSettings(decay=0.9, smallest=0.01)
    shared = a3c.SharedLearner(
        ActorCritic(SPACE, ACTIONS, 8, 0.0), settings, torch.multiprocessing.get_context("forkserver")
    )
    weights, square = shared.weights.clone(), torch.zeros_like(shared.weights)
    for _ in range(2):
        gradient = torch.randn_like(weights)
        shared.apply(gradient, 0.1, settings)
        square = 0.9 * square + 0.1 * gradient**2
        weights = weights - 0.1 * gradient / torch.sqrt(square + 0.01)
    torch.testing.assert_close(shared.weights, weights)


def test_a3c_reports_a_worker_that_dies() -> None:
    with pytest.raises(RuntimeError, match="a worker died with exit code 1"):
        a3c.train(FailsInWorkers(), a3c.A3cSettings(), 320, 0, TrainingLog())


class FailsInWorkers(MakePointMass):
    """The first environment is built, in the trainer; a worker's is not."""

    def __call__(self) -> Any:
        if torch.multiprocessing.parent_process() is not None:
            raise OSError("no simulator here")
        return super().__call__()


# --- DQN -------------------------------------------------------------------------------------------------------------


def test_the_action_set_is_every_combination_of_levels() -> None:
    actions = dqn.action_set(3, 3)
    assert actions.shape == (27, 3)
    assert {tuple(row) for row in actions.tolist()} == {
        (x, y, z) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0) for z in (-1.0, 0.0, 1.0)
    }


def test_the_target_network_is_copied_now_and_then_and_stands_still_between() -> None:
    learner = dqn.DeepQLearner(SPACE, dqn.action_set(ACTIONS, 3), dqn.DqnSettings(hidden=8, copy_every=3))
    batch = batch_of(SPACE, 16, torch.randint(0, 9, (16,)))
    before = {name: value.clone() for name, value in learner.target.state_dict().items()}
    same = []
    for _ in range(4):
        learner.update(batch)
        same.append(
            (
                all(torch.equal(value, before[name]) for name, value in learner.target.state_dict().items()),
                all(
                    torch.equal(value, other)
                    for value, other in zip(learner.target.parameters(), learner.network.parameters(), strict=True)
                ),
            )
        )
    assert same == [(True, False), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize("double", [False, True])
def test_q_learning_target(double: bool) -> None:
    """Mnih et al. 2015: the target network's best. Van Hasselt et al. 2016: its value of the network's best."""
    learner = dqn.DeepQLearner(SPACE, dqn.action_set(ACTIONS, 3), dqn.DqnSettings(hidden=8, double=double))
    for parameter in learner.target.parameters():
        parameter.add_(torch.randn_like(parameter))
    batch = batch_of(SPACE, 16, torch.randint(0, 9, (16,)))
    with torch.no_grad():
        slow = learner.target.values(batch.next_observation)
        best = (learner.network.values(batch.next_observation) if double else slow).argmax(dim=1)
    expected = batch.reward + 0.9 * slow[torch.arange(16), best]
    torch.testing.assert_close(learner.targets(batch), expected)


def test_epsilon_falls_in_a_straight_line_and_stays() -> None:
    settings = dqn.DqnSettings(first_epsilon=1.0, last_epsilon=0.1, exploration=0.5)
    found = [dqn.epsilon(settings, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 0.55, 0.1, 0.1])


# --- SAC and DrQ -----------------------------------------------------------------------------------------------------


def test_sac_believes_the_smaller_of_two_critics() -> None:
    learner = sac.SoftActorCritic(SPACE, ACTIONS, sac.SacSettings(hidden=8))
    batch = batch_of(SPACE, 64, torch.rand(64, ACTIONS) * 2 - 1)
    torch.manual_seed(1)
    with torch.no_grad():
        vector = batch.next_observation["vector"]
        policy, _ = learner.actor(vector[:, :0], vector)
        action, likelihood = policy.sample()
        first, second = learner.target(vector[:, :0], vector, action)
        # Neither is to be above the other everywhere.
        learner.target.get_parameter(f"first.{len(learner.target.first) - 1}.bias").add_((second - first).median())
        torch.manual_seed(1)
        found = learner.targets(batch)
        first, second = learner.target(vector[:, :0], vector, action)
    assert (first < second).any()
    assert (second < first).any()
    smaller = torch.where(first < second, first, second) - learner.log_temperature.exp().detach() * likelihood
    torch.testing.assert_close(found, batch.reward + batch.discount * smaller)


@pytest.mark.parametrize(("entropy", "rises"), [(-5.0, True), (5.0, False)])
def test_temperature_rises_when_there_is_too_little_entropy(entropy: float, rises: bool) -> None:
    learner = sac.SoftActorCritic(SPACE, ACTIONS, sac.SacSettings(hidden=8))
    assert learner.target_entropy == -ACTIONS
    before = learner.log_temperature.item()
    learner.temperature_loss(torch.tensor(entropy)).backward()
    learner.temperature_optimizer.step()
    assert (learner.log_temperature.item() > before) == rises


def test_action_likelihood_is_that_of_a_squashed_gaussian() -> None:
    """Haarnoja et al. 2018, appendix C, against torch's own distributions."""
    policy = SquashedGaussian(0.3 * torch.randn(50, 2 * ACTIONS))
    action, likelihood = policy.sample()
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(policy.mean, policy.log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(squashed.log_prob(action).sum(dim=-1), likelihood, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(policy.mode(), policy.mean.tanh())


def test_only_the_critics_teach_the_encoder_and_the_target_follows_slowly() -> None:
    learner = sac.SoftActorCritic(IMAGE_SHAPES, ACTIONS, sac.SacSettings(hidden=8, target_rate=0.1))
    optimised = {id(p) for group in learner.actor_optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(parameter) for parameter in learner.encoder.parameters()}
    before = [parameter.clone() for parameter in learner.target.parameters()]
    encoder = [parameter.clone() for parameter in learner.encoder.parameters()]
    learner.update(batch_of(IMAGE_SHAPES, 8, torch.rand(8, ACTIONS)))
    assert all(not torch.equal(old, new) for old, new in zip(encoder, learner.encoder.parameters(), strict=True))
    for old, new, fast in zip(before, learner.target.parameters(), learner.critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * fast)


def test_drq_averages_targets_over_augmented_copies() -> None:
    """Yarats et al. 2021, equation 2: the mean of the targets of K augmentations, each of the whole batch."""
    settings = sac.SacSettings(hidden=8, target_augmentations=3, augmentation="noise")
    learner = sac.SoftActorCritic(IMAGE_SHAPES, ACTIONS, settings)
    batch = batch_of(IMAGE_SHAPES, 4, torch.rand(4, ACTIONS))
    seen: list[Tensor] = []
    noise = learner.augment

    def noted(images: Tensor) -> Tensor:
        seen.append(noise(images))
        return seen[-1]

    learner.augment = noted
    torch.manual_seed(1)
    found = learner.targets(batch)
    assert seen[0].shape[0] == 12
    torch.manual_seed(1)
    noise(torch.cat([batch.next_observation["image"]] * 3))  # draws what the learner's augmentation drew
    vector = batch.next_observation["vector"]
    with torch.no_grad():
        maps = learner.encoder({"image": seen[0], "vector": vector.repeat(3, 1)})
        action, likelihood = learner.actor(maps, vector.repeat(3, 1))[0].sample()
        targets = []
        for copy in range(3):
            part = slice(4 * copy, 4 * copy + 4)
            value = torch.min(*learner.target(maps[part], vector, action[part]))
            targets.append(batch.reward + 0.9 * (value - learner.log_temperature.exp() * likelihood[part]))
    torch.testing.assert_close(found, torch.stack(targets).mean(dim=0))


# --- experience ------------------------------------------------------------------------------------------------------


def played(steps: int, capacity: int, n: int, frame_stack: int = 3) -> tuple[ReplayBuffer, list[Any]]:
    """A buffer, and for every transition: observation, and the n steps from it by brute force."""
    env = MakePointMass(pixels=True, frame_stack=frame_stack)()
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity, shapes(env)[0], np.zeros(2, np.float32), 0.9, n)
    observation, _ = env.reset(seed=0)
    buffer.begin(observation)
    rows: list[Any] = []
    for step in range(steps):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        after, reward, _, truncated, _ = env.step(action)
        terminated = truncated and step % (2 * LIMIT) > LIMIT  # every second episode ends by itself
        buffer.add(action, float(reward), terminated, truncated and not terminated, after)
        rows.append((observation, action, reward, terminated, truncated, after))
        observation = after
        if truncated:
            observation, _ = env.reset()
            buffer.begin(observation)
    return buffer, rows


@pytest.mark.parametrize("capacity", [200, 40])
def test_replay_puts_stacks_and_n_step_returns_together(capacity: int) -> None:
    """Also once the buffer has gone round: what it gives is what the environment gave."""
    buffer, rows = played(steps=100, capacity=capacity, n=3)
    batch = buffer.sample(256, np.random.default_rng(1))
    by_action = {row[1].tobytes(): index for index, row in enumerate(rows)}
    seen = set()
    for pick in range(256):
        first = by_action[batch.action[pick].numpy().tobytes()]
        seen.add(first)
        expected, discount, step = 0.0, 1.0, first
        while True:
            _, _, reward, terminated, truncated, after = rows[step]
            expected += discount * reward
            discount *= 0.9 * (not terminated)
            if truncated or step - first == 2 or step + 1 == len(rows):
                break
            step += 1
        assert batch.reward[pick].item() == pytest.approx(expected, abs=1e-5)
        assert batch.discount[pick].item() == pytest.approx(discount)
        for name in ("image", "vector"):
            np.testing.assert_array_equal(batch.observation[name][pick], rows[first][0][name])
            np.testing.assert_array_equal(batch.next_observation[name][pick], after[name])
    assert len(seen) > (80 if capacity == 200 else 28)  # nothing that is there is left out


def test_an_episodes_first_frame_fills_the_stack_and_the_newest_is_last() -> None:
    env = MakePointMass(pixels=True, frame_stack=3)()
    first, _ = env.reset(seed=0)
    assert first["image"].shape == (16, 16, 9)
    for part in (0, 3):
        np.testing.assert_array_equal(first["image"][..., part : part + 3], first["image"][..., 6:])
    second, *_ = env.step(np.ones(2, np.float32))
    np.testing.assert_array_equal(second["image"][..., :6], first["image"][..., 3:])
    assert (second["image"][..., 6:] != first["image"][..., 6:]).any()
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again["image"], first["image"])


def test_running_statistics_are_those_of_all_that_was_seen() -> None:
    values = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -2.0])
    normaliser = RunningNormaliser(3)
    for part in values.split([1, 7, 92, 400]):
        normaliser.observe(part)
    torch.testing.assert_close(normaliser.mean, values.mean(dim=0))
    torch.testing.assert_close(normaliser.variance, values.var(dim=0, unbiased=False))
    normal = normaliser(values)
    torch.testing.assert_close(normal.std(dim=0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


# --- learning --------------------------------------------------------------------------------------------------------

QUICK = {
    "sac": (
        sac.SacSettings(hidden=32, batch=64, first_steps=200, learning_rate=3e-3, discount=0.9, reward_scale=1.0),
        1_600,
    ),
    "ppo": (ppo.PpoSettings(hidden=32, rollout=512, discount=0.9, reward_scale=1.0), 8_000),
    "dqn": (
        dqn.DqnSettings(
            hidden=32,
            batch=64,
            first_steps=200,
            learning_rate=2e-3,
            discount=0.9,
            copy_every=100,
            levels=5,
            reward_scale=1.0,
        ),
        5_000,
    ),
    "a3c": (a3c.A3cSettings(hidden=32, learning_rate=3e-3, discount=0.9), 12_800),
    "a2c": (a3c.A3cSettings(hidden=32, learning_rate=3e-3, discount=0.9, synchronous=True), 12_800),
}


@pytest.mark.parametrize("name", list(QUICK))
def test_each_algorithm_learns_to_move_a_point_to_its_goal(name: str) -> None:
    """The deployed action ends within 0.15 of goals in a square of side 2; a point that stays, 1 in 30."""
    settings, steps = QUICK[name]
    agent = ALGORITHMS[name].train(MakePointMass(), settings, steps, 0, TrainingLog()).eval()
    assert score_of(MakePointMass(), agent, range(50)).successes >= 35


def test_sac_learns_as_it_did_before_it_also_became_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and entropies of the implementation before, with the same seeds; they were equal to all digits."""
    figures: list[dict[str, float]] = []
    update = sac.SoftActorCritic.update

    def recorded(learner: Any, *given: Any) -> dict[str, float]:
        figures.append(update(learner, *given))
        return figures[-1]

    monkeypatch.setattr(sac.SoftActorCritic, "update", recorded)
    monkeypatch.setattr(sac, "episode_seeds", lambda *_: itertools.count(5))
    settings = sac.SacSettings(hidden=32, batch=64, first_steps=100, discount=0.9, reward_scale=1.0)
    log = TrainingLog()
    sac.train(MakePointMass(), settings, 400, 0, log)
    assert len(figures) == 306
    found = [(figures[row]["critic_loss"], figures[row]["entropy"]) for row in (0, 50, 100)]
    for one, before in zip(found, [(2.91812, -1.64327), (0.2661, 1.07974), (0.08781, 1.05)], strict=True):
        assert one == pytest.approx(before, rel=0.02)
    assert sum(episode.episode_return for episode in log.episodes) == pytest.approx(-352.4, abs=10)


@pytest.mark.parametrize("name", ["sac", "ppo", "dqn", "a3c"])
def test_each_algorithm_takes_stacked_images(name: str) -> None:
    settings = ALGORITHMS[name].settings.changed(hidden=8)
    if name in ("sac", "dqn"):
        settings = settings.changed(batch=8, first_steps=20)
    if name == "ppo":
        settings = settings.changed(rollout=32, batch=8, epochs=1, augmentation="shift")
    maker = MakePointMass(pixels=True, frame_stack=2)
    agent = ALGORITHMS[name].train(maker, settings, 64, 0, TrainingLog())
    observation, _ = maker().reset(seed=0)
    assert observation["image"].shape == (16, 16, 6)
    with torch.no_grad():
        action = agent(batch_of_one(observation))
    assert action.shape == (1, 2)
    assert (action.abs() <= 1).all()


@pytest.mark.parametrize("name", ["sac", "ppo", "dqn", "a2c"])
def test_a_training_is_repeatable_and_continues_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    settings = ALGORITHMS[name].settings.changed(hidden=8)
    if name in ("sac", "dqn"):
        settings = settings.changed(batch=8, first_steps=20)
    if name == "ppo":
        settings = settings.changed(rollout=32)
    train = ALGORITHMS[name].train
    log = TrainingLog(tmp_path, {"seed": 0})
    first = train(MakePointMass(), settings, 96, 0, log).state_dict()
    log.close()
    second = train(MakePointMass(), settings, 96, 0, TrainingLog()).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    again = TrainingLog(tmp_path, {"seed": 0})
    assert again.resumed is not None
    assert again.resumed["step"] == 96
    assert again.episodes == log.episodes
    third = train(MakePointMass(), settings, 128, 0, again).state_dict()
    again.close()
    assert len(again.episodes) == 128 // LIMIT
    counts = [state[name].item() for state in (first, third) for name in state if name.endswith("normaliser.count")]
    assert counts[-1] == counts[0] + 32  # the statistics went on too
    with pytest.raises(ConfigurationError, match="seed 0, this training has 1"):
        TrainingLog(tmp_path, {"seed": 1})


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_on_the_arm_and_leaves_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.MIN_STEPS", 1)
    run = tmp_path / "run"
    words = [
        "train",
        "reach",
        "--algorithm",
        "ppo",
        "--steps",
        "40",
        "--profile",
        "none",
        "--image-size",
        "16",
        "--frame-stack",
        "2",
        "--set",
        "rollout=20",
        "--set",
        "augmentation=shift",
        "--run",
        str(run),
        "--evaluation-episodes",
        "1",
    ]
    assert cli.main(words) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["settings"]["rollout"] == 20
    assert [(found["profile"], found["episodes"]) for found in result["evaluation"]] == [("none", 1), ("train", 1)]
    policy = torch.load(run / "policy.pt", weights_only=True)["agent"]
    assert policy["encoder.convolutions.0.weight"].shape[1] == 6
    assert cli.main(words) == 2  # the folder is taken
    assert cli.main([*words, "--resume"]) == 0


def test_features_come_from_a_bundles_encoder_and_hold_nothing_of_the_simulators_state() -> None:
    encoder = load_bundle("reach_panda").directory / "encoder.onnx"
    env = TaskEnvironment("reach", profile="none", observation="features", encoder=encoder)()
    observation, _ = env.reset(seed=5)
    assert list(observation) == ["vector"]
    world: Any = env.unwrapped
    before = world.observe()
    world.world.task.privileged_state = lambda _: 1 / 0  # a use of it raises
    after = world.observe()
    np.testing.assert_array_equal(before["features"], after["features"])
    proprioception = 7 + 7 + 1 + 3 + 3  # joints, their speeds, gripper, tool, where the tool points
    assert observation["vector"].shape == (2 * 16 * 3 + proprioception + 3 + 1,)
    env.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"algorithm": "ddpg"}, "algorithm is 'ddpg', expected one of: a2c, a3c, dqn, ppo, sac"),
        ({"observation": "sound"}, "observation is 'sound', but it should be 'pixels', 'features' or 'state'"),
        ({"steps": 10}, "steps is 10, too few to train anything; give at least 2000"),
        ({"encoder": "reach_panda"}, "--observation is 'pixels'; only features have an encoder"),
        ({"task": "juggle"}, "juggle"),
        ({"profile": "no_such"}, "no_such: no such file"),
        ({"settings": ("augmentation=blur",)}, "augmentation is 'blur', but it should be none or one of: shift"),
        ({"seed": -1}, "plan: seed is -1, but it should be greater than or equal to 0"),
        ({"seed": 10_000}, "plan: seed is 10000, but it should be less than or equal to 9999"),
        ({"image_size": -4}, "image_size is -4, but it should be greater than or equal to 8"),
        ({"steps": 10**8}, "steps is 100000000, but it should be less than or equal to 10000000"),
        ({"settings": ("colour=red",)}, "--set colour=red: ppo has no 'colour'; it has: hidden"),
        ({"settings": ("batch=many",)}, "--set: batch is 'many', but it should be a valid integer"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_is_written(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        main(Plan(algorithm="ppo", task="reach").changed("plan", **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_are_given_by_name() -> None:
    settings = settings_of(
        Plan(algorithm="dqn", task="reach", settings=("double=false", "batch=64", "learning_rate=0.01"))
    )
    assert isinstance(settings, dqn.DqnSettings)
    assert (settings.double, settings.batch, settings.learning_rate) == (False, 64, 0.01)


def test_out_is_refused_if_there_is_no_encoder_to_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "reach", "--algorithm", "sac", "--out", "models/x"]) == 2
    assert "a policy from pixels has no encoder that a bundle could hold" in capsys.readouterr().err


def test_a_policy_from_features_ships_in_a_bundle_and_acts_as_it_did(tmp_path: Path) -> None:
    plan = Plan(algorithm="dqn", task="reach", observation="features")
    encoder = load_bundle("reach_panda").file("encoder.onnx")
    make_env = TaskEnvironment("reach", profile="none", observation="features", encoder=encoder)
    settings = dqn.DqnSettings(hidden=8, batch=8, first_steps=10)
    agent = dqn.train(make_env, settings, 24, 0, TrainingLog()).eval()
    save_policy(plan, agent, tmp_path / "run")
    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle", evaluation_episodes=0, observations=20)
    assert bundle.contract.name == "dqn_reach_panda"
    assert bundle.contract.evaluation == ()
    rollout = Rollout(bundle, load_profile("none"))  # deployment's own perception and policy
    residuals = rollout.play(seed=1).residuals[:10]
    rollout.close()
    env = make_env()
    observation, _ = env.reset(seed=1)
    for residual in residuals:
        with torch.no_grad():
            action = agent(batch_of_one(observation))[0].numpy()
        np.testing.assert_allclose(residual.twist[:3], action * bundle.contract.action.scale, atol=1e-5)
        observation, *_ = env.step(action)
    env.close()


@pytest.mark.parametrize(
    ("algorithm", "change", "expected"),
    [
        ("ppo", "clip=-0.2", "clip is '-0.2', but it should be greater than 0"),
        ("ppo", "discount=1.5", "discount is '1.5', but it should be less than or equal to 1"),
        ("ppo", "learning_rate=nan", "learning_rate is 'nan', but it should be a finite number"),
        ("ppo", "epochs=0", "epochs is '0', but it should be greater than or equal to 1"),
        ("dqn", "levels=1", "levels is '1', but it should be greater than or equal to 2"),
        ("a3c", "workers=1000", "workers is '1000', but it should be less than or equal to 100"),
        ("sac", "target_rate=0", "target_rate is '0', but it should be greater than 0"),
        ("sac", "reward_scale=inf", "reward_scale is 'inf', but it should be a finite number"),
    ],
)
def test_a_setting_outside_its_bounds_gives_one_sentence(
    algorithm: str, change: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "reach", "--algorithm", algorithm, "--set", change, "--run", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert f"rlfp: --set: {expected}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "reach", "--algorithm", "ppo", "--seed", "-1"], "seed is -1, but it should be greater"),
        (["train", "reach", "--seed", "-1"], "--seed is -1, expected 0 to 9999"),
        (["evaluate", "reach_panda", "--seed", "-1"], "--seed is -1 for 200 episodes, expected 0 to 999800"),
        (["evaluate", "reach_panda", "--seed", "1000000"], "other seeds belong to trainings"),
        (["preview", "--seed", "-3"], "--seed is -3 for 36 episodes"),
        (["demo", "--seed", "-3"], "--seed is -3 for 10 episodes"),
    ],
)
def test_seeds_that_trainings_could_meet_are_refused_everywhere(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert expected in capsys.readouterr().err


def test_all_settings_of_all_algorithms_have_bounds() -> None:
    """A number without a bound trains in silence with nonsense."""
    unbounded = {
        (name, setting)
        for name in ALGORITHMS
        for setting, field in type(ALGORITHMS[name].settings).model_fields.items()
        if isinstance(getattr(ALGORITHMS[name].settings, setting), float | int)
        and not isinstance(getattr(ALGORITHMS[name].settings, setting), bool)
        and not field.metadata
    }
    assert unbounded == set()


PLUGIN = """
import torch
from pydantic import Field
from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.environments import episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import batch_of_one, layers
from rlfp_ros.learning.runs.settings import TrainingSettings


class SearchSettings(TrainingSettings):
    spread: float = Field(0.1, gt=0)


class Linear(torch.nn.Module):
    def __init__(self, inputs, actions):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, actions)

    def forward(self, observation):
        return torch.tanh(self.layer(observation["vector"]))


@algorithm("search", SearchSettings(), steps=2_000)
def train(make_env, settings, steps, seed, log):
    torch.manual_seed(seed)
    env = make_env()
    space, actions = shapes(env)
    policy, ended, step = Linear(space["vector"].shape[0], actions), False, 0
    observation, _ = env.reset(seed=next(episode_seeds(seed)))
    while not ended and step < 20:
        with torch.no_grad():
            action = policy(batch_of_one(observation))[0].numpy()
        observation, _, terminated, truncated, info = env.step(action)
        step, ended = step + 1, terminated or truncated
    env.close()
    return policy
"""


@pytest.mark.slow
def test_a_users_algorithm_in_a_file_trains_by_its_name(tmp_path: Path) -> None:
    """In a process of its own, because a registry keeps what it once loaded."""
    (tmp_path / "my_search.py").write_text(PLUGIN)
    words = [
        "train",
        "reach",
        "--plugin",
        str(tmp_path / "my_search.py"),
        "--algorithm",
        "search",
        "--profile",
        "none",
        "--observation",
        "state",
        "--set",
        "spread=0.2",
        "--run",
        str(tmp_path / "run"),
        "--evaluation-episodes",
        "1",
    ]
    done = run_python("-m", "rlfp_ros.cli", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"] == {"spread": 0.2}
    assert result["plan"]["algorithm"] == "search"
    wrong = run_python("-m", "rlfp_ros.cli", *[word.replace("spread=0.2", "spread=-1") for word in words[:-4]])
    assert wrong.returncode == 2
    assert "spread is '-1', but it should be greater than 0" in wrong.stderr


def test_a_policy_for_a_task_with_a_goal_keeps_it_though_its_encoder_had_none(tmp_path: Path) -> None:
    """The contract is that of the task that was trained, not of the bundle that the encoder comes from."""
    plan = Plan(algorithm="dqn", task="push", observation="features", encoder="reach_panda")
    assert load_bundle("reach_panda").contract.goal == "none"
    space = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(-1, 1, (2 * 16 * 3 + 21 + 4,), np.float32)})
    save_policy(plan, dqn.QNetwork(space, dqn.action_set(3, 3), 8), tmp_path)
    contract = json.loads((tmp_path / "trained" / "trained.json").read_text())["contract"]
    assert (contract["task"], contract["goal"]) == ("push", "point")


# --- a full disk -----------------------------------------------------------------------------------------------------


FSYNC = os.fsync


class FullDisk:
    """Refuses to write once `after` more files have been written whole."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, handle: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        FSYNC(handle)


@pytest.mark.parametrize(
    ("written", "file"),
    [(0, "plan.json"), (1, "checkpoint.pt"), (2, "seconds.txt"), (3, "policy.pt"), (4, "result.json")],
)
def test_a_full_disk_is_one_sentence_and_the_training_resumes(
    written: int, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file meets it: none is left half written, and --resume ends the training as if nothing had been."""
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.MIN_STEPS", 1)
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.TaskEnvironment", PointTask)
    plan = Plan(algorithm="ppo", task="reach", observation="state", profile="train", steps=64, settings=("rollout=64",))
    run = tmp_path / "run"
    monkeypatch.setattr(os, "fsync", FullDisk(written))
    expected = rf"{file}: cannot be written \(No space left on device\); free space on its disk, then "
    with pytest.raises(ConfigurationError, match=expected):
        main(plan, run, evaluation_episodes=1)
    monkeypatch.setattr(os, "fsync", FSYNC)
    assert not list(run.glob(".*"))
    result = main(plan, run, resume=True, evaluation_episodes=1)
    assert json.loads((run / "result.json").read_text())["steps"] == result["steps"] == 64
    assert torch.load(run / "policy.pt", weights_only=True)["agent"]


@dataclass(frozen=True)
class PointTask:
    """A point mass with the arguments of a TaskEnvironment."""

    task: str
    arm: str
    profile: str
    observation: str
    image_size: int
    frame_stack: int
    encoder: Path | None

    def __call__(self) -> Any:
        return MakePointMass()()


class FillingDisk(io.BytesIO):
    """A file on a disk that takes its first few hundred bytes."""

    def write(self, data: Any) -> int:
        if self.tell() > 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_curve_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's own writer leaves it to a thread."""
    monkeypatch.setattr(Path, "open", lambda *_: FillingDisk())
    log = TrainingLog(tmp_path, {})
    curve = {f"loss_{number}": 1.0 for number in range(20)}
    with pytest.raises(ConfigurationError, match=r"tfevents.*cannot be written \(No space left on device\)"):
        log.figures(1, **curve)
