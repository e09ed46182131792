"""Tests that no input makes a command leave the arm's published limits.

The judge is `benchmarks/safety.py`'s: written against `config/arms/*.yaml` alone, it samples what the model of
joint_trajectory_controller would tell the arm while commands arrive up to two ticks late.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.safety import Judge, run_hostile, stamp
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.residual_controller import ControllerSettings
from rlfp_ros.control.safety.checks import Refusal
from rlfp_ros.control.safety.filter import SafetyFilter


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
        here = safety.locate()
        safety.extend(here, safety.joint_velocity(here, np.array([0.3, 0.2, -0.1, 0, 0, 0.5]), np.zeros(7)))
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
        here = safety.locate()
        safety.extend(here, safety.joint_velocity(here, random.uniform(-0.3, 0.3, 6), np.zeros(7)))
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
    settings = ControllerSettings(settle_s=0.0)
    wide = arm.tool_limits.model_copy(update={"lower": (-3,) * 3, "upper": (3,) * 3, "speed": 20, "angular_speed": 50})
    free = arm.model_copy(update={"tool_limits": wide, "capsules": (), "table_height": None})
    safety = SafetyFilter(free, Kinematics(free), settings)
    best, problem, answer = ruckig.Ruckig(7), ruckig.InputParameter(7), ruckig.Trajectory(7)
    problem.control_interface = ruckig.ControlInterface.Velocity
    problem.max_velocity = list(arm.limits.velocity)
    problem.max_acceleration = [settings.stop_acceleration_scale * value for value in arm.limits.acceleration]
    problem.max_jerk = [settings.stop_jerk_scale * value for value in arm.limits.jerk]
    random, accelerated = np.random.default_rng(5), 0
    for _ in range(50):
        safety.start(np.array(arm.home))
        for tick in range(60):
            if tick % 20 == 0:
                wanted = random.uniform(-0.8, 0.8, 7) * np.array(arm.limits.velocity)
            assert safety.extend(safety.locate(), wanted)
            safety.advance()
        assert safety.extend(safety.locate(), wanted)
        _, velocity, acceleration = safety.end.rows
        accelerated += int(np.abs(acceleration).max() > 1.0)
        problem.current_position, problem.current_velocity = list(arm.home), velocity.tolist()
        problem.current_acceleration, problem.target_velocity = acceleration.tolist(), [0.0] * 7
        best.calculate(problem, answer)
        command = safety.trajectory(0)
        assert command.times[-1] - command.times[2] <= answer.duration + 0.03
        plateau = command.accelerations[3]
        assert (np.abs(plateau) <= settings.stop_acceleration_scale * np.array(arm.limits.acceleration) + 1e-9).all()
        assert not command.velocities[-1].any()
    assert accelerated > 20


class Driven(NamedTuple):
    """A motion, tick by tick."""

    joints: np.ndarray  # [ticks, J] rad
    places: np.ndarray  # [ticks, 3] m, of the tool
    twists: np.ndarray  # [ticks, 6] m/s, rad/s


def drive(arm: Arm, twist: np.ndarray, ticks: int) -> Driven:
    """From home, asked for one and the same twist."""
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    joints, places, twists = [], [], []
    for _ in range(ticks):
        here = safety.locate()
        joints.append(safety.end.position)
        places.append(here.position)
        twists.append(here.jacobian @ safety.end.velocity)
        safety.extend(here, safety.joint_velocity(here, twist, np.zeros(len(arm.joint_names))))
        safety.advance()
    return Driven(np.array(joints), np.array(places), np.array(twists))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("outwards", [-1, 1])
def test_at_every_wall_of_the_box_the_arm_slides_along_it(arm: Arm, axis: int, outwards: int) -> None:
    along = (axis + 1) % 3
    tool = arm.tool_limits
    small = 0.1 * np.eye(3)[axis] + 0.25 * (1 - np.eye(3)[axis])  # the wall is near, the others are far
    home = Kinematics(arm).tool_position(np.array(arm.home))
    boxed = arm.model_copy(
        update={"tool_limits": tool.model_copy(update={"lower": tuple(home - small), "upper": tuple(home + small)})}
    )
    twist = np.zeros(6)
    twist[axis], twist[along] = 0.2 * outwards, 0.05
    _, places, twists = drive(boxed, twist, 900)
    wall = home[axis] + 0.1 * outwards
    assert places[-1, axis] == pytest.approx(wall, abs=0.01)
    assert (np.abs(places[:, axis] - home[axis]) <= 0.1).all()
    # Along the wall it continues as asked, although it is pushed against it with four times that.
    assert twists[500:, along] == pytest.approx(0.05, rel=0.1)
    assert np.abs(twists[600:, axis]).max() < 5e-3


@pytest.mark.parametrize("slowest", [0, 3, 6, None])
def test_a_motion_that_is_too_fast_is_slowed_and_keeps_its_direction(arm: Arm, slowest: int | None) -> None:
    speeds = [2.0] * 7
    if slowest is not None:
        speeds[slowest] = 0.1
    slow = arm.model_copy(update={"limits": arm.limits.model_copy(update={"velocity": tuple(speeds)})})
    safety, settings = SafetyFilter(slow, Kinematics(slow), ControllerSettings()), ControllerSettings()
    safety.start(np.array(arm.home))
    here = safety.locate()
    random = np.random.default_rng(4)
    for _ in range(20):
        asked = random.uniform(-1, 1, 6) * np.array([1.5, 1.5, 1.5, 4.0, 4.0, 4.0])
        velocity = safety.joint_velocity(here, asked, np.zeros(7))
        moved = here.jacobian @ velocity
        assert moved / np.linalg.norm(moved) == pytest.approx(asked / np.linalg.norm(asked), abs=1e-5)
        at_its_limit = np.append(
            np.abs(velocity) / (settings.velocity_scale * np.array(speeds)),
            np.linalg.norm(moved.reshape(2, 3), axis=1)
            / (settings.tool_speed_scale * np.array((arm.tool_limits.speed, arm.tool_limits.angular_speed))),
        )
        assert at_its_limit.max() <= 1.0 + 1e-6
        assert at_its_limit.max() > 0.99 or np.linalg.norm(moved - asked) < 1e-6  # and no slower than it must be


@pytest.mark.parametrize("seed", range(4))
def test_from_rest_the_tool_follows_a_request_within_a_third_of_a_second(arm: Arm, seed: int) -> None:
    asked = np.zeros(6)
    asked[:3] = np.random.default_rng(seed).normal(size=3)
    asked *= 0.2 / np.linalg.norm(asked)
    moved = drive(arm, asked, 96).twists[84:, :3]
    cosine = moved @ asked[:3] / np.linalg.norm(moved, axis=1) / 0.2
    assert np.degrees(np.arccos(cosine.min())) < 2.0
    assert np.linalg.norm(moved, axis=1) == pytest.approx(0.2, rel=0.05)


def test_the_arm_slows_down_towards_an_obstacle_stops_before_it_and_slides_along_it(arm: Arm) -> None:
    home = Kinematics(arm).tool_position(np.array(arm.home))
    post = {"name": "post", "size": (0.1, 0.6, 0.8), "pose": {"xyz": (home[0] + 0.25, 0.0, 0.4)}}
    beside = Arm.model_validate(arm.model_dump() | {"obstacles": [post]})
    asked = np.array([0.15, 0.03, 0.0, 0.0, 0.0, 0.0])
    assert drive(arm, asked, 480).places[-1, 0] > home[0] + 0.2
    joints, places, twists = drive(beside, asked, 480)
    judge = Judge(beside)
    for posture in joints[::20]:
        judge.see_distances(posture)
    assert places[-1, 0] < home[0] + 0.2 - ControllerSettings().obstacle_margin_m
    assert twists[-1, :3] == pytest.approx([0.0, 0.03, 0.0], abs=0.01)
    towards = twists[twists[:, 0].argmax() + 24 :: 24, 0]  # a tenth of a second apart
    assert (np.diff(towards) < 1e-3).all()  # slower and slower


CIRCLE_M_S = 0.3


def slowest_half_second(arm: Arm, outwards: np.ndarray, along: np.ndarray, hz: float) -> float:
    """Ask for a circle along a wall `along` [2, 3] while pressing against it; return the slowest mean speed, m/s."""
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    places = []
    for tick in range(2400):
        here = safety.locate()
        places.append(here.position)
        angle = 2 * np.pi * hz * tick / 240
        asked = 0.2 * outwards + CIRCLE_M_S * np.array([np.cos(angle), np.sin(angle)]) @ along
        safety.extend(here, safety.joint_velocity(here, np.append(asked, np.zeros(3)), np.zeros(7)))
        safety.advance()
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)[400:]  # when it has come to the wall
    return float(np.convolve(moved, np.ones(120) / 0.5, "valid").min())


@pytest.mark.parametrize(("hz", "least"), [(0.3, 0.2), (1.0, 0.08)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("outwards", [-1, 1])
def test_an_arm_that_presses_against_a_wall_is_never_held_there(
    arm: Arm, axis: int, outwards: int, hz: float, least: float
) -> None:
    directions, home = np.eye(3), Kinematics(arm).tool_position(np.array(arm.home))
    small = 0.1 * directions[axis] + 0.25 * (1 - directions[axis])
    box = {"lower": tuple(home - small), "upper": tuple(home + small)}
    boxed = arm.model_copy(update={"tool_limits": arm.tool_limits.model_copy(update=box)})
    assert slowest_half_second(boxed, outwards * directions[axis], directions[[axis - 2, axis - 1]], hz) > least


def beside_a_plate(arm: Arm) -> Arm:
    """The arm with an upright plate in front of it, 20 cm before the tool at home."""
    home = Kinematics(arm).tool_position(np.array(arm.home))
    plate = {"name": "plate", "size": (0.1, 0.9, 0.8), "pose": {"xyz": (home[0] + 0.25, 0.0, 0.4)}}
    return Arm.model_validate(arm.model_dump() | {"obstacles": [plate]})


@pytest.mark.parametrize(("hz", "least"), [(0.3, 0.2), (1.0, 0.08)])
def test_an_arm_that_presses_against_an_obstacle_is_never_held_there(arm: Arm, hz: float, least: float) -> None:
    assert slowest_half_second(beside_a_plate(arm), np.eye(3)[0], np.eye(3)[1:], hz) > least


def test_an_arm_beside_an_obstacle_stands_if_no_motion_is_asked(arm: Arm) -> None:
    beside = beside_a_plate(arm)
    safety = SafetyFilter(beside, Kinematics(beside), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    places = []
    for tick in range(1440):
        here = safety.locate()
        places.append(here.position)
        asked = np.array([0.2 if tick < 960 else 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        safety.extend(here, safety.joint_velocity(here, asked, np.zeros(7)))
        safety.advance()
    assert places[960][0] > places[0][0] + 0.03  # it came to the plate
    assert np.abs(np.array(places[1200:]) - places[1200]).max() < 1e-6


def test_an_fr3_keeps_the_speed_that_falls_towards_its_joints_ends() -> None:
    fr3 = load_arm("fr3")
    tool = fr3.tool_limits.model_copy(
        update={"lower": (-3,) * 3, "upper": (3,) * 3, "speed": 20.0, "angular_speed": 50.0}
    )
    alone = {"tool_limits": tool, "capsules": (), "table_height": None}  # its joints' own limits and no other
    free = fr3.model_copy(update=alone)
    without = free.model_copy(update={"limits": fr3.limits.model_copy(update={"velocity_near_ends": None})})
    settings = ControllerSettings(velocity_scale=0.95, acceleration_scale=0.6, barrier_rate_hz=20.0)
    judge, broken = Judge(free), 0
    for arm in (free, without):
        for towards in (-1.0, 1.0):
            safety = SafetyFilter(arm, Kinematics(arm), settings)
            safety.start(np.array(arm.home))
            safety.advance(100)
            for tick in range(600):
                here = safety.locate()
                wanted = np.zeros(7)
                wanted[tick // 100] = 3.0 * towards
                safety.extend(here, safety.joint_velocity(here, np.zeros(6), np.zeros(7), wanted))
                safety.advance()
                if arm is free:
                    judge.see_speed_near_ends(*safety.end.rows[:2])
                    continue
                try:
                    judge.see_speed_near_ends(*safety.end.rows[:2])
                except AssertionError:
                    broken += 1
            if arm is free:
                assert safety.counts.stop_followed < 100
    assert broken > 20  # the same drive breaks them where the arm's file does not name them


def test_an_arm_outside_its_limits_may_come_back_but_not_go_further(arm: Arm) -> None:
    kinematics = Kinematics(arm)
    low = arm.model_copy(update={"tool_limits": arm.tool_limits.model_copy(update={"lower": (0.25, -0.35, 0.3)})})
    safety = SafetyFilter(low, kinematics, ControllerSettings())
    start = kinematics.tool_position(np.array(arm.home))[2]
    assert start < 0.3
    for vertical, lowest in ((-0.1, start - 1e-3), (0.1, 0.29)):
        safety.start(np.array(arm.home))
        safety.advance(100)
        for _ in range(400):
            here = safety.locate()
            safety.extend(here, safety.joint_velocity(here, np.array([0, 0, vertical, 0, 0, 0.0]), np.zeros(7)))
            safety.advance()
        assert here.position[2] > lowest


def moving(arm: Arm) -> SafetyFilter:
    """A filter whose arm moves all joints at 0.1 rad/s."""
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    safety.start(np.array(arm.home))
    safety.advance(100)
    for _ in range(60):
        safety.extend(safety.locate(), np.full(7, 0.1))
        safety.advance()
    assert safety.now.velocity == pytest.approx(np.full(7, 0.1), abs=0.01)
    return safety


def stop_ticks(safety: SafetyFilter) -> int:
    """Ticks until the arm rests along the command that it has."""
    return round(safety.trajectory(0).times[-1] / safety.dt)


@pytest.mark.parametrize("joint", [slice(None), 0, 3, 6])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_wanted_motion_that_is_not_finite_brings_the_arm_to_rest_along_the_stop_it_carries(
    arm: Arm, bad: float, joint: slice | int
) -> None:
    safety, judge = moving(arm), Judge(arm)
    wanted = np.full(7, 0.1)
    wanted[joint] = bad
    allowed = stop_ticks(safety)
    for tick in range(allowed + 100):
        assert not safety.extend(safety.locate(), wanted)
        safety.advance()
        judge.see([(stamp(tick), safety.now.rows)])
        if tick >= allowed:
            assert safety.resting
            assert not safety.now.rows[1:].any()
    assert safety.counts.refused == {Refusal.NOT_FINITE: allowed + 100}
    safety.extend(safety.locate(), np.full(7, 0.1))
    safety.advance(3)
    assert safety.now.velocity.all()  # a finite one moves it again


@pytest.mark.parametrize("part", ["twist", "posture", "joints"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_twist_posture_or_joint_velocity_that_is_not_finite_brings_the_arm_to_rest(
    arm: Arm, bad: float, part: str
) -> None:
    safety = moving(arm)
    wanted = {"twist": np.zeros(6), "posture": np.full(7, 0.1), "joints": np.full(7, 0.1)}
    wanted[part][2] = bad
    for _ in range(stop_ticks(safety) + 1):
        here = safety.locate()
        safety.extend(here, safety.joint_velocity(here, **wanted))
        safety.advance()
    assert safety.resting
    assert safety.counts.refused == {Refusal.NOT_FINITE: safety.counts.stop_followed}


@pytest.mark.parametrize("joint", [slice(None), 0, 3, 6])
@pytest.mark.parametrize("large", [1e6, -1e6, 1e300])
def test_a_large_wanted_motion_is_bounded_by_the_limits(arm: Arm, large: float, joint: slice | int) -> None:
    """At each tick the published limits hold, and the arm moves as far as they let it."""
    safety, judge = moving(arm), Judge(arm)
    wanted = np.zeros(7)
    wanted[joint] = large
    fastest, start = 0.0, safety.now.position
    for tick in range(300):
        safety.extend(safety.locate(), wanted)
        safety.advance()
        judge.see([(stamp(tick), safety.now.rows)])
        judge.see_distances(safety.now.position)
        fastest = max(fastest, float(np.abs(safety.now.velocity).max()))
    assert fastest > 0.2
    assert (np.sign(safety.now.position - start)[joint] == np.sign(large)).all()
    assert Refusal.NOT_FINITE not in safety.counts.refused


def test_a_step_from_an_outdated_tool_position_is_refused(arm: Arm) -> None:
    safety = moving(arm)
    here = safety.locate()
    safety.extend(here, np.full(7, 0.1))
    with pytest.raises(ValueError, match="once per tick"):
        safety.extend(here, np.full(7, 0.1))
    with pytest.raises(ValueError, match="once per tick"):
        safety.joint_velocity(here, np.zeros(6), np.zeros(7))
