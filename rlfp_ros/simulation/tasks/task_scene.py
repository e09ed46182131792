"""The interfaces through which tasks query and build a scene. Every world satisfies them.

A task never imports a simulator. PyBullet's and MuJoCo's worlds satisfy `TaskScene` and `SceneBuilder`. A policy's
estimator satisfies `TeacherScene`, so that a teacher can use estimates instead of the true state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import numpy as np

Body = int  # a body of the scene, from one of `SceneBuilder`'s `add_*` methods
Vector = tuple[float, float, float]


class Hue(Enum):
    """Which colour a body gets. Both vary with the episode and always differ clearly."""

    OBJECT = auto()  # red, the colour of the object that the policy moves; nothing else on the table is red
    OTHER = auto()  # another hue, drawn for each body


@dataclass(frozen=True)
class Plate:
    """A box-shaped part of a body, m, in the body's frame."""

    middle: Vector
    size: Vector


@dataclass(frozen=True)
class Slider:
    """The bodies of an articulated object. Their frames coincide while it is closed."""

    housing: Body  # fixed; `SceneBuilder.place` moves the whole object
    drawer: Body  # slides along the x axis of the housing
    handle: Body  # fixed to the drawer


HAND_BEHIND_TOOL = 0.105  # m along the tool's direction, of the keypoint `hand`


def turned_by(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] of a body that is turned about the vertical only, from its quaternion xyzw [4]."""
    yaw = 2 * float(np.arctan2(quaternion[2], quaternion[3]))
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


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
    """Builds a task's scene. Call `add_*` in `Task.build` only, `place` and `slide` whenever an episode begins."""

    def add_block(self, size: Vector, studs: bool = False, hue: Hue = Hue.OBJECT) -> Body:
        """Add a free box of `size` m with the object's mass and friction; `studs` makes it look like a brick."""
        ...

    def add_marker(self, radius: float) -> Body:
        """Add a flat green disc of `radius` m without collision."""
        ...

    def add_slider(
        self, housing: Sequence[Plate], drawer: Sequence[Plate], handle: Sequence[Plate], travel: float
    ) -> Slider:
        """Add an object with a prismatic joint that opens from 0 to `travel` m; its handle has the object's colour."""
        ...

    def place(self, body: Body, position: Vector, yaw: float = 0.0) -> None:
        """Put a body at rest at `position` m, base frame, turned by `yaw` rad about the vertical.

        The housing of a slider takes the drawer along, as far open as it is.
        """
        ...

    def slide(self, slider: Slider, opening: float) -> None:
        """Open a slider by `opening` m, within its limits, at rest."""
        ...
