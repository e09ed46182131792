"""The command to the arm: a short joint trajectory that ends at rest (ros2_control's JTC contract)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """N points for J joints, of which the last is at rest: a `trajectory_msgs/JointTrajectory` as arrays.

    Attributes
    ----------
    stamp_ns
        The time from which `times` are counted.
    times
        [N] s after the stamp, increasing, first > 0.
    states
        [N, 3, J] rad, rad/s, rad/s^2.
    """

    stamp_ns: int
    times: np.ndarray
    states: np.ndarray

    @property
    def positions(self) -> np.ndarray:
        """[N, J] rad."""
        return self.states[:, 0]

    @property
    def velocities(self) -> np.ndarray:
        """[N, J] rad/s."""
        return self.states[:, 1]

    @property
    def accelerations(self) -> np.ndarray:
        """[N, J] rad/s^2."""
        return self.states[:, 2]

    @staticmethod
    def to_rest(stamp_ns: int, time_s: float, positions: np.ndarray) -> Trajectory:
        """Return a trajectory of one point: at `positions` [J] rad and at rest, `time_s` after the stamp."""
        still = np.zeros_like(positions)
        return Trajectory(stamp_ns, np.array([time_s]), np.array([[positions, still, still]]))


@dataclass(frozen=True)
class Command:
    """The command of one tick. Nothing is sent for a field that is None.

    Attributes
    ----------
    trajectory
        The motion of the arm.
    gripper_width
        m.
    """

    trajectory: Trajectory | None
    gripper_width: float | None = None


NOTHING = Command(None, None)


@dataclass(frozen=True)
class Residual:
    """The policy's output: tool velocity in the base frame (or joint velocities), and a gripper width.

    Attributes
    ----------
    stamp_ns
        Stamp of the image that it was computed from.
    twist
        [6] m/s, rad/s; if the bundle's action is of kind joint_velocity, [J] rad/s.
    gripper_width
        m; None leaves the gripper as it is.
    """

    stamp_ns: int
    twist: np.ndarray
    gripper_width: float | None = None
