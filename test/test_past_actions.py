"""Tests of past actions and the decision rate: in the observation, in the environment, and in a deployed bundle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from fixture_bundle import POINTS, make_bundle
from gymnasium.utils.env_checker import check_env
from same_episodes import assert_parity

from rlfp_ros.contract import ActionContract, Bundle
from rlfp_ros.control.actions import action_of, decides, residual_of
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.observation import ObservationContract, Observer
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import CountedSeeds
from rlfp_ros.simulation.deployment import Behaviour
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import load_task

PANDA = load_arm("panda")
FRAME_NS = 33_333_333
HOME = JointState(0, np.array(PANDA.home), np.zeros(7), np.zeros(7), 0.04)


def deciding_every(images: int, task: str = "reach") -> Behaviour:
    """The task's own behaviour at another decision rate."""
    own = load_task(task)
    return Behaviour(own.action.deciding_every(images), own.base_controller)


# --- actions ----------------------------------------------------------------------------------------------------------

GRIPPING = ActionContract(
    components=("vx", "vz", "gripper"), scale=(0.25, 0.1, 0.04), units=("m/s", "m/s", "m"), rate_hz=30.0
)


def test_an_action_comes_back_from_its_residual() -> None:
    action = np.array([0.5, -0.25, 0.75])
    np.testing.assert_allclose(action_of(residual_of(action, GRIPPING, 0), GRIPPING), action, atol=1e-7)
    joints = GRIPPING.model_copy(
        update={"kind": "joint_velocity", "components": (PANDA.joint_names[4], PANDA.joint_names[1], "gripper")}
    )
    residual = residual_of(action, joints, 0, PANDA.joint_names)
    np.testing.assert_allclose(action_of(residual, joints, PANDA.joint_names), action, atol=1e-7)


def test_nothing_admitted_is_zero_in_action_units() -> None:
    np.testing.assert_array_equal(action_of(Residual(0, np.zeros(6)), GRIPPING), np.zeros(3))


# --- which images decide ----------------------------------------------------------------------------------------------


def decided(every: int, frames: list[int]) -> list[int]:
    """The frames among those that come on which a policy decides."""
    action, last, found = GRIPPING.deciding_every(every), None, []
    for frame in frames:
        stamp = round(frame * 1e9 / 30)
        if decides(action, last, stamp):
            last = stamp
            found.append(frame)
    return found


@pytest.mark.parametrize(
    ("every", "frames", "expected"),
    [
        (1, [0, 1, 2, 5, 6], [0, 1, 2, 5, 6]),
        (3, list(range(10)), [0, 3, 6, 9]),
        (3, [0, 1, 2, 4, 5, 6, 7, 8], [0, 4, 7]),  # 3 is lost: 4 decides, and from there again every third
        (3, [0, 2, 3, 4, 5, 6], [0, 3, 6]),  # 1 is lost, and changes nothing
        (2, [7, 8, 9, 0, 1, 2], [7, 9, 0, 2]),  # time goes back: another recording begins
    ],
)
def test_decisions_follow_the_stamps_not_the_count(every: int, frames: list[int], expected: list[int]) -> None:
    assert decided(every, frames) == expected


@pytest.mark.parametrize("images", [0, -2])
def test_an_impossible_number_of_images_per_decision_is_refused(images: int) -> None:
    with pytest.raises(ConfigurationError, match="expected 1 or more"):
        GRIPPING.deciding_every(images)


# --- the observer -----------------------------------------------------------------------------------------------------


def observer(count: int) -> Observer:
    return Observer(PANDA, ObservationContract(past_actions=count), action_size=2)


def seen(observer: Observer) -> list[list[float]]:
    found = observer.observe(np.zeros((POINTS, 3), np.float32), HOME)["past_actions"]
    assert found.dtype == np.float32
    return found.tolist()


def test_past_actions_are_the_last_n_newest_last_and_zero_before() -> None:
    observed = observer(3)
    assert seen(observed) == [[0, 0], [0, 0], [0, 0]]
    observed.saw_applied(1, np.array([1, 10]))
    assert seen(observed) == [[0, 0], [0, 0], [1, 10]]
    for number in (2, 3, 4):
        observed.saw_applied(number, np.array([number, 10 * number]))
    assert seen(observed) == [[2, 20], [3, 30], [4, 40]]
    observed.reset()
    assert seen(observed) == [[0, 0], [0, 0], [0, 0]]


def test_a_message_for_the_same_image_counts_once() -> None:
    """The controller refuses an answer that is sent again, and says so with zeros."""
    observed = observer(2)
    observed.saw_applied(1, np.array([1, 1]))
    observed.saw_applied(2, np.array([2, 2]))
    observed.saw_applied(2, np.array([0, 0]))
    assert seen(observed) == [[1, 1], [2, 2]]


