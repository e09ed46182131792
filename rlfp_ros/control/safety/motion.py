"""Commanded motion of the joints as values: positions, velocities and accelerations at one time.

Everything is piecewise constant in jerk with changes only on ticks. A quintic through position, velocity and
acceleration of a piece with constant jerk *is* that piece, so the interpolation of joint_trajectory_controller between
two motions is exactly the checked motion.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Code that runs every tick uses .dot(): on arrays this small it takes half the time of @.

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
    rows
        [3, J], the motion at which the tool was located.
    position
        [3] m, tool in the base frame.
    rotation
        [3, 3], T_base_tool.
    jacobian
        [6, J], joint velocities to the tool's (vx vy vz wx wy wz) in the base frame.
    """

    rows: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    jacobian: np.ndarray


def propagation(time: float) -> np.ndarray:
    """Return [3, 4]: (position, velocity, acceleration, acceleration at the end) to a motion `time` s later.

    Jerk is constant in between.
    """
    return np.array(
        (
            (1.0, time, time * time / 3.0, time * time / 6.0),
            (0.0, 1.0, 0.5 * time, 0.5 * time),
            (0.0, 0.0, 0.0, 1.0),
        )
    )


def largest(vector: np.ndarray) -> float:
    """Return the largest magnitude in a short vector of finite numbers. For seven numbers, floats beat numpy."""
    values = vector.tolist()
    return max(max(values), -min(values))


def everywhere(condition: np.ndarray) -> bool:
    """Return condition.all(); ten times faster on small arrays."""
    return 0 not in condition.tobytes()


def finite(vector: np.ndarray) -> bool:
    """Return whether all numbers of a short vector are finite; twice as fast as numpy."""
    return all(map(math.isfinite, vector.tolist()))
