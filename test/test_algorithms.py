"""Tests of the algorithms: each key computation matches its paper, and each solves a small task in seconds."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from rlfp_ros.learning.algorithms import a3c, dqn, ppo, sac
from rlfp_ros.learning.algorithms.environments import LearningObservation, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, RunningNormaliser, SquashedGaussian
from rlfp_ros.learning.algorithms.point_mass import LIMIT, MakePointMass
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.runs.training_log import TrainingLog

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