def test_without_past_actions_the_observation_has_none() -> None:
    assert "past_actions" not in Observer(PANDA, ObservationContract()).observe(np.zeros((POINTS, 3)), HOME)


# --- the environment --------------------------------------------------------------------------------------------------


def environment(past_actions: int, every: int = 1, profile: str = "train", **options: Any) -> ManipulationEnv:
    options = {"observation": "state"} | options
    return ManipulationEnv(
        "reach",
        profile=profile,
        behaviour=deciding_every(every),
        observed=ObservationContract(past_actions=past_actions),
        **options,
    )


@pytest.mark.parametrize("observation", ["state", "pixels", "features"])
@pytest.mark.parametrize("every", [1, 3])
def test_gymnasium_accepts_past_actions_and_held_actions(observation: str, every: int) -> None:
    perceiver = (lambda image: np.full((4, 3), image.mean(), np.float32)) if observation == "features" else None
    env = environment(3, every, observation=observation, perceiver=perceiver, image_size=16)
    check_env(env, skip_render_check=True)
    assert env.reset(seed=1)[0]["past_actions"].tolist() == np.zeros((3, 3)).tolist()
    env.close()


def test_past_actions_are_those_that_the_controller_admitted_before_the_image_was_delivered() -> None:
    env, rng = environment(4), np.random.default_rng(0)
    for seed in (5, 6):  # the second episode begins without those of the first
        admitted: list[Residual] = []
        env.deployment.on_applied = [*env.deployment.on_applied[:1], admitted.append]
        observation, _ = env.reset(seed=seed)
        answered: list[int] = []
        commanded, ended = [], False
        while not ended:
            # Everything that was answered has been admitted: of the images before this one, all have been delivered.
            assert [residual.stamp_ns for residual in admitted] == answered
            expected = np.zeros((4, 3))
            for row, residual in enumerate(admitted[-4:], start=4 - len(admitted[-4:])):
                expected[row] = residual.twist[:3] / 0.25
            np.testing.assert_allclose(observation["past_actions"], expected, atol=1e-6)
            answered.append(env.image_stamp_ns)
            commanded.append(rng.uniform(-1, 1, 3))
            observation, _, terminated, truncated, _ = env.step(commanded[-1])
            ended = terminated or truncated
        gains = [residual.twist[0] / 0.25 / action[0] for residual, action in zip(admitted, commanded, strict=False)]
        assert gains[0] == 0  # the gain ramps up, so the admitted action is not the commanded one
        assert gains[5] < gains[-1] == pytest.approx(1.0)
    env.close()


