"""The answers of a scene at one moment, so that a task can judge it again later, for example with another goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlfp_ros.simulation.tasks.task_scene import Body, TaskScene


class RecordedScene:
    """A `TaskScene` that asks another scene each question once, and after `detach` knows only those answers."""

    def __init__(self, scene: TaskScene) -> None:
        self._scene: TaskScene | None = scene
        self._answers: dict[tuple[Any, ...], Any] = {}

    def detach(self) -> None:
        """Forget the scene, and keep its answers."""
        self._scene = None

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4] of a body, base frame."""
        position, turned = self._ask("body_pose", body)
        return position.copy(), turned.copy()

    def tool_position(self) -> np.ndarray:
        """Tool centre point, [3] m, base frame."""
        return np.array(self._ask("tool_position"))

    def gripper_width(self) -> float:
        """Opening of the gripper, m; 0 for an arm without one."""
        return float(self._ask("gripper_width"))

    def tool_velocity(self) -> np.ndarray:
        """Velocity of the tool centre point, [3] m/s, base frame."""
        return np.array(self._ask("tool_velocity"))

    def hand_position(self) -> np.ndarray:
        """Point [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point."""
        return np.array(self._ask("hand_position"))

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touched the body."""
        return np.array(self._ask("contacts", body))

    def _ask(self, question: str, *about: Any) -> Any:
        key = (question, *about)
        if key not in self._answers:
            if self._scene is None:
                raise LookupError(
                    f"{question}{about} was not asked when the scene was recorded; let reward, success and "
                    "privileged_state of the task ask the same questions with every goal"
                )
            self._answers[key] = getattr(self._scene, question)(*about)
        return self._answers[key]
