"""The interfaces through which tasks query and build a scene. Every world satisfies them.

A task never imports a simulator. PyBullet's and MuJoCo's worlds satisfy `TaskScene` and `SceneBuilder`. A policy's
estimator satisfies `TeacherScene`, so that a teacher can use estimates instead of the true state.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

Body = int  # a body of the scene, from `SceneBuilder.add_block` or `add_marker`

HAND_BEHIND_TOOL = 0.105  # m along the tool's direction, of the keypoint `hand`


class TeacherScene(Protocol):
    """The queries of a teacher, answered by a simulator, or by a policy's estimates from images and joints."""

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4] of a body, base frame."""
        ...

    def tool_position(self) -> np.ndarray:
        """Tool centre point, [3] m, base frame."""
        ...

    def gripper_width(self) -> float:
        """Opening of the gripper, m; 0 for an arm without one."""
        ...


class TaskScene(TeacherScene, Protocol):
    """The true state of a simulated scene, for rewards, success and labels."""

    def tool_velocity(self) -> np.ndarray:
        """Velocity of the tool centre point, [3] m/s, base frame."""
        ...

    def hand_position(self) -> np.ndarray:
        """Point [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point."""
        ...

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touches a body now."""
        ...


class SceneBuilder(Protocol):
    """Builds a task's scene. Call `add_*` in `Task.build` only, `place` whenever an episode begins."""

    def add_block(self, size: tuple[float, float, float], studs: bool = False) -> Body:
        """Add a free box of `size` m in the object's colour, mass and friction; `studs` makes it look like a brick."""
        ...

    def add_marker(self, radius: float) -> Body:
        """Add a flat green disc of `radius` m without collision."""
        ...

    def place(self, body: Body, position: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Put a body at rest at `position` m, base frame, turned by `yaw` rad about the vertical."""
        ...
