"""A scene at one moment, so that a task can judge it again later, for example with another goal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rlfp_ros.simulation.tasks.task_scene import Body, TaskScene


class RecordedScene:
    """A `TaskScene` with the present answers of another one.

    Everything is recorded, not only what the task asks now: with another goal it may ask more.

    Parameters
    ----------
    scene
        The scene to record.
    bodies
        All bodies of the task.
    """

    def __init__(self, scene: TaskScene, bodies: Iterable[Body]) -> None:
        self._tool_position, self._tool_velocity = scene.tool_position(), scene.tool_velocity()
        self._hand_position, self._gripper_width = scene.hand_position(), scene.gripper_width()
        self._poses = {body: scene.body_pose(body) for body in bodies}
        self._contacts = {body: scene.contacts(body) for body in self._poses}

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4] of a body, base frame."""
        position, quaternion = self._poses[body]
        return position.copy(), quaternion.copy()

    def tool_position(self) -> np.ndarray:
        """Tool centre point, [3] m, base frame."""
        return self._tool_position.copy()

    def gripper_width(self) -> float:
        """Opening of the gripper, m; 0 for an arm without one."""
        return self._gripper_width

    def tool_velocity(self) -> np.ndarray:
        """Velocity of the tool centre point, [3] m/s, base frame."""
        return self._tool_velocity.copy()

    def hand_position(self) -> np.ndarray:
        """Point [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point."""
        return self._hand_position.copy()

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touched the body."""
        return self._contacts[body].copy()
