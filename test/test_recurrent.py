"""Memory: it tells apart what one picture does not and learns through time; test_export has its way to a bundle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from rlfp_ros.learning.recipes.privileged_sac import Actor, ReplayBuffer, SacSettings, SoftActorCritic  # noqa: E402
from rlfp_ros.learning.recipes.recurrent import RecurrentActor  # noqa: E402

POINTS = (1, 2, 3)  # stack, points, x y confidence
SIZES = {"observation": 6, "state": 2, "action": 1, "teacher": 1, "reward": 1, "next_observation": 6, "next_state": 2,
         "terminated": 1}  # fmt: skip
SETTINGS = SacSettings(
    hidden=32, memory=16, sequence=8, burn_in=2, camera_turn=0.0, imitation_learning_rate=3e-3, learning_rate=3e-3,
    actor_learning_rate=3e-3, critic_first=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def episodes(count: int, length: int, rng: np.random.Generator) -> ReplayBuffer:
    """Only an episode's first step shows which way to go; what is right stays the same to its end."""
    rows = {name: np.zeros((count, length, size), np.float32) for name, size in SIZES.items()}
    way = rng.choice([-0.8, 0.8], count)
    rows["observation"][:, 0, 0] = way
    rows["observation"][:, :, 5] = np.arange(length)
    rows["next_observation"][:, :-1] = rows["observation"][:, 1:]
    rows["next_observation"][:, -1, 5] = length
    rows["teacher"][..., 0] = way[:, None]
    rows["action"] = rng.uniform(-1, 1, rows["action"].shape).astype(np.float32)
    rows["reward"] = -((rows["action"] - rows["teacher"]) ** 2)
    rows["state"][..., 0] = rows["next_state"][..., 0] = way[:, None]
    rows["terminated"][:, -1] = 1
    buffer = ReplayBuffer(count * length, SIZES)
    buffer.add({name: values.reshape(count * length, -1) for name, values in rows.items()})
    return buffer


def played(actor: Actor, way: float, length: int) -> list[float]:
    state, actions = torch.zeros(1, actor.state_size), []
    for step in range(length):
        observation = torch.tensor([[way if step == 0 else 0.0, 0, 0, 0, 0, step]])
        with torch.no_grad():
            mean, _, state = actor.step(observation, state)
        actions.append(torch.tanh(mean).item())
    return actions


@pytest.mark.parametrize("how", ["imitation", "reinforcement"])
def test_an_actor_with_memory_keeps_to_what_only_the_first_picture_showed(how: str) -> None:
    rng = np.random.default_rng(0)
    buffer = episodes(400, 5, rng)
    settings = SETTINGS if how == "imitation" else replace(SETTINGS, teacher_weight=0.0, discount=0.1)
    learner = SoftActorCritic(SIZES, POINTS, settings)
    learner.fit_normalisers(buffer)
    for _ in range(120 if how == "imitation" else 200):
        sequences = buffer.sample(256, rng, SETTINGS.sequence)
        if how == "imitation":
            learner.imitate({"observation": torch.zeros(4, 6), "teacher": torch.zeros(4, 1)}, 0.0, sequences)
        else:
            learner.update(sequences, 0.0)
    for way in (-0.8, 0.8):
        assert played(learner.actor, way, 5)[1:] == pytest.approx([way] * 4, abs=0.25)


def test_memory_ends_with_its_episode() -> None:
    """Unrolled over two episodes in a row, each step's state is what playing that episode alone gives."""
    actor = RecurrentActor(6, POINTS, 1, 16, 4)
    observation = torch.randn(1, 7, 6)
    continues = torch.tensor([[False, True, True, False, True, True, True]])
    before, after = actor.unroll(observation, continues, 0)
    for start, stop in ((0, 3), (3, 7)):
        state = torch.zeros(1, 4)
        for step in range(start, stop):
            torch.testing.assert_close(before[:, step], state)
            state = actor.remember(observation[:, step], state)
            torch.testing.assert_close(after[:, step], state)


def test_the_burn_in_is_not_learnt_from() -> None:
    actor = RecurrentActor(6, POINTS, 1, 16, 4)
    observation = torch.randn(1, 6, 6, requires_grad=True)
    before, _ = actor.unroll(observation, torch.ones(1, 6, dtype=torch.bool), 3)
    before[:, 5].sum().backward()
    gradient: Tensor = observation.grad.abs().sum(dim=-1)[0]
    assert gradient[:3].max() == 0
    assert gradient[3:5].min() > 0


def test_sampled_sequences_are_consecutive() -> None:
    rng = np.random.default_rng(0)
    buffer = episodes(20, 10, rng)
    step = buffer.sample(80, rng, 8)["observation"].unflatten(0, (10, 8))[..., 5]
    torch.testing.assert_close((step[:, 1:] - step[:, :-1]) % 10, torch.ones(10, 7))
