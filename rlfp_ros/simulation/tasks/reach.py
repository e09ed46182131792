"""Reach: bring the tool centre point to a small coloured block."""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import TASKS, Task
from rlfp_ros.simulation.tasks.task_scene import TaskScene, TeacherScene

NEAR = 0.04  # m, scale of the reward
SUCCESS_REWARD = 5.0  # once
TEACHER_RATE = 4.0  # 1/s


@TASKS.register("reach")
class Reach(Task):
    """Won if the tool centre point stays within `success_distance` of the block's centre for `hold`."""

    training = {  # noqa: RUF012 - declared a class variable by Task
        "encoder_training": {"frames": 42_000, "updates": 1_450},
        "dagger": {"steps": 30_000, "final_updates": 8_000},
        "student": {"steps": 30_000},
    }

    def distance(self, scene: TaskScene) -> float:
        """Return the distance from the tool to the block's centre, m."""
        return float(np.linalg.norm(scene.tool_position() - self.object_pose(scene)[0]))

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a tool that is close to the block, and success."""
        return closeness(self.distance(scene), NEAR) - 1 + SUCCESS_REWARD * success

    def privileged_state(self, scene: TaskScene) -> np.ndarray:
        """Return block, tool, the vector between them and the tool's velocity, [12]; the block's yaw is left out."""
        block, _ = self.object_pose(scene)
        tool = scene.tool_position()
        return np.concatenate([block, tool, block - tool, scene.tool_velocity()]).astype(np.float32)

    def teacher(self, scene: TeacherScene, action: ActionContract) -> np.ndarray:
        """Move straight to the block."""
        towards = TEACHER_RATE * (self.object_pose(scene)[0] - scene.tool_position())
        return np.clip(towards / np.array(action.scale), -1, 1).astype(np.float32)
