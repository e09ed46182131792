"""Reach: bring the tool centre point to a small coloured block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.task import ARM_FOOT, Task, register

if TYPE_CHECKING:
    from rlfp_ros.simulation.pybullet_world import World

DISTANCE_COST = 5.0  # per metre and frame
SUCCESS_REWARD = 5.0
TEACHER_RATE = 4.0  # 1/s


@register("reach")
class Reach(Task):
    """Success: the tool centre point stays within `success_distance` of the block's centre for `hold`."""

    keypoints = ("object", "tool", "hand", "base")

    def build(self, world: World) -> None:
        self.block = world.add_block(self.settings.block_size)

    def reset(self, world: World, rng: np.random.Generator) -> None:
        x, y = rng.uniform(self.settings.region.lower, self.settings.region.upper)
        world.place(self.block, (x, y, self.settings.block_size[2] / 2), yaw=rng.uniform(-np.pi, np.pi))

    def object_pose(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        return world.body_pose(self.block)

    def keypoint_positions(self, world: World) -> np.ndarray:
        return np.stack([self.object_pose(world)[0], world.tool_position(), world.hand_position(), np.array(ARM_FOOT)])

    def distance(self, world: World) -> float:
        return float(np.linalg.norm(world.tool_position() - self.object_pose(world)[0]))

    def reward(self, world: World, success: bool) -> float:
        return -DISTANCE_COST * self.distance(world) + SUCCESS_REWARD * success

    def privileged_state(self, world: World) -> np.ndarray:
        block, _ = self.object_pose(world)
        tool = world.tool_position()
        return np.concatenate([block, tool, block - tool, world.tool_velocity()]).astype(np.float32)

    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        towards = TEACHER_RATE * (self.object_pose(world)[0] - world.tool_position())
        return np.clip(towards / np.array(action.scale), -1, 1).astype(np.float32)
