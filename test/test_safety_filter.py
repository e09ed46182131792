"""Nothing that comes in makes the command leave the arm's published limits.

The judge is `benchmarks/safety.py`'s: written against `config/arms/*.yaml` alone, it samples what the model of
joint_trajectory_controller would tell the arm while commands arrive up to two ticks late.
"""

from __future__ import annotations

import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.safety import run_hostile, stamp
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.residual_controller import ControllerSettings
from rlfp_ros.control.safety_filter import SafetyFilter


@pytest.fixture(scope="module")
def arm() -> Arm:
    return load_arm("panda")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_hostile_inputs_never_leave_the_published_limits(arm: Arm, seed: int) -> None:
    for faults in (False, True):
        judge, _ = run_hostile(arm, seed, ticks=1000, faults=faults)
        assert judge.samples >= 4000
        assert faults or judge.moving > 1000


def test_motion_keeps_the_scaled_limits_of_the_settings(arm: Arm) -> None:
    settings = ControllerSettings()
    safety = SafetyFilter(arm, Kinematics(arm), settings)
    safety.start(np.array(arm.home))
    safety.advance(100)
    for _ in range(200):
        before = safety.end.rows
        safety.locate()
        safety.extend(safety.joint_velocity(np.array([0.3, 0.2, -0.1, 0, 0, 0.5]), np.zeros(7)))
        after = safety.end.rows
        assert (np.abs(after[2]) <= settings.acceleration_scale * np.array(arm.limits.acceleration) + 1e-9).all()
        change = np.abs(after[2] - before[2]) * settings.control_rate_hz
        assert (change <= settings.stop_jerk_scale * np.array(arm.limits.jerk) + 1e-6).all()
        safety.advance()


def test_every_trajectory_ends_at_rest_and_agrees_with_the_one_before(arm: Arm) -> None:
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    random = np.random.default_rng(3)
    previous = None
    for tick in range(300):
        safety.locate()
        safety.extend(safety.joint_velocity(random.uniform(-0.3, 0.3, 6), np.zeros(7)))
        trajectory = safety.trajectory(stamp(tick))
        assert len(trajectory.times) <= 8
        assert not trajectory.velocities[-1].any()
        assert not trajectory.accelerations[-1].any()
        if previous is not None and len(trajectory.times) > 1 and len(previous.times) > 1:
            assert trajectory.positions[0] == pytest.approx(previous.positions[1], abs=1e-14)
            assert trajectory.positions[1] == pytest.approx(previous.positions[2], abs=1e-14)
        previous = trajectory
        safety.advance()


def test_a_stop_takes_little_longer_than_the_time_optimal_one(arm: Arm) -> None:
    settings = ControllerSettings()
    safety = SafetyFilter(arm, Kinematics(arm), settings)
    best, problem, answer = ruckig.Ruckig(7), ruckig.InputParameter(7), ruckig.Trajectory(7)
    problem.control_interface = ruckig.ControlInterface.Velocity
    problem.max_velocity = list(arm.limits.velocity)
    problem.max_acceleration = [settings.stop_acceleration_scale * value for value in arm.limits.acceleration]
    problem.max_jerk = [settings.stop_jerk_scale * value for value in arm.limits.jerk]
    random = np.random.default_rng(5)
    for _ in range(50):
        velocity = random.uniform(-0.8, 0.8, 7) * np.array(arm.limits.velocity)
        acceleration = random.uniform(-0.35, 0.35, 7) * np.array(arm.limits.acceleration)
        stop = safety._plan_stop(np.array((arm.home, velocity, acceleration)))
        problem.current_position, problem.current_velocity = list(arm.home), velocity.tolist()
        problem.current_acceleration, problem.target_velocity = acceleration.tolist(), [0.0] * 7
        best.calculate(problem, answer)
        duration = sum(ticks for ticks, _ in stop) * safety.dt
        assert duration <= answer.duration + 0.03
        plateau = stop[0][1].rows[2]
        assert (np.abs(plateau) <= settings.stop_acceleration_scale * np.array(arm.limits.acceleration) + 1e-9).all()


def test_standing_at_the_box_wall_the_arm_slides_along_it(arm: Arm) -> None:
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    for tick in range(1200):
        place, _, _ = safety.locate()
        safety.extend(safety.joint_velocity(np.array([0.0, 0.05 if tick > 700 else 0.0, -0.2, 0, 0, 0]), np.zeros(7)))
        safety.advance()
    assert place[2] == pytest.approx(arm.tool_limits.lower[2], abs=0.01)
    assert place[1] > 0.05


def test_an_arm_outside_its_limits_may_come_back_but_not_go_further(arm: Arm) -> None:
    kinematics = Kinematics(arm)
    low = arm.model_copy(update={"tool_limits": arm.tool_limits.model_copy(update={"lower": (0.25, -0.35, 0.3)})})
    safety = SafetyFilter(low, kinematics, ControllerSettings())
    start = kinematics.tool_position(np.array(arm.home))[2]
    assert start < 0.3
    for vertical, check in ((-0.1, lambda z: z > start - 1e-3), (0.1, lambda z: z > 0.29)):
        safety.start(np.array(arm.home))
        safety.advance(100)
        for _ in range(400):
            place, _, _ = safety.locate()
            safety.extend(safety.joint_velocity(np.array([0, 0, vertical, 0, 0, 0.0]), np.zeros(7)))
            safety.advance()
        assert check(place[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_wanted_motion_that_is_not_finite_stops_the_arm(arm: Arm, bad: float) -> None:
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    for tick in range(300):
        safety.locate()
        wanted = np.full(7, 0.1) if tick < 60 else np.full(7, bad)
        safety.extend(wanted)
        trajectory = safety.trajectory(stamp(tick))
        assert np.isfinite(trajectory.positions).all()
        assert np.isfinite(trajectory.accelerations).all()
        safety.advance()
    assert safety.resting or bad == 1e6  # large, but a direction to go: the limits bound it
