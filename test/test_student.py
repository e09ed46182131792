"""Tests of the deployed policy of the recipe `reinforcement`: imitation of the expert, and reinforcement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_trainings import STATE, quiet, untrained_expert  # noqa: E402

from rlfp_ros.contract import load_bundle  # noqa: E402
from rlfp_ros.learning.algorithms.environments import TaskEnvironment  # noqa: E402
from rlfp_ros.learning.recipes.collector import Experience  # noqa: E402
from rlfp_ros.learning.recipes.episodes import Lesson, PlayedEpisodes  # noqa: E402
from rlfp_ros.learning.recipes.student import StudentLessons, StudentSettings, TrainedStudent, train_student  # noqa: E402
from rlfp_ros.learning.recipes.student_reinforcement import (  # noqa: E402
    ReinforcementLessons,
    StudentReinforcement,
    StudentReinforcementSettings,
    reinforce_student,
)

pytestmark = pytest.mark.usefixtures("seeded_torch")

# --- the policy ------------------------------------------------------------------------------------------------------


def experience(begins: list[bool], first: int) -> Experience:
    """Steps that are numbered from `first` on."""
    count = len(begins)
    number = np.arange(first, first + count, dtype=np.float32)[:, None]
    seen, after = ({"vector": values, "privileged": values} for values in (number, number + 1))
    none = np.zeros(count, bool)
    return Experience(seen, after, number, number, number[:, 0], none, none, np.array(begins), [])


def test_episodes_are_joined_over_rounds_and_collectors_stay_apart() -> None:
    played = PlayedEpisodes()
    played.add(0, experience([True, False, False], 0))
    played.add(1, experience([True, False, False], 100))
    played.add(0, experience([False, True, False], 3))
    played.add(1, experience([True, False, True], 103))
    assert [episode.action[:, 0].tolist() for episode in played.finished] == [[0, 1, 2, 3], [100, 101, 102], [103, 104]]
    # Observations include the one after the last action.
    assert [episode.vector[:, 0].tolist() for episode in played.finished] == [
        [0, 1, 2, 3, 4],
        [100, 101, 102, 103],
        [103, 104, 105],
    ]
    played.end()  # of each collector, the episode that it had begun
    assert [episode.action[:, 0].tolist() for episode in played.finished[3:]] == [[4, 5], [105]]
    assert not played.unfinished
    together, there = played.draw(5)
    for row, length in enumerate(there.sum(dim=1).int().tolist()):
        assert length in {1, 2, 3, 4}
        assert together.reward[row, :length].tolist() == together.vector[row, :length, 0].tolist()
        assert not together.action[row, length:].any()
        assert not together.vector[row, length + 1 :].any()


def student_lessons(expert: Any, **changes: Any) -> StudentLessons:
    encoder = load_bundle("reach_panda").file("encoder.onnx")
    make_env = TaskEnvironment(
        "reach",
        profile="none",
        observation="features",
        encoder=encoder,
        feature_stack=1,
        images_per_decision=3,
        past_actions=3,
        privileged=True,
    )
    settings = StudentSettings(
        hidden=16, memory=8, steps=240, round_steps=80, expert_rounds=2, updates_per_round=3, final_updates=2
    )
    return StudentLessons(make_env, settings.changed(**changes), expert)


def vector_length(learner: Any) -> int:
    """Return the size of the policy's input."""
    expand = learner.policy.actor.trunk.expand
    return int(learner.policy.actor.trunk.normaliser.mean.numel() - 2 * expand.shape[0] * (expand.shape[1] - 1))


def test_the_expert_sees_in_the_students_environment_what_it_was_trained_on() -> None:
    seeing, knowing = student_lessons(None).make_env(), STATE()
    one, other = seeing.reset(seed=5)[0], knowing.reset(seed=5)[0]
    np.testing.assert_allclose(one["privileged"], other["vector"], atol=1e-6)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 3)):
        one, other = seeing.step(action)[0], knowing.step(action)[0]
        np.testing.assert_allclose(one["privileged"], other["vector"], atol=1e-6)
    seeing.close()
    knowing.close()


def test_training_computes_the_memory_as_deployment_does() -> None:
    learner = student_lessons(untrained_expert().policy).learner()
    vectors = torch.randn(1, 7, vector_length(learner))
    together = learner.act(vectors)[0].mode()
    state = torch.zeros(1, learner.policy.state_size)
    for step in range(7):
        action, state = learner.policy.step({"vector": vectors[:, step]}, state)
        torch.testing.assert_close(together[:, step], action)


def test_a_policy_learns_from_an_expert_and_continues(tmp_path: Path) -> None:
    lessons = student_lessons(untrained_expert().policy)
    errors: list[float] = []

    def show(done: int, text: str, **figures: float) -> None:
        errors.extend(value for name, value in figures.items() if name == "action_error")

    student = train_student(lessons, 0, tmp_path, show)
    assert errors
    assert np.isfinite(errors).all()
    assert student.learner.policy.state_size == 8
    again = train_student(lessons, 0, tmp_path, quiet)  # has ended
    for name, value in student.learner.state_dict().items():
        torch.testing.assert_close(again.learner.state_dict()[name], value, rtol=0, atol=0)
    assert len(again.played.finished) == len(student.played.finished)


