"""Push: bring a LEGO brick to a goal on the table with the closed gripper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.task import GoalSettings, register

if TYPE_CHECKING:
    from rlfp_ros.simulation.pybullet_world import World

GOAL_COST = 5.0  # per metre between brick and goal, and frame
TOOL_COST = 1.0  # per metre between tool and the place behind the brick, and frame
SUCCESS_REWARD = 10.0
BEHIND = 0.05  # m, from the brick's middle to where a push begins

# The teacher's own.
TRAVEL_HEIGHT, PUSH_HEIGHT = 0.09, 0.022  # m, of the tool
CONTACT = 0.025  # m, from the brick's middle to the tool that pushes it
LANE = 0.012  # m, how far beside the line from brick to goal the tool may be and push; at twice that it is up
LOW = 0.05  # m, height of the tool from which it begins to push, the more the lower it is
CLEAR = 0.09  # m beside the brick, where the tool may move sideways at any height
RISE = 0.02  # m below the wanted height, at which it begins to wait until it is up
STEER = 1.4  # of the rate, back to that line
PUSH_RATE, PUSH_SPEED = 1.8, 0.12  # 1/s of the distance to the goal; m/s at most
CLOSE_ENOUGH = 0.006  # m, of the goal; the teacher stops here


class PushSettings(GoalSettings):
    """`sim/tasks/push.yaml`."""

    teacher_rate: float = Field(default=5.0, gt=0)  # 1/s


@register("push")
class Push(GoalTask):
    """Success: the brick stays within `success_distance` of the goal for `hold`."""

    settings: PushSettings
    settings_schema = PushSettings
    starts_closed = True
    pushes = True

    def distance(self, world: World) -> float:
        return self.distance_from(self.object_pose(world)[0])

    def distance_from(self, block: np.ndarray) -> float:
        """m on the table between the goal and a brick at `block` [3]."""
        return math.dist(self.goal_position[:2], block[:2])

    def reward(self, world: World, success: bool) -> float:
        block, _ = self.object_pose(world)
        behind = block - BEHIND * self._direction(block)
        tool = math.dist(world.tool_position(), behind)
        return -GOAL_COST * self.distance_from(block) - TOOL_COST * tool + SUCCESS_REWARD * success

    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        """Over the brick, down behind it, and along the line to the goal; back up where it slid off to a side.

        One motion fades into the next: thresholds would make it hesitate where the brick's place trembles, and are
        hard to imitate.
        """
        rate = self.settings.teacher_rate
        block, _ = self.object_pose(world)
        tool = world.tool_position()
        forward = self._direction(block)
        sideways = np.array([-forward[1], forward[0], 0.0])
        offset = tool - block
        along, beside = float(offset @ forward), float(offset @ sideways)
        outside = float(np.hypot(beside, max(0.0, along + CONTACT)))  # of the lane behind the brick
        height = PUSH_HEIGHT + (TRAVEL_HEIGHT - PUSH_HEIGHT) * float(np.clip(outside / LANE - 1, 0, 1))
        speed = float(np.clip(PUSH_RATE * (self.distance_from(block) - CLOSE_ENOUGH), 0, PUSH_SPEED))
        low = float(np.clip((LOW - tool[2]) / (LOW - PUSH_HEIGHT), 0, 1))
        behind = block - BEHIND * forward
        velocity = low * (speed * forward - STEER * rate * beside * sideways) + (1 - low) * rate * (behind - tool)
        if np.linalg.norm(offset[:2]) < CLEAR:  # first up, or it takes the brick along
            velocity *= float(np.clip((tool[2] - height) / RISE + 2, 0, 1))
        velocity[2] = rate * (height - tool[2])
        return np.clip(velocity / np.array(action.scale), -1, 1).astype(np.float32)

    def _direction(self, block: np.ndarray) -> np.ndarray:
        """Unit vector [3] on the table from the brick to the goal."""
        way = (self.goal_position - block) * (1, 1, 0)
        return way / max(float(np.linalg.norm(way)), 1e-6)