def test_the_episode_is_the_same_with_and_without_past_actions_in_the_observation() -> None:
    """Only the moment at which the action is asked for differs, not when it takes effect."""
    action, played = np.array([0.3, -0.2, -0.4]), []
    for count in (0, 2):
        env = environment(count)
        env.reset(seed=9)
        states, rewards, ended = [], [], False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(action)
            states.append(observation["state"])
            rewards.append(reward)
            ended = terminated or truncated
        played.append((states, rewards, info))
        env.close()
    (plain, plain_rewards, _), (delayed, delayed_rewards, _) = played
    assert len(delayed) <= len(plain)
    for one, other in zip(plain[: len(delayed) - 1], delayed[:-1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(plain[-1], delayed[-1])  # the last observation is of the end of the episode
    # Images that are taken before the first one is delivered precede the first decision.
    totals = [sum(plain_rewards[before:]) for before in range(3)]
    assert any(total == pytest.approx(sum(delayed_rewards)) for total in totals)


def test_a_step_of_k_images_is_k_steps_with_the_same_action() -> None:
    rng = np.random.default_rng(0)
    single, triple = environment(0, profile="none"), environment(0, every=3, profile="none")
    single.reset(seed=2)
    triple.reset(seed=2)
    held: list[int] = []
    triple.on_held = lambda frame: held.append(frame.stamp_ns)
    ended = False
    while not ended:
        action = rng.uniform(-1, 1, 3)
        rewards = []
        for _ in range(3):
            expected, reward, terminated, truncated, _ = single.step(action)
            rewards.append(reward)
            if terminated or truncated:
                break
        observation, total, one, other, _ = triple.step(action)
        assert total == pytest.approx(sum(rewards), abs=1e-9)
        assert (one, other) == (terminated, truncated)
        np.testing.assert_array_equal(observation["state"], expected["state"])
        ended = one or other
    assert len(held) > 2
    single.close()
    triple.close()


def test_success_ends_a_held_action_at_once() -> None:
    env = environment(0, every=8, profile="none")
    env.reset(seed=0)
    ended = False
    while not ended:
        teacher = env.world.task.teacher(env.world, env.behaviour.action)
        *_, terminated, truncated, info = env.step(teacher)
        ended = terminated or truncated
    assert info["success"]
    assert env.world.outcome is not None
    assert env.world.outcome.steps % 8
    env.close()


def test_one_image_in_k_decides_and_lost_images_do_not_delay_it() -> None:
    env = environment(0, every=2, seeds=CountedSeeds(0))
    gaps: list[float] = []
    for _ in range(4):
        env.reset()
        stamps, ended = [env.image_stamp_ns], False
        while not ended:
            *_, terminated, truncated, _ = env.step(np.zeros(3))
            stamps.append(env.image_stamp_ns)
            ended = terminated or truncated
        gaps += [(after - before) / FRAME_NS for before, after in itertools.pairwise(stamps[:-1])]
    assert {round(gap) for gap in gaps} == {2, 3, 4} or {round(gap) for gap in gaps} == {2, 3}
    assert np.mean([round(gap) == 2 for gap in gaps]) > 0.8
    env.close()


def test_rates_that_do_not_fit_are_refused() -> None:
    own = load_task("reach")
    behaviour = Behaviour(own.action.model_copy(update={"decision_rate_hz": 20.0}), own.base_controller)
    with pytest.raises(ConfigurationError, match=r"decision_rate_hz is 20, expected action\.rate_hz"):
        ManipulationEnv("reach", behaviour=behaviour)


# --- a deployed bundle ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles"), name="past", past_actions=3, decides_every=2)


def test_a_policy_holds_its_action_and_its_memory_between_decisions(bundle: Bundle) -> None:
    policy = Policy(bundle, PANDA)
    rng = np.random.default_rng(0)
    states, steps = [], []
    for frame in range(6):
        features = rng.normal(scale=0.1, size=(POINTS, 3)).astype(np.float32)
        steps.append(policy.step(features, HOME, frame * FRAME_NS))
        states.append(float(policy.memory.state[0, 0]))
    assert [step.decided for step in steps] == [True, False] * 3
    assert states == [1, 1, 2, 2, 3, 3]
    for decision, held in zip(steps[::2], steps[1::2], strict=True):
        np.testing.assert_array_equal(held.residual.twist, decision.residual.twist)
        assert held.residual.stamp_ns == decision.residual.stamp_ns + FRAME_NS
    assert not np.array_equal(steps[2].residual.twist, steps[0].residual.twist)
    policy.reset()
    assert policy.step(features, HOME, 7 * FRAME_NS).decided  # the first image of an episode


def test_a_policy_continues_from_the_memory_of_another(bundle: Bundle) -> None:
    first, second = Policy(bundle, PANDA), Policy(bundle, PANDA)
    features = np.full((POINTS, 3), 0.1, np.float32)
    for frame in range(3):
        first.step(features, HOME, frame * FRAME_NS)
        first.saw_applied(frame * FRAME_NS, np.full(4, 0.1 * frame + 0.1))
    second.memory = first.memory
    for frame in (3, 4):
        found, expected = (policy.step(2 * features, HOME, frame * FRAME_NS) for policy in (second, first))
        np.testing.assert_array_equal(found.residual.twist, expected.residual.twist)
        assert found.decided is (frame == 4)


def test_a_rollout_gives_the_policy_the_residuals_that_the_controller_admitted(bundle: Bundle) -> None:
    rollout = Rollout(bundle, load_profile("train"))
    observed: list[tuple[int, np.ndarray]] = []
    admitted: list[Residual] = []
    step = rollout.policy.step

    def watched(features: np.ndarray, joints: JointState, stamp: int, goal: np.ndarray | None = None) -> Any:
        made = step(features, joints, stamp, goal)
        if made.decided:
            observed.append((len(admitted), made.observation["past_actions"]))
        return made

    rollout.policy.step = watched  # type: ignore[method-assign,assignment]
    rollout.deployment.on_applied.append(admitted.append)
    for seed in (1, 2):
        admitted.clear()
        observed.clear()
        played = rollout.play(seed)
        assert len(played.residuals) >= len(admitted) > 10
        for count, past in observed:
            expected = np.zeros((3, 4))
            for row, residual in zip(range(2, -1, -1), reversed(admitted[:count]), strict=False):
                expected[row] = action_of(residual, bundle.contract.action)
            np.testing.assert_array_equal(past, expected.astype(np.float32))
    assert max(np.abs(past[:, :3]).max() for _, past in observed) > 0
    rollout.close()


@pytest.mark.graph
def test_lock_step_through_the_graph_gives_the_same_past_actions(bundle: Bundle) -> None:
    """Every residual of the graph follows from the same past actions, held images and memory as in process."""
    assert_parity(bundle, seed=3)