# --- reinforcement of the policy -------------------------------------------------------------------------------------


def reinforcement(learner: Any, **changes: Any) -> StudentReinforcement:
    settings = StudentReinforcementSettings(imitation=0, auxiliary=0, episodes=4, final_rate=1.0)
    return StudentReinforcement(learner, untrained_expert(), settings.changed(**changes))


def played_episodes(training: StudentReinforcement, terminated: bool) -> PlayedEpisodes:
    """Return episodes of three decisions, of which the last is rewarded with 1."""
    privileged = training.expert.critic.trunk.normaliser.mean.numel()
    ends = torch.tensor([0.0, 0.0, float(terminated)])
    played = PlayedEpisodes()
    for _ in range(4):
        action = torch.rand(3, 3) * 2 - 1
        vector = torch.randn(4, vector_length(training.learner))
        played.finished.append(
            Lesson(vector, torch.randn(4, privileged), action, action, torch.tensor([0.0, 0.0, 1.0]), ends)
        )
    return played


@pytest.mark.parametrize(("terminated", "temperature"), [(True, 0.0), (False, 0.0), (False, 0.5)])
def test_critics_learn_the_soft_return_of_whole_episodes(terminated: bool, temperature: float) -> None:
    learner = student_lessons(untrained_expert().policy).learner()
    training = reinforcement(learner, target_rate=0.1)
    played = played_episodes(training, terminated)
    training.expert.log_temperature.data.fill_(math.log(max(temperature, 1e-9)))
    for _ in range(400):
        training.update(played, 0.0, train_actor=False)
    for episode in played.finished:
        state = episode.privileged[:-1]
        found = training.expert.critic(state[:, :0], state, episode.action)[0].detach()
        with torch.no_grad():
            action, likelihood = learner.act(episode.vector.expand(500, -1, -1))[0].sample()
            last = episode.privileged[-1:].expand(500, -1)
            after = torch.min(*training.expert.target(last[:, :0], last, action[:, -1]))
        soft = float((after - temperature * likelihood[:, -1]).mean())
        wanted = 1.0 if terminated else 1.0 + training.discount * soft
        torch.testing.assert_close(found[2], torch.tensor(wanted), atol=0.25, rtol=0.1)


def test_the_actor_climbs_the_critics_and_follows_the_expert_only_at_first() -> None:
    learner = student_lessons(untrained_expert().policy).learner()
    fixed = 1e-9  # the critics' learning rate, so that only the actor changes the values
    training = reinforcement(
        learner, imitation=100.0, imitation_share=0.5, actor_learning_rate=3e-3, learning_rate=fixed
    )
    played = played_episodes(training, terminated=True)
    before = training.update(played, 0.0, train_actor=False)["action_error"]
    for _ in range(100):
        held = training.update(played, 0.0, train_actor=True)["action_error"]
    assert held < before / 2

    def value(episode: Lesson) -> float:
        state = episode.privileged[:-1]
        with torch.no_grad():
            action = learner.act(episode.vector[None])[0].mode()[0, :-1]
            return float(torch.min(*training.expert.critic(state[:, :0], state, action)).mean())

    imitated = [value(episode) for episode in played.finished]
    for _ in range(100):
        freed = training.update(played, 0.6, train_actor=True)["action_error"]
    assert freed > 2 * held
    assert all(value(episode) > before for episode, before in zip(played.finished, imitated, strict=True))


def test_reinforcement_goes_on_from_imitation_and_from_its_checkpoint(tmp_path: Path) -> None:
    expert = untrained_expert()
    lessons = student_lessons(expert.policy)
    student = train_student(lessons, 0, tmp_path, quiet)
    settings = StudentReinforcementSettings(steps=160, round_steps=80, critic_rounds=1, updates_per_round=2, episodes=2)
    imitated = {name: value.clone() for name, value in student.learner.policy.state_dict().items()}
    episodes = len(student.played.finished)
    rounds: list[int] = []

    def show(done: int, text: str, **figures: float) -> None:
        rounds.append(done)

    policy = reinforce_student(student, expert, ReinforcementLessons(lessons, settings), 0, tmp_path, show)
    assert rounds == [80, 160]
    assert len(student.played.finished) > episodes
    last = "actor.layers.6.weight"
    assert not torch.equal(policy.state_dict()[last], imitated[last])
    fresh = TrainedStudent(lessons.learner(), PlayedEpisodes())
    again = reinforce_student(fresh, untrained_expert(), ReinforcementLessons(lessons, settings), 0, tmp_path, show)
    assert rounds == [80, 160]  # it had ended
    assert len(fresh.played.finished) == len(student.played.finished)
    torch.testing.assert_close(again.state_dict()[last], policy.state_dict()[last], rtol=0, atol=0)
    none = settings.changed(steps=0)
    kept = reinforce_student(fresh, untrained_expert(), ReinforcementLessons(lessons, none), 0, tmp_path / "no", quiet)
    assert kept is fresh.learner.policy
