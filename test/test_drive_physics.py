"""Tests of the drives' physics on one and two joints, against springs and dry friction, and of their profiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from rlfp_ros.control.arm import load_arm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.drive_physics import Drives, DriveStep
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import Profile, Range, load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

DT = 1 / 240


def drives(joints: int = 1, /, **values: float) -> Drives:
    """Drives of equal joints; what is not given is 0, but for the largest torque."""
    given = {"stiffness": 0.0, "damping": 0.0, "drag": 0.0, "friction": 0.0, "rotor": 0.0, "forces": 1e6} | values
    return Drives(**{name: np.full(joints, value) for name, value in given.items()})


def played(of: Drives, mass: np.ndarray, start: np.ndarray, ticks: int) -> np.ndarray:
    """Release an arm at `start` [J] rad with its setpoint at 0; return the positions [N, J]."""
    step, position, velocity, still = DriveStep(of, DT), start.copy(), np.zeros(len(start)), np.zeros(len(start))
    places = []
    for _ in range(ticks):
        acceleration, _ = step.solve(mass, position, velocity, still, still, still)
        velocity = velocity + DT * acceleration
        position = position + DT * velocity
        places.append(position)
    return np.array(places)


def test_a_spring_swings_with_the_frequency_of_stiffness_and_both_inertias() -> None:
    stiffness = 3.0 * (2 * np.pi * 2.0) ** 2
    places = played(drives(stiffness=stiffness, rotor=1.0), np.array([[2.0]]), np.array([0.1]), 480)[:, 0]
    crossings = np.flatnonzero((places[:-1] > 0) & (places[1:] <= 0))
    assert np.diff(crossings).mean() * DT == pytest.approx(0.5, rel=0.02)


def test_damping_acts_on_the_error_of_the_speed_and_drag_on_the_speed() -> None:
    for of, wanted in ((drives(damping=50.0), 2.0), (drives(drag=50.0), 0.0)):
        step, velocity = DriveStep(of, DT), np.array([1.0])
        for _ in range(240):
            acceleration, _ = step.solve(np.eye(1), np.zeros(1), velocity, np.zeros(1), np.zeros(1), np.full(1, 2.0))
            velocity = velocity + DT * acceleration
        assert velocity[0] == pytest.approx(wanted, abs=1e-3)


def test_dry_friction_holds_up_to_its_size_and_resists_with_its_size() -> None:
    zero = np.zeros(1)
    held, torque = DriveStep(drives(stiffness=100.0, friction=11.0), DT).solve(
        np.eye(1), np.array([0.1]), zero, zero, zero, zero
    )
    assert held[0] == pytest.approx(0.0, abs=1e-9)
    assert torque[0] == pytest.approx(-10.0)
    slides, torque = DriveStep(drives(stiffness=100.0, friction=4.0), DT).solve(
        np.eye(1), np.array([0.1]), zero, zero, zero, zero
    )
    assert slides[0] == pytest.approx(torque[0] + 4.0)
    assert slides[0] == pytest.approx(-6.0, rel=0.01)


def test_joints_that_are_coupled_are_held_together() -> None:
    mass, start = np.array([[2.0, 1.8], [1.8, 2.0]]), np.array([0.1, -0.05])
    places = played(drives(2, stiffness=100.0, friction=12.0), mass, start, 240)
    assert np.abs(places - start).max() < 1e-4
    moving = played(drives(2, stiffness=100.0, friction=3.0), mass, start, 480)
    assert np.abs(moving[-1] - moving[-50]).max() < 1e-5
    assert np.abs(100.0 * moving[-1]).max() <= 3.0 + 1e-3


def test_a_drive_gives_no_more_than_its_largest_torque() -> None:
    zero = np.zeros(1)
    step = DriveStep(drives(stiffness=1000.0, damping=10.0, forces=5.0), DT)
    acceleration, torque = step.solve(np.eye(1), zero, zero, zero, np.ones(1), zero)
    assert torque[0] == 5.0
    assert acceleration[0] == pytest.approx(5.0)


def test_a_light_joint_with_a_strong_drive_is_stable() -> None:
    of = drives(stiffness=50.0, damping=5.0, drag=1.0, friction=0.05)
    places = played(of, np.array([[1e-5]]), np.array([0.5]), 480)[:, 0]
    assert np.abs(places).max() <= 0.5
    assert abs(places[-1]) <= 0.05 / 50.0 + 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"joint_friction": {"low": 0, "high": 1, "unit": "N m"}}, "joint_friction is given without drive_bandwidth"),
        ({"noise": {"low": [0, 0], "high": [1, 1], "unit": "counts"}}, "noise has a list of values"),
        ({"motor_gain": {"low": [1, 1], "high": 1, "unit": "ratio"}}, "has 2 values in low and 1 in high"),
        ({"motor_gain": {"low": [1, 2], "high": [1, 1], "unit": "ratio"}}, "has low 2.0 above high 1.0"),
        ({"drive_bandwidth": {"low": 0, "high": 3, "unit": "Hz"}}, "drive_bandwidth is 0 to 3 Hz"),
    ],
)
def test_a_wrong_profile_of_drives_is_refused(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "textures": "plain", **fields}))
    with pytest.raises(ConfigurationError, match=message):
        load_profile(file)


def test_a_profile_of_another_arm_is_refused() -> None:
    uneven = Profile(
        name="mine", textures="plain", ranges={"motor_gain": Range(low=(1.0, 1.0), high=(1.0, 1.0), unit="ratio")}
    )
    with pytest.raises(ConfigurationError, match="motor_gain has 2 values, expected 7, one for each joint of panda"):
        PybulletWorld(load_arm("panda"), load_task("reach"), uneven, load_scene())
    profile = Profile(name="theirs", textures="plain", arm="so101")
    with pytest.raises(ConfigurationError, match="profile theirs: arm is 'so101', but the arm is panda"):
        PybulletWorld(load_arm("panda"), load_task("reach"), profile, load_scene())
