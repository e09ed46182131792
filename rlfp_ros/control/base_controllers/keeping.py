"""Keeps the tool's orientation and returns the spare joints to home, compiled: two parts of most base controllers."""

from __future__ import annotations

import math

import numpy as np

from rlfp_ros.control.chain import Vector, rotation_vector
from rlfp_ros.control.compiled import compiled, entry_point

ORIENTATION_RATE_HZ = 4.0  # 1/s; decay of the rotation error; slower than the joints' response, to avoid overshoot
ORIENTATION_SPEED_RAD_S = 1.0  # largest angular velocity of the correction


@compiled
def _turn_about(vector: np.ndarray, about: Vector) -> Vector:
    """Return a vector [3], turned by the rotation vector `about` (rad)."""
    angle = math.sqrt(about[0] * about[0] + about[1] * about[1] + about[2] * about[2])
    x, y, z = vector[0], vector[1], vector[2]
    if angle == 0.0:
        return x, y, z
    ax, ay, az = about[0] / angle, about[1] / angle, about[2] / angle
    c, s = math.cos(angle), math.sin(angle)
    along = (1.0 - c) * (ax * x + ay * y + az * z)
    return (
        c * x + s * (ay * z - az * y) + along * ax,
        c * y + s * (az * x - ax * z) + along * ay,
        c * z + s * (ax * y - ay * x) + along * az,
    )


@entry_point("void(f8[:,::1], f8[:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8, f8, f8)")
def keep(
    reference: np.ndarray,
    rotation: np.ndarray,
    error: np.ndarray,
    motion: np.ndarray,
    home: np.ndarray,
    posture: np.ndarray,
    dt: float,
    rate_hz: float,
    speed: float,
) -> None:
    """Turn a tool towards its reference orientation, and the joints towards home.

    Parameters
    ----------
    reference
        [3, 3], T_base_reference. The residual's rotation turns it.
    rotation
        [3, 3], T_base_tool.
    error
        [3, 3], scratch memory.
    motion
        [6]: the residual's twist; replaced by zeros and the angular velocity [3] rad/s in the base frame.
    home
        [J] rad.
    posture
        [J]: joint positions, rad; replaced by velocities towards home, rad/s.
    dt
        s since the last tick.
    rate_hz, speed
        Velocity per distance to home, and the highest velocity of a joint, rad/s.
    """
    turn = motion[3] * dt, motion[4] * dt, motion[5] * dt
    for column in range(3):
        x, y, z = _turn_about(reference[:, column], turn)
        reference[0, column], reference[1, column], reference[2, column] = x, y, z
    for row in range(3):
        for column in range(3):
            total = 0.0
            for index in range(3):
                total += reference[row, index] * rotation[column, index]
            error[row, column] = total
    x, y, z = rotation_vector(error)
    x, y, z = ORIENTATION_RATE_HZ * x, ORIENTATION_RATE_HZ * y, ORIENTATION_RATE_HZ * z
    size = math.sqrt(x * x + y * y + z * z)
    scale = ORIENTATION_SPEED_RAD_S / size if size > ORIENTATION_SPEED_RAD_S else 1.0
    motion[0], motion[1], motion[2] = 0.0, 0.0, 0.0
    motion[3], motion[4], motion[5] = scale * x, scale * y, scale * z
    for joint in range(len(home)):
        posture[joint] = min(max(rate_hz * (home[joint] - posture[joint]), -speed), speed)
