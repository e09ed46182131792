"""Push: bring a LEGO brick to a goal on the table with the closed gripper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlfp_ros.bundle import ActionContract
from rlfp_ros.simulation.goal import GoalTask
from rlfp_ros.simulation.task import register

if TYPE_CHECKING:
    from rlfp_ros.simulation.world import World

GOAL_COST = 5.0  # per metre between brick and goal, and frame
TOOL_COST = 1.0  # per metre between tool and the place behind the brick, and frame
SUCCESS_REWARD = 10.0
BEHIND = 0.05  # m, from the brick's middle to where a push begins

# The teacher's own.
RATE = 5.0  # 1/s
TRAVEL_HEIGHT, PUSH_HEIGHT = 0.09, 0.022  # m, of the tool
LANE = 0.016  # m, how far beside the line from brick to goal the tool may be and still push
STEER = 7.0  # 1/s, back to that line
PUSH_SPEED = (0.03, 0.12)  # m/s, close to the goal and far from it
CLOSE_ENOUGH = 0.006  # m, of the goal; the teacher stops here


@register("push")
class Push(GoalTask):
    """Success: the brick stays within `success_distance` of the goal for `hold`."""

    starts_closed = True

    def distance(self, world: World) -> float:
        return float(np.linalg.norm((self.goal_position - self.object_pose(world)[0])[:2]))

    def reward(self, world: World, success: bool) -> float:
        block, _ = self.object_pose(world)
        behind = block - BEHIND * self._direction(block)
        tool = float(np.linalg.norm(world.tool_position() - behind))
        return -GOAL_COST * self.distance(world) - TOOL_COST * tool + SUCCESS_REWARD * success

    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        """Over the brick, down behind it, and along the line to the goal; back up where it slid off to a side."""
        block, _ = self.object_pose(world)
        tool = world.tool_position()
        forward = self._direction(block)
        sideways = np.array([-forward[1], forward[0], 0.0])
        offset = tool - block
        along, beside = float(offset @ forward), float(offset @ sideways)
        behind = block - BEHIND * forward
        low = tool[2] < PUSH_HEIGHT + 0.015
        if self.distance(world) < CLOSE_ENOUGH:
            velocity = np.zeros(3)
        elif along < -0.01 and abs(beside) < LANE and low:
            speed = float(np.clip(1.5 * self.distance(world), *PUSH_SPEED))
            velocity = speed * forward - STEER * beside * sideways
            velocity[2] = RATE * (PUSH_HEIGHT - tool[2])
        elif np.linalg.norm((tool - behind)[:2]) < 0.012:
            velocity = RATE * (np.array([*behind[:2], PUSH_HEIGHT]) - tool)
        else:
            velocity = RATE * (np.array([*behind[:2], TRAVEL_HEIGHT]) - tool)
            if tool[2] < TRAVEL_HEIGHT - 0.025 and np.linalg.norm(offset[:2]) < 0.09:
                velocity[:2] = 0.0  # first up, or it takes the brick along
        return np.clip(velocity / np.array(action.scale), -1, 1).astype(np.float32)

    def _direction(self, block: np.ndarray) -> np.ndarray:
        """Unit vector [3] on the table from the brick to the goal."""
        way = (self.goal_position - block) * (1, 1, 0)
        return way / max(float(np.linalg.norm(way)), 1e-6)
