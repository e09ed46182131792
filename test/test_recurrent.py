"""Memory: it tells apart what one picture does not, learns through time, and survives export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fixture_bundle import make_bundle  # noqa: E402
from torch import Tensor  # noqa: E402

from rlfp_ros.bundle import write_bundle  # noqa: E402
from rlfp_ros.control.arm import JointState, load_arm  # noqa: E402
from rlfp_ros.control.policy import Policy  # noqa: E402
from rlfp_ros.learning import export  # noqa: E402
from rlfp_ros.learning.recurrent import RecurrentActor  # noqa: E402
from rlfp_ros.learning.sac import Actor, ReplayBuffer, SacSettings, SoftActorCritic  # noqa: E402

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


def test_memory_survives_export_and_an_episode_starts_without_it(tmp_path: Path) -> None:
    """The deployed policy says what PyTorch says, step after step; after a reset it says the same again."""
    tiny = make_bundle(tmp_path)
    arm = load_arm("panda")
    stack, count, width = tiny.contract.policy.feature_stack, *tiny.contract.encoder.outputs["features"][1:]
    sizes = stack * count * width + 2 * len(arm.joint_names) + 4 + 4
    actor = RecurrentActor(sizes, (stack, count, width), len(tiny.contract.action.components), 32, 8).eval()
    rng = np.random.default_rng(0)
    golden = dict(np.load(tiny.file("golden.npz")))
    inputs = {name: golden[f"policy/{name}"] for name in export.POLICY_INPUTS if name != "state"}
    inputs["state"] = rng.normal(size=(1, 8)).astype(np.float32)
    with torch.no_grad():
        outputs = export.ExportedPolicy(actor)(*(torch.from_numpy(value) for value in inputs.values()))
    golden |= {f"policy/{name}": value for name, value in inputs.items()}
    golden |= {f"policy/{name}": value.numpy() for name, value in zip(export.POLICY_OUTPUTS, outputs, strict=True)}
    np.savez(tmp_path / "golden.npz", **golden)
    contract = tiny.contract.model_dump(mode="json", by_alias=True)
    del contract["files"]
    contract["policy"]["state_size"] = actor.state_size
    example = {name: value[0] for name, value in inputs.items() if name != "state"}
    bundle = write_bundle(
        tmp_path / "remembers", contract,
        {"encoder.onnx": tiny.file("encoder.onnx").read_bytes(), "policy.onnx": export.export_policy(actor, example),
         "golden.npz": (tmp_path / "golden.npz").read_bytes()},
    )  # fmt: skip
    policy = Policy(bundle, arm)
    joints = JointState(0, np.array(arm.home), np.zeros(len(arm.joint_names)), np.zeros(len(arm.joint_names)))
    features = rng.normal(size=(count, width)).astype(np.float32)

    def episode() -> list[np.ndarray]:
        return [policy.act(features, joints, step).twist for step in range(4)]

    first = episode()
    assert np.abs(first[2] - first[1]).max() > 1e-5  # the same picture, another memory
    policy.reset()
    np.testing.assert_array_equal(episode(), first)
