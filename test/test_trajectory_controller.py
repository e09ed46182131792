"""Tests of the model of joint_trajectory_controller, which the simulators, the twin and the safety tests share."""

from __future__ import annotations

import numpy as np
import pytest

from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.control.trajectory_controller import TrajectoryController

SECOND = 1_000_000_000


def trajectory(stamp_ns: int, times: list[float], positions: list[float], velocities: list[float]) -> Trajectory:
    """Points of a two-joint arm whose joints move alike, without acceleration at the points."""
    rows = np.repeat(np.array(positions)[:, None], 2, axis=1)
    speeds = np.repeat(np.array(velocities)[:, None], 2, axis=1)
    return Trajectory(stamp_ns, np.array(times), np.stack((rows, speeds, np.zeros_like(rows)), axis=1))


@pytest.fixture
def controller() -> TrajectoryController:
    made = TrajectoryController(2)
    made.reset(np.array([0.5, 0.5]))
    return made


def test_holds_its_position_until_a_command_comes(controller: TrajectoryController) -> None:
    position, velocity, acceleration = controller.sample(7 * SECOND)
    assert position.tolist() == [0.5, 0.5]
    assert not velocity.any()
    assert not acceleration.any()


def test_interpolates_from_the_desired_state_to_the_first_point(controller: TrajectoryController) -> None:
    assert controller.accept(trajectory(0, [1.0], [1.5], [0.0]), now_ns=0)
    middle, speed, _ = controller.sample(SECOND // 2)
    assert middle == pytest.approx([1.0, 1.0])
    assert speed == pytest.approx([1.875, 1.875])  # the quintic's peak: 15/8 of the mean


def test_stays_at_rest_at_the_last_point(controller: TrajectoryController) -> None:
    controller.accept(trajectory(0, [1.0], [1.5], [0.3]), now_ns=0)
    position, velocity, acceleration = controller.sample(2 * SECOND)
    assert position.tolist() == [1.5, 1.5]
    assert not velocity.any()
    assert not acceleration.any()


def test_a_cubic_between_points_is_reproduced_exactly(controller: TrajectoryController) -> None:
    jerk, times = 6.0, np.array([0.5, 1.0])
    rows = [np.repeat((0.5 + jerk * times**3 / 6)[:, None], 2, axis=1)]
    rows += [np.repeat((jerk * times**2 / 2)[:, None], 2, axis=1), np.repeat((jerk * times)[:, None], 2, axis=1)]
    controller.accept(Trajectory(0, times, np.stack(rows, axis=1)), now_ns=0)
    for time in (0.1, 0.37, 0.8):
        position, velocity, acceleration = controller.sample(round(time * SECOND))
        assert position == pytest.approx(np.full(2, 0.5 + jerk * time**3 / 6), abs=1e-12)
        assert velocity == pytest.approx(np.full(2, jerk * time**2 / 2), abs=1e-12)
        assert acceleration == pytest.approx(np.full(2, jerk * time), abs=1e-11)


def test_a_trajectory_that_agrees_changes_nothing_whenever_it_arrives(controller: TrajectoryController) -> None:
    first = trajectory(0, [0.5, 1.0], [0.7, 1.0], [0.6, 0.0])
    late = TrajectoryController(2)
    late.reset(np.array([0.5, 0.5]))
    for one in (controller, late):
        one.accept(first, now_ns=0)
    late.accept(trajectory(SECOND // 4, [0.25, 0.75], [0.7, 1.0], [0.6, 0.0]), now_ns=SECOND // 3)
    for time in np.linspace(0.34, 1.2, 20):
        assert late.sample(round(time * SECOND))[0] == pytest.approx(controller.sample(round(time * SECOND))[0])


def test_an_ended_trajectory_and_values_that_are_not_finite_are_refused(controller: TrajectoryController) -> None:
    assert not controller.accept(trajectory(0, [1.0], [1.5], [0.0]), now_ns=SECOND)
    assert not controller.accept(trajectory(0, [1.0], [np.nan], [0.0]), now_ns=0)
    assert not controller.accept(trajectory(0, [], [], []), now_ns=0)
    assert controller.refused == 3
    assert controller.sample(SECOND)[0].tolist() == [0.5, 0.5]
