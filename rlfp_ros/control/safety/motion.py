"""Commanded motion of the joints as values: positions, velocities and accelerations at one time.

Everything is piecewise constant in jerk with changes only on ticks. A quintic through position, velocity and
acceleration of a piece with constant jerk *is* that piece, so the interpolation of joint_trajectory_controller between
two motions is exactly the checked motion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlfp_ros.control.compiled import compiled

AHEAD = 3  # ticks from a command's stamp to the end of its new step
ROUNDING = 1e-9  # tolerance of comparisons: rad, m and their rates


class Motion(NamedTuple):
    """Commanded motion of J joints at one time.

    Attributes
    ----------
    rows
        [3, J]: rad, rad/s, rad/s^2.
    at_rest
        Whether velocity and acceleration are exactly zero: stops end on stored zeros.
    """

    rows: np.ndarray
    at_rest: bool

    @property
    def position(self) -> np.ndarray:
        """[J] rad."""
        return self.rows[0]

    @property
    def velocity(self) -> np.ndarray:
        """[J] rad/s."""
        return self.rows[1]


class Located(NamedTuple):
    """The tool at one commanded motion.

    Attributes
    ----------
    number
        Number of the motion, counted by the filter since it was made.
    rows
        [3, J], the motion at which the tool was located.
    position
        [3] m, tool in the base frame.
    rotation
        [3, 3], T_base_tool.
    jacobian
        [6, J], joint velocities to the tool's (vx vy vz wx wy wz) in the base frame.
    """

    number: int
    rows: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    jacobian: np.ndarray


@compiled
def propagate(here: np.ndarray, joint: int, end: float, time: float, there: np.ndarray) -> None:
    """Set one joint's column of the motion `there` [3, J], `time` s after `here` [3, J].

    The acceleration changes to `end` (rad/s^2) at constant jerk.
    """
    position, velocity, acceleration = here[0, joint], here[1, joint], here[2, joint]
    there[0, joint] = position + time * velocity + time * time / 3.0 * acceleration + time * time / 6.0 * end
    there[1, joint] = velocity + 0.5 * time * acceleration + 0.5 * time * end
    there[2, joint] = end


@compiled
def copy_rows(source: np.ndarray, target: np.ndarray) -> None:
    """Copy an array [N, J] into another. A compiled slice assignment would allocate memory."""
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            target[row, column] = source[row, column]


@compiled
def copy_vector(source: np.ndarray, target: np.ndarray) -> None:
    """Copy an array [N] into another."""
    for index in range(len(source)):
        target[index] = source[index]


@compiled
def all_finite(vector: np.ndarray) -> bool:
    """Return whether all numbers of a vector are finite."""
    total = 0.0
    for value in vector:
        total += 0.0 * value  # NaN if one is not finite
    return total == 0.0


def largest(vector: np.ndarray) -> float:
    """Return the largest magnitude in a short vector of finite numbers. For seven numbers, floats beat numpy."""
    values = vector.tolist()
    return max(max(values), -min(values))


def everywhere(condition: np.ndarray) -> bool:
    """Return condition.all(); ten times faster on small arrays."""
    return 0 not in condition.tobytes()
