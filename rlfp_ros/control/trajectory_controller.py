"""A model of ros2_control's joint_trajectory_controller (JTC), Jazzy, with `interpolate_from_desired_state: true`.

Drivers that need no ROS package (`rlfp_ros.drivers`) follow commands with it. The simulator, the twin and the safety
tests run commands through it too, so that they check the setpoints that an arm would get. It behaves as JTC's
documentation describes:

- a message replaces the trajectory in force from the moment it is accepted (its points lie at stamp + time);
- before the first point it interpolates from the state that was desired when the message came in;
- between points: quintic if both ends have accelerations (our messages always have them);
- after the last point: that position, at rest;
- a trajectory whose last point is already past is refused.
"""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.compiled import prepare
from rlfp_ros.control.interpolation import REFUSED, interpolate, take_points
from rlfp_ros.control.trajectory import Trajectory


class TrajectoryController:
    """The setpoint of the arm's position controller at any time. Times are integer nanoseconds, joints [J]."""

    def __init__(self, joint_count: int) -> None:
        prepare()
        self.joint_count = joint_count
        self.refused = 0  # malformed messages, and those that had ended before they came
        self._knots, self._states = np.zeros(0, np.int64), np.zeros((0, 3, joint_count))
        self._desired = np.zeros((3, joint_count))
        self.reset(np.zeros(joint_count))

    def reset(self, positions: np.ndarray) -> None:
        """Forget every command; the desired state is `positions` [J] rad, at rest, as when JTC is activated."""
        self._rest = np.array(positions, dtype=float)
        self._count = 0  # points of the trajectory in force

    def accept(self, trajectory: Trajectory, now_ns: int) -> bool:
        """Accept a command that arrives at `now_ns`; return False if it is refused and the old one continues."""
        times, states = trajectory.times, trajectory.states
        size, count = len(times), REFUSED
        if size and states.shape == (size, 3, self.joint_count):
            self._make_room(size + 1)
            count = take_points(
                np.array(times, dtype=float),
                np.array(states, dtype=float),
                trajectory.stamp_ns,
                now_ns,
                self._rest,
                self._knots,
                self._states,
                self._count,
                self._desired,
            )
        if count == REFUSED:
            self.refused += 1
            return False
        self._count = count
        return True

    def _make_room(self, points: int) -> None:
        have = len(self._knots)
        if points > have:
            self._knots = np.append(self._knots, np.zeros(points - have, np.int64))
            self._states = np.concatenate((self._states, np.zeros((points - have, 3, self.joint_count))))

    def sample(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the desired (positions, velocities, accelerations), each [J], at `stamp_ns`."""
        state = np.empty((3, self.joint_count))
        interpolate(self._knots, self._states, self._count, self._rest, stamp_ns, state)
        return state[0], state[1], state[2]
