"""Tests of the policy in process: its memory can be read and set, and a replayed step equals the live one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixture_bundle import POINTS

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import Observation, Policy
from rlfp_ros.schema import ConfigurationError

PANDA = load_arm("panda")
FRAME_NS = 1_000_000_000 // 30


def frame(number: int) -> tuple[np.ndarray, JointState, int]:
    """Features, joints and stamp of an episode's frame."""
    random = np.random.default_rng(number)
    stamp = number * FRAME_NS
    positions = np.array(PANDA.home) + random.normal(scale=0.1, size=7)
    joint_state = JointState(stamp, positions, random.normal(size=7), np.zeros(7), 0.04)
    return random.normal(scale=0.3, size=(POINTS, 3)).astype(np.float32), joint_state, stamp


def test_a_step_equals_act_and_returns_the_networks_input(tiny_bundle: Path) -> None:
    live, replayed = Policy(load_bundle(tiny_bundle), PANDA), Policy(load_bundle(tiny_bundle), PANDA)
    for number in range(5):
        features, joint_state, stamp = frame(number)
        step, residual = replayed.step(features, joint_state, stamp), live.act(features, joint_state, stamp)
        np.testing.assert_array_equal(step.residual.twist, residual.twist)
        assert step.residual.gripper_width == residual.gripper_width
        np.testing.assert_array_equal(step.observation["features"][-1], features)
        assert np.abs(step.action).max() <= 1.0


def test_with_the_memory_of_a_frame_another_policy_continues_from_there(tiny_bundle: Path) -> None:
    first, second = Policy(load_bundle(tiny_bundle), PANDA), Policy(load_bundle(tiny_bundle), PANDA)
    for number in range(3):
        first.step(*frame(number))
    memory = first.memory
    expected = first.step(*frame(3)).residual.twist
    assert not np.array_equal(second.step(*frame(3)).residual.twist, expected)  # its memory is empty
    second.memory = memory
    np.testing.assert_array_equal(second.step(*frame(3)).residual.twist, expected)


def test_the_network_receives_the_altered_observation(tiny_bundle: Path) -> None:
    def reversed_stack(observation: Observation) -> Observation:
        return observation | {"features": observation["features"][::-1].copy()}

    as_trained, altered = Policy(load_bundle(tiny_bundle), PANDA), Policy(load_bundle(tiny_bundle), PANDA)
    for number in range(2):
        right = as_trained.step(*frame(number))
        wrong = altered.step(*frame(number), alter=reversed_stack)
    np.testing.assert_array_equal(wrong.observation["features"], right.observation["features"][::-1])
    assert not np.array_equal(wrong.residual.twist, right.residual.twist)


@pytest.mark.parametrize(
    ("quantity", "value", "named"),
    [
        ("velocities", np.nan, "the velocity of panda_joint4 is nan, expected a number in rad/s"),
        ("positions", np.inf, "the position of panda_joint4 is inf, expected a number in rad"),
        ("features", np.nan, "features are not finite"),
    ],
)
def test_an_input_that_is_not_finite_is_named_and_not_remembered(
    tiny_bundle: Path, quantity: str, value: float, named: str
) -> None:
    policy, undisturbed = Policy(load_bundle(tiny_bundle), PANDA), Policy(load_bundle(tiny_bundle), PANDA)
    for each in (policy, undisturbed):
        each.act(*frame(0))
    features, joint_state, stamp = frame(1)
    if quantity == "features":
        features = np.full_like(features, value)
    else:
        bad = np.where(np.arange(7) == 3, value, getattr(joint_state, quantity))
        joint_state = (
            replace(joint_state, positions=bad) if quantity == "positions" else replace(joint_state, velocities=bad)
        )
    with pytest.raises(ConfigurationError, match=named):
        policy.act(features, joint_state, stamp)
    np.testing.assert_array_equal(policy.act(*frame(2)).twist, undisturbed.act(*frame(2)).twist)
