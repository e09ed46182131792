"""Tests of the policy's memory: it distinguishes states that one image does not show, and learns through time."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from rlfp_ros.learning.algorithms.networks import GaussianActor, Trunk  # noqa: E402
from rlfp_ros.learning.algorithms.recurrent import transitions, unroll  # noqa: E402
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, SequenceBatch  # noqa: E402
from rlfp_ros.learning.algorithms.sac import SacPolicy, SoftActorCritic  # noqa: E402
from rlfp_ros.learning.recipes.guided import (  # noqa: E402
    RECIPE_SAC,
    ReinforcementSettings,
    recipe_learner,
    sequence_loss,
)


def box(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)


POINTS = (1, 2, 3)  # stack, points, x y confidence
SPACE = gymnasium.spaces.Dict({"vector": box(6), "privileged": box(2)})
SAC = RECIPE_SAC.changed(
    hidden=32, memory=16, sequence=8, burn_in=2, learning_rate=3e-3, actor_learning_rate=3e-3, discount=0.1
)
SETTINGS = ReinforcementSettings(sac=SAC, camera_turn=0.0)


pytestmark = pytest.mark.usefixtures("seeded_torch")


def episodes(count: int, length: int, rng: np.random.Generator) -> ReplayBuffer:
    """Only an episode's first step shows which way to go; what is right stays the same to its end."""
    buffer = ReplayBuffer(count * (length + 1), SPACE, np.zeros(1, np.float32), SAC.discount, teacher=True)
    for way in rng.choice([-0.8, 0.8], count):

        def seen(step: int, way: float = way) -> dict[str, np.ndarray]:
            vector = np.array([way if step == 0 else 0.0, 0, 0, 0, 0, step], np.float32)
            return {"vector": vector, "privileged": np.array([way, 0], np.float32)}

        buffer.begin(seen(0))
        for step in range(1, length + 1):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            reward = -float((action[0] - way) ** 2)
            buffer.add(action, reward, step == length, False, seen(step), np.array([way], np.float32))
    return buffer


def played(policy: SacPolicy, way: float, length: int) -> list[float]:
    state, actions = torch.zeros(1, policy.state_size), []
    for step in range(length):
        vector = torch.tensor([[way if step == 0 else 0.0, 0, 0, 0, 0, step]])
        with torch.no_grad():
            action, state = policy.step({"vector": vector}, state)
        actions.append(action.item())
    return actions


@pytest.mark.parametrize("how", ["imitation", "reinforcement"])
def test_an_actor_with_memory_uses_information_that_only_the_first_image_showed(how: str) -> None:
    rng = np.random.default_rng(0)
    buffer = episodes(400, 5, rng)
    learner = recipe_learner(SPACE, POINTS, 1, SETTINGS)
    learner.observe({name: buffer.kept(name) for name in ("vector", "privileged")})
    for _ in range(120 if how == "imitation" else 200):
        if how == "imitation":
            learner.gradient_step(learner.actor_optimizer, sequence_loss(learner, buffer, rng))
        else:
            learner.update(learner.sample(buffer, rng))
    for way in (-0.8, 0.8):
        assert played(learner.policy, way, 5)[1:] == pytest.approx([way] * 4, abs=0.25)


def remember(inputs: Tensor, state: Tensor) -> Tensor:
    """A memory whose values are easily followed."""
    return 0.5 * state + inputs[:, :4]


def test_memory_ends_with_its_episode() -> None:
    """Unrolled over two episodes in a row, each step's memory is what playing that episode alone gives."""
    inputs = torch.randn(1, 7, 6)
    starts = torch.tensor([[True, False, False, True, False, False, False]])
    before = unroll(remember, inputs, starts, torch.ones(1, 4), 0)
    for first, last in ((0, 3), (3, 7)):
        state = torch.zeros(1, 4)
        for step in range(first, last):
            torch.testing.assert_close(before[:, step], state)
            state = remember(inputs[:, step], state)


def test_the_burn_in_is_not_learnt_from() -> None:
    actor = GaussianActor(Trunk(0, 6), 1, 16, 4)
    assert actor.cell is not None
    inputs = torch.randn(1, 6, 6, requires_grad=True)
    before = unroll(actor.cell, inputs, torch.zeros(1, 6, dtype=torch.bool), torch.zeros(1, 4), 3)
    before[:, 5].sum().backward()
    gradient: Tensor = inputs.grad.abs().sum(dim=-1)[0]
    assert gradient[:3].max() == 0
    assert gradient[3:5].min() > 0


def test_sequences_are_consecutive_and_their_transitions_stay_inside_an_episode() -> None:
    rng = np.random.default_rng(0)
    buffer = episodes(20, 10, rng)
    sequences = buffer.sample_sequences(200, 7, rng)
    step = sequences.observation["vector"][..., 5]
    torch.testing.assert_close((step[:, 1:] - step[:, :-1]) % 11, torch.ones(200, 7))  # 11 frames an episode
    assert torch.equal(sequences.starts, step == 0)
    assert torch.equal(sequences.joined, step[:, :-1] != 10)
    batch = transitions(sequences, torch.zeros(200, 8, 4), burn_in=2)
    assert len(batch.reward) == int(sequences.joined[:, 2:].sum())
    torch.testing.assert_close(batch.next_observation["vector"][:, 5], batch.observation["vector"][:, 5] + 1)
    assert torch.equal(batch.discount == 0, batch.next_observation["vector"][:, 5] == 10)


def test_one_turn_of_the_camera_holds_for_a_whole_sequence() -> None:
    learner = recipe_learner(SPACE, POINTS, 1, SETTINGS.changed(camera_turn=0.05))
    vector = torch.tensor([0.1, -0.2, 0.7, -0.15, 0.05, 0.9]).repeat(3, 5, 1)
    turned = learner.augment_vector(vector)
    torch.testing.assert_close(turned, turned[:, :1].expand_as(turned))
    assert (turned[0, 0] - turned[1, 0]).abs().max() > 1e-4


def test_an_actor_with_memory_learns_from_pixels_too() -> None:
    space = gymnasium.spaces.Dict({"vector": box(2), "image": gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    settings = SAC.changed(batch=16, augmentation="shift")
    learner, rng = SoftActorCritic(space, 1, settings), np.random.default_rng(0)
    images = torch.randint(0, 256, (2, 9, 16, 16, 3), dtype=torch.uint8)
    sequences = SequenceBatch(
        {"vector": torch.randn(2, 9, 2), "image": images},
        torch.rand(2, 8, 1),
        torch.randn(2, 8),
        torch.full((2, 8), 0.9),
        torch.zeros(2, 9, dtype=torch.bool),
        torch.ones(2, 8, dtype=torch.bool),
    )
    cell = learner.actor.cell
    assert cell is not None
    before = cell.weight_hh.detach().clone()
    figures = learner.update(sequences)
    assert all(np.isfinite(value) for value in figures.values())
    assert not torch.equal(before, cell.weight_hh)
    action, state = learner.policy.explore(
        {"vector": rng.normal(size=2).astype(np.float32), "image": images[0, 0].numpy()}, None
    )
    assert action.shape == (1,)
    assert state.shape == (1, 16)
