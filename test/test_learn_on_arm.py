"""Tests of end-effector control that is learned on the simulated arm, and of its command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlfp_ros import cli
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.dynamics.arm_state import POINTS, ArmState
from rlfp_ros.dynamics.learning_loop import LearningIteration, LocalLearning
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController
from rlfp_ros.dynamics.reach_learning import learn_reach
from rlfp_ros.dynamics.simulated_arm import SimulatedArm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.worlds import load_conditions

DECISIONS = 30
GOAL = np.array([0.5, 0.1, 0.2])


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    arm = SimulatedArm(load_arm("panda"), "reach", load_conditions("pybullet", "none"), DECISIONS)
    yield arm
    arm.close()


def pushing(arm: SimulatedArm, action: float, deviation: float = 0.1) -> LinearGaussianController:
    size, acting = arm.state_of.size, arm.state_of.actions
    quiet = LinearGaussianController.around_zero(DECISIONS, size, np.full(acting, deviation))
    return LinearGaussianController(quiet.gains, quiet.offsets + action, quiet.covariances)


def test_the_state_has_joints_points_their_velocities_and_the_last_action() -> None:
    state_of = ArmState(load_arm("panda"), 3)
    rng = np.random.default_rng(0)
    q, speed, action = rng.normal(size=7), rng.normal(size=7), rng.normal(size=3)

    def state(positions: np.ndarray) -> np.ndarray:
        return state_of(JointState(0, positions, speed, np.zeros(7)), action)

    found, small = state(q), 1e-6
    assert found.shape == (state_of.size,)
    assert found[:14] == pytest.approx(np.concatenate([q, speed]))
    assert found[-3:] == pytest.approx(action)
    points = found[state_of.places].reshape(3, 3)
    pose = state_of.kinematics.forward(q)
    assert points == pytest.approx(pose[:3, 3] + POINTS @ pose[:3, :3].T)
    assert state_of.tool_position(found) == pytest.approx(pose[:3, 3])
    moved = (state(q + small * speed) - state(q - small * speed))[state_of.places] / (2 * small)
    assert found[14 + 9 : 14 + 18] == pytest.approx(moved, abs=1e-6)


def test_the_target_has_the_orientation_of_home() -> None:
    state_of = ArmState(load_arm("panda"), 3)
    home = np.array(state_of.arm.home)
    at_home = state_of(JointState(0, home, np.zeros(7), np.zeros(7)), np.zeros(3))
    assert state_of.target(state_of.tool_position(at_home)) == pytest.approx(at_home[state_of.places])


@pytest.mark.parametrize("goal", [(0.5, 0.1, -0.2), (0.9, 0.0, 0.2), (0.5, np.nan, 0.2)])
def test_a_goal_outside_the_tool_limits_is_refused(goal: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigurationError, match="choose a goal inside"):
        ArmState(load_arm("panda"), 3).target(np.array(goal))


def test_the_same_seed_plays_the_same_trajectory(arm: SimulatedArm) -> None:
    first, other, second = (arm.play(pushing(arm, 0.2), seed) for seed in (5, 6, 5))
    assert first.states.shape == (DECISIONS + 1, arm.state_of.size)
    assert np.array_equal(first.states, second.states)
    assert np.array_equal(first.actions, second.actions)
    assert not np.array_equal(first.actions, other.actions)


def test_actions_are_clipped_and_pass_the_safety_controller(arm: SimulatedArm) -> None:
    played = arm.play(pushing(arm, 50.0), 0)
    assert np.array_equal(played.actions, np.ones((DECISIONS, 3)))
    limits = arm.state_of.arm.tool_limits
    tool = played.states[:, arm.state_of.places[:3]]
    assert np.all(tool < np.array(limits.upper) + 0.005)
    assert np.linalg.norm(tool[-1] - tool[0]) > 0.1
    assert tool[-1] == pytest.approx(arm.true_tool_position(), abs=1e-3)


def test_a_controller_of_another_length_is_refused(arm: SimulatedArm) -> None:
    short = LinearGaussianController.around_zero(4, arm.state_of.size, np.full(3, 0.1))
    with pytest.raises(ConfigurationError, match="4 steps, expected 30"):
        arm.play(short, 0)


def test_an_arm_that_was_stopped_is_refused(arm: SimulatedArm, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = arm.world.joint_state

    def without_a_joint() -> JointState:
        joints = measure()
        return JointState(
            joints.stamp_ns, joints.positions + 0.5 * (arm.world.tick % 7 == 0), joints.velocities, joints.efforts
        )

    monkeypatch.setattr(arm.world, "joint_state", without_a_joint)
    with pytest.raises(ConfigurationError, match="the safety controller stopped the arm in the episode of seed 3"):
        arm.play(pushing(arm, 0.0), 3)


def test_a_goal_is_reached_to_15_mm_after_4_iterations_of_5_trajectories(arm: SimulatedArm) -> None:
    iterations: list[LearningIteration] = []
    learned = learn_reach(arm, GOAL, LocalLearning(iterations=4), 0, report=iterations.append)
    assert learned.rollouts == 20
    assert learned.true_distance_m < 0.015
    assert learned.distance_m == pytest.approx(learned.true_distance_m, abs=1e-3)
    assert iterations[0].cost > iterations[-1].cost


def test_the_command_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["learn-on-arm", "reach", "--goal", "0.45", "0.05", "0.25", "--iterations", "1", "--rollouts", "2"]
    assert cli.main([*words, "--within", "0", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "iteration 1 of 1: cost" in text
    assert "after 2 trajectories" in text
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["goal"] == [0.45, 0.05, 0.25]
    assert [row["number"] for row in result["iterations"]] == [1]
    assert result["iterations"][0]["kl"] <= result["iterations"][0]["kl_bound"]
    saved = np.load(tmp_path / "out" / "controller.npz")
    LinearGaussianController(saved["gains"], saved["offsets"], saved["covariances"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--goal", "0.5", "0", "2"], "tool_limits of config/arms/panda.yaml allow 0.014 to 0.6"),
        (["--goal", "0.5", "0", "0.2", "--rollouts", "1"], "rollouts is 1"),
        (["--goal", "0.5", "0", "0.2", "--seed", "10000"], "--seed is 10000"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["learn-on-arm", "reach", *words]) == 2
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.count("\n") == 1
