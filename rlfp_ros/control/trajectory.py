"""The command to the arm: a short joint trajectory that ends at rest (ros2_control's JTC contract)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """N points for J joints, times counted from `stamp_ns`. The last point is at rest.

    The same numbers as a `trajectory_msgs/JointTrajectory`, as arrays.
    """

    stamp_ns: int
    times: np.ndarray  # [N] s after stamp, increasing, first > 0
    states: np.ndarray  # [N, 3, J] rad, rad/s, rad/s^2

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
        """One point: at `positions` [J] rad and at rest, `time_s` after the stamp."""
        still = np.zeros_like(positions)
        return Trajectory(stamp_ns, np.array([time_s]), np.array([[positions, still, still]]))


@dataclass(frozen=True)
class Residual:
    """What the policy asks for: tool velocity in the base frame (or joint velocities), and a gripper width."""

    stamp_ns: int  # of the image it was computed from
    twist: np.ndarray  # [6] m/s, rad/s; where the bundle's action is of kind joint_velocity, [J] rad/s
    gripper_width: float | None = None  # m; None: leave the gripper alone
