"""Place: pick a LEGO brick up and put it down at a goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, reach_for
from rlfp_ros.simulation.tasks.task import register

if TYPE_CHECKING:
    from rlfp_ros.simulation.pybullet_world import World

TOOL_COST = 1.0  # per metre between tool and brick, and frame
GOAL_COST = 5.0  # per metre between brick and goal, and frame
SUCCESS_REWARD = 10.0
LET_GO = 0.016  # m wider than the brick is open, even when it lies turned: nothing holds it

# The teacher's own.
RATE = 4.0  # 1/s
CARRY_HEIGHT = 0.07  # m, of the brick's middle
OVER_GOAL = 0.008  # m beside the goal
PUT_DOWN = 0.004  # m above the table
LEAVE_HEIGHT = 0.12  # m, of the tool


@register("place")
class Place(GoalTask):
    """Success: the brick lies within `success_distance` of the goal, let go, for `hold`."""

    grips = True
    largest_yaw = 0.4  # rad; the gripper does not turn

    def distance(self, world: World) -> float:
        """m from brick to goal; while the gripper holds the brick, at least twice `success_distance`."""
        away = float(np.linalg.norm(self.goal_position - self.object_pose(world)[0]))
        return away if self._let_go(world) else max(away, 2 * self.settings.success_distance)

    def reward(self, world: World, success: bool) -> float:
        block, _ = self.object_pose(world)
        away = float(np.linalg.norm(self.goal_position - block))
        tool = float(np.linalg.norm(world.tool_position() - block))
        return -GOAL_COST * away - TOOL_COST * tool + SUCCESS_REWARD * success

    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        block, _ = self.object_pose(world)
        size, tool, goal = self.settings.block_size, world.tool_position(), self.goal_position
        beside = float(np.linalg.norm((goal - block)[:2]))
        lying = block[2] < goal[2] + PUT_DOWN
        if beside < 2 * OVER_GOAL and lying:
            velocity = np.array([0.0, 0.0, RATE * (LEAVE_HEIGHT - tool[2])]) if self._let_go(world) else np.zeros(3)
            return gripping_action(velocity, closed=False, action=action)
        if not grasped(world, block, size):
            return reach_for(world, block, action)
        velocity = RATE * (goal - block)
        if beside > OVER_GOAL and not (beside < 2 * OVER_GOAL and block[2] < CARRY_HEIGHT - 0.02):
            velocity[2] = RATE * (CARRY_HEIGHT - block[2])
            if block[2] < CARRY_HEIGHT - 0.03:
                velocity[:2] = 0.0  # first up
        return gripping_action(velocity, closed=True, action=action)

    def _let_go(self, world: World) -> bool:
        return world.gripper_width() > self.settings.block_size[0] + LET_GO
