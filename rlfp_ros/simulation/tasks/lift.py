"""Lift: grasp a LEGO brick and hold it up."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, held_between_fingers, reach_for
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import GRIPPING_ACTION, TASKS, Task
from rlfp_ros.simulation.tasks.task_scene import SceneBuilder, TaskScene, TeacherScene
from rlfp_ros.simulation.tasks.task_settings import TaskSettings

TOOL_SHARE, GRIP_SHARE, HEIGHT_SHARE = 0.3, 0.2, 0.5  # of the reward: close to the brick, fingers on it, brick raised
TOOL_NEAR = 0.04  # m, scale of the reward
SUCCESS_REWARD = 5.0  # once

# The teacher:
RATE = 4.0  # 1/s, speed per distance
OVERSHOOT = 0.02  # m above `height`, so that the brick stays high enough although it slips a little


class LiftSettings(TaskSettings):
    """`sim/tasks/lift.yaml`."""

    height: float = Field(default=0.10, gt=0, le=2)  # m, of the brick's middle above where it lay
    largest_yaw: float = Field(default=0.4, ge=0, le=3.2)  # rad, of the brick at the start; the gripper does not turn


@TASKS.register("lift")
class Lift(Task):
    """Won if the brick is `height` above the table, to within `success_distance`, for `hold`."""

    settings: LiftSettings
    settings_schema = LiftSettings
    action = GRIPPING_ACTION
    grips = True
    training = {  # noqa: RUF012 - declared a class variable by Task
        "encoder_training": {"frames": 66_000, "updates": 2_700},
        "dagger": {"steps": 75_000, "final_updates": 14_000},
    }

    def build(self, builder: SceneBuilder) -> None:
        """Create the brick."""
        self.block = builder.add_block(self.settings.block_size, studs=True)

    def reset(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        """Put the brick somewhere, turned as little as the gripper can take."""
        x, y = rng.uniform(self.settings.region.lower, self.settings.region.upper)
        yaw = rng.uniform(-self.settings.largest_yaw, self.settings.largest_yaw)
        builder.place(self.block, (x, y, self.settings.block_size[2] / 2), yaw)

    def distance(self, scene: TaskScene) -> float:
        """Return how much height is missing, m; more than `height` counts as 0."""
        return max(0.0, self.settings.height - self._raised(scene))

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a tool that is close to the brick, fingers on both of its sides, its height, and success."""
        block = self.object_pose(scene)[0]
        tool = closeness(math.dist(scene.tool_position(), block), TOOL_NEAR)
        raised = min(max(self._raised(scene), 0.0), self.settings.height) / self.settings.height
        held = held_between_fingers(scene, self.block)
        return TOOL_SHARE * tool + GRIP_SHARE * held + HEIGHT_SHARE * raised - 1 + SUCCESS_REWARD * success

    def teacher(self, scene: TeacherScene, action: ActionContract) -> np.ndarray:
        """Take hold of the brick, then raise it."""
        block, _ = self.object_pose(scene)
        if not grasped(scene, block, self.settings.block_size):
            return reach_for(scene, block, action)
        missing = self.settings.height + OVERSHOOT - self._raised(scene)
        return gripping_action(np.array([0.0, 0.0, RATE * missing]), closed=True, action=action)

    def _raised(self, scene: TeacherScene) -> float:
        """Return how far the brick is above where it lay, m."""
        return float(self.object_pose(scene)[0][2]) - self.settings.block_size[2] / 2
