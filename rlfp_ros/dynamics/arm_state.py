"""The state of an arm for local models: joints, points of the end effector, their velocities, and the last action."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.schema import ConfigurationError

# m, tool frame: three points that are not on one line fix position and orientation.
POINTS = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])


class ArmState:
    """Builds states [J + J + 9 + 9 + U] from measured joints and from the last action.

    In order: joint positions rad and velocities rad/s, the coordinates of three end-effector points in the base frame,
    m, and their velocities, m/s, and the last action. Neither a simulator's state nor a label is used. The last action
    belongs to the state because it is still on its way when the joints are measured: images and commands are delayed.

    Parameters
    ----------
    arm
        The arm.
    actions
        Number of components of an action.
    """

    def __init__(self, arm: Arm, actions: int) -> None:
        self.arm = arm
        self.kinematics = Kinematics(arm)
        joints = len(arm.joint_names)
        self.actions = actions
        self.size = 2 * joints + 2 * POINTS.size + actions
        self.places = np.arange(2 * joints, 2 * joints + POINTS.size)  # of the points' coordinates in the state

    def __call__(self, joints: JointState, last_action: np.ndarray) -> np.ndarray:
        """Return the state [X] of measured joints after an action [U]."""
        position, rotation, jacobian = self.kinematics.evaluate(joints.positions)
        twist = jacobian @ joints.velocities
        levers = POINTS @ rotation.T
        points, velocities = position + levers, twist[:3] + np.cross(twist[3:], levers)
        return np.concatenate([joints.positions, joints.velocities, points.ravel(), velocities.ravel(), last_action])

    def target(self, goal: np.ndarray) -> np.ndarray:
        """Return the points' coordinates [9] m if the tool is at `goal` [3] m and is turned as at home.

        Raises
        ------
        ConfigurationError
            If the goal is outside the arm's tool limits, or not finite.
        """
        limits = self.arm.tool_limits
        for axis, value, low, high in zip("xyz", goal, limits.lower, limits.upper, strict=True):
            if not low <= value <= high:  # also if it is not a number
                raise ConfigurationError(
                    f"goal: {axis} is {value:g} m, but tool_limits of {self.arm.origin} allow {low:g} to {high:g}; "
                    "choose a goal inside"
                )
        _, rotation, _ = self.kinematics.evaluate(np.array(self.arm.home))
        return (np.asarray(goal) + POINTS @ rotation.T).ravel()

    def tool_position(self, state: np.ndarray) -> np.ndarray:
        """Return the tool centre point [3] m of a state."""
        return state[self.places[:3]]
