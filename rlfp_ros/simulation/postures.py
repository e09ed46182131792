"""Arm postures for perception training: the tool anywhere in the workspace, often near the object."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.kinematics import Kinematics, rotation_matrix, rotation_vector

ITERATIONS = 12
DAMPING = 0.03  # of the damped least squares; large enough to stay calm near singular postures
NEAR_OBJECT = 0.45  # share of postures with the tool close to the object, where precision matters most
NEAR_SIGMA = 0.05  # m
HIGHEST = 0.36  # m, the camera sees no more
TILT_SIGMA = 0.06  # rad, off straight down


def tool_at(kinematics: Kinematics, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Joint positions [J] rad that bring the tool near `position` [3] m and `rotation` [3, 3], from home."""
    limits = kinematics.arm.limits
    q = np.array(kinematics.arm.home)
    for _ in range(ITERATIONS):
        at, turned, jacobian = kinematics.evaluate(q)
        error = np.concatenate([position - at, rotation_vector(rotation @ turned.T)])
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), error)
        q = np.clip(q + np.clip(step, -0.4, 0.4), limits.lower, limits.upper)
    return q


def random_posture(kinematics: Kinematics, near: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Joint positions [J] rad with the tool about downwards, somewhere above the table or near the point `near` [3]."""
    limits = kinematics.arm.tool_limits
    lower = np.add(limits.lower, (0.03, 0.07, 0.0))
    upper = np.subtract(limits.upper, (0.05, 0.07, 0.0)).clip(max=(9.0, 9.0, HIGHEST))
    if rng.uniform() < NEAR_OBJECT:
        position = near + rng.normal(0, NEAR_SIGMA, 3) + (0, 0, 0.02)
    else:
        position = rng.uniform(lower, upper)
    downwards = kinematics.evaluate(np.array(kinematics.arm.home))[1]
    rotation = rotation_matrix(rng.normal(0, TILT_SIGMA, 3)) @ downwards
    return tool_at(kinematics, np.clip(position, lower, upper), rotation)
