"""Random postures for perception training: the tool is anywhere in the workspace, often near or holding the object."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.kinematics import Kinematics, rotation_matrix, rotation_vector
from rlfp_ros.simulation.pybullet_world import PybulletWorld

ITERATIONS = 12
DAMPING = 0.03  # of the damped least squares; large enough for small steps near singular postures
NEAR_OBJECT = 0.45  # fraction of postures with the tool close to the object, because precision matters most there
NEAR_SIGMA = 0.05  # m, standard deviation of the tool's distance in these
HIGHEST = 0.36  # m, highest position of the tool that the camera sees
TILT_SIGMA = 0.06  # rad, standard deviation of the tool's tilt from straight down
HELD = 0.3  # fraction of scenes with the object between the fingers, for tasks that grip
HELD_SIGMA = 0.006  # m, standard deviation of the object's distance from the middle between the fingers
HELD_SLACK = 0.01  # m, largest gap between the fingers and the object
HELD_YAW = 0.4  # rad, largest yaw to either side


def tool_at(kinematics: Kinematics, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return joint positions [J] rad that bring the tool near `position` [3] m and `rotation` [3, 3], from home."""
    limits = kinematics.arm.limits
    q = np.array(kinematics.arm.home)
    for _ in range(ITERATIONS):
        at, turned, jacobian = kinematics.evaluate(q)
        error = np.concatenate([position - at, rotation_vector(rotation @ turned.T)])
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), error)
        q = np.clip(q + np.clip(step, -0.4, 0.4), limits.lower, limits.upper)
    return q


def random_posture(kinematics: Kinematics, near: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return joint positions [J] rad with the tool about downwards, above the table or near the point `near` [3]."""
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


def arrange(world: PybulletWorld, kinematics: Kinematics, lying: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move the arm, and the object into its fingers or back to `lying` [3] m; return the object's position [3] m."""
    arm, task = world.arm, world.task
    width = 0.0 if arm.gripper is None else arm.gripper.open_width * rng.uniform(0.3, 1.0)
    if arm.gripper is not None and task.starts_closed:
        width = arm.gripper.closed_width
    held = task.grips and rng.uniform() < HELD
    if held:
        width = task.settings.block_size[0] + rng.uniform(0, HELD_SLACK)
    points = task.object_points(world)
    near = lying if len(points) == 1 else points[rng.integers(len(points))]
    posture = random_posture(kinematics, near, rng)
    world.move_arm(posture, width)
    if task.grips:
        place = lying
        if held:
            place = world.tool_position() + rng.normal(0, HELD_SIGMA, 3)
            place[2] = max(place[2], lying[2])
        world.place(task.block, tuple(place), rng.uniform(-1, 1) * HELD_YAW)
    if not held:
        task.scatter(world, world, rng)
    return task.object_pose(world)[0]
