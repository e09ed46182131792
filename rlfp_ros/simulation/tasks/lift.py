"""Lift: grasp a LEGO brick and hold it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, reach_for
from rlfp_ros.simulation.tasks.task import ARM_FOOT, Task, TaskSettings, register

if TYPE_CHECKING:
    from rlfp_ros.simulation.pybullet_world import World

TOOL_COST = 3.0  # per metre between tool and brick, and frame
HEIGHT_REWARD = 20.0  # per metre that the brick is up, and frame
SUCCESS_REWARD = 10.0

# The teacher's own.
RATE = 4.0  # 1/s
OVERSHOOT = 0.02  # m above the height asked for: it stays up there while the brick slips a little


class LiftSettings(TaskSettings):
    """`sim/tasks/lift.yaml`."""

    height: float = Field(gt=0)  # m, of the brick's middle above where it lay
    largest_yaw: float = Field(ge=0)  # rad, of the brick at the start; the gripper does not turn


@register("lift")
class Lift(Task):
    """Success: the brick is `height` above the table, to within `success_distance`, for `hold`."""

    settings: LiftSettings
    settings_schema = LiftSettings
    keypoints = ("object", "tool", "hand", "base")
    grips = True

    def build(self, world: World) -> None:
        self.block = world.add_block(self.settings.block_size, studs=True)

    def reset(self, world: World, rng: np.random.Generator) -> None:
        x, y = rng.uniform(self.settings.region.lower, self.settings.region.upper)
        yaw = rng.uniform(-self.settings.largest_yaw, self.settings.largest_yaw)
        world.place(self.block, (x, y, self.settings.block_size[2] / 2), yaw)

    def object_pose(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        return world.body_pose(self.block)

    def keypoint_positions(self, world: World) -> np.ndarray:
        return np.stack([self.object_pose(world)[0], world.tool_position(), world.hand_position(), np.array(ARM_FOOT)])

    def distance(self, world: World) -> float:
        """m that are missing to the height; more height is no error."""
        return max(0.0, self.settings.height - self._raised(world))

    def reward(self, world: World, success: bool) -> float:
        tool = float(np.linalg.norm(world.tool_position() - self.object_pose(world)[0]))
        raised = min(max(self._raised(world), 0.0), self.settings.height)
        return -TOOL_COST * tool + HEIGHT_REWARD * raised + SUCCESS_REWARD * success

    def privileged_state(self, world: World) -> np.ndarray:
        block, turned = self.object_pose(world)
        tool, width = world.tool_position(), [world.gripper_width()]
        return np.concatenate([block, turned, tool, block - tool, world.tool_velocity(), width]).astype(np.float32)

    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        block, _ = self.object_pose(world)
        if not grasped(world, block, self.settings.block_size):
            return reach_for(world, block, action)
        missing = self.settings.height + OVERSHOOT - self._raised(world)
        return gripping_action(np.array([0.0, 0.0, RATE * missing]), closed=True, action=action)

    def _raised(self, world: World) -> float:
        return float(self.object_pose(world)[0][2]) - self.settings.block_size[2] / 2
