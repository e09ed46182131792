"""Push: bring a LEGO brick to a goal on the table with the closed gripper."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import TASKS
from rlfp_ros.simulation.tasks.task_scene import TaskScene, TeacherScene
from rlfp_ros.simulation.tasks.task_settings import GoalSettings

GOAL_SHARE = 0.7  # of the reward for a brick close to the goal; the rest is for a tool close to the brick's far side
GOAL_NEAR, TOOL_NEAR = 0.1, 0.05  # m, scales of the reward
FAR_SIDE = 0.03  # m, from the brick's middle away from the goal
TOUCHING = 0.015  # m, distance from the far side at which the tool is close enough
SUCCESS_REWARD = 5.0  # once

# The teacher:
BEHIND = 0.05  # m, from the brick's middle to the start of a push
TRAVEL_HEIGHT, PUSH_HEIGHT = 0.09, 0.022  # m, heights of the tool
CONTACT = 0.025  # m, from the brick's middle to the pushing tool
LANE = 0.012  # m beside the line from brick to goal within which the tool pushes; at twice this it is at travel height
LOW = 0.05  # m; below this height the tool pushes, weighted more the lower it is
CLEAR = 0.09  # m beside the brick; farther away the tool may move sideways at any height
RISE = 0.02  # m; if the tool is this far below the wanted height, it rises before it moves sideways
STEER = 1.4  # factor of the rate for the motion back to the line
PUSH_RATE, PUSH_SPEED = 1.8, 0.12  # speed per distance to the goal, 1/s; highest speed, m/s
CLOSE_ENOUGH = 0.006  # m from the goal at which the teacher stops


class PushSettings(GoalSettings):
    """`sim/tasks/push.yaml`."""

    teacher_rate: float = Field(default=5.0, gt=0, le=100)  # 1/s


@TASKS.register("push")
class Push(GoalTask):
    """Won if the brick stays within `success_distance` of the goal for `hold`."""

    settings: PushSettings
    settings_schema = PushSettings
    starts_closed = True
    pushes = True
    training = {  # noqa: RUF012 - declared a class variable by Task
        "dagger": {"steps": 54_000},
        "student": {"steps": 160_000},
        "student_reinforcement": {"steps": 45_000},
    }

    def distance(self, scene: TaskScene) -> float:
        """Return the distance on the table between brick and goal, m."""
        return self.distance_from(self.object_pose(scene)[0])

    def distance_from(self, block: np.ndarray) -> float:
        """Return the distance on the table between the goal and a brick at `block` [3], m."""
        return math.dist(self.goal_position[:2], block[:2])

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a brick that is close to the goal, a tool that is close to the brick's far side, and success."""
        block, _ = self.object_pose(scene)
        far_side = block - FAR_SIDE * self._direction(block)
        tool = closeness(math.dist(scene.tool_position(), far_side), TOOL_NEAR, TOUCHING)
        brick = closeness(self.distance_from(block), GOAL_NEAR)
        return GOAL_SHARE * brick + (1 - GOAL_SHARE) * tool - 1 + SUCCESS_REWARD * success

    def teacher(self, scene: TeacherScene, action: ActionContract) -> np.ndarray:
        """Move over the brick, down behind it and along the line to the goal; rise again if the brick slides off.

        Each motion fades into the next. With thresholds the teacher would hesitate if the brick's position is noisy,
        and would be hard to imitate.
        """
        rate = self.settings.teacher_rate
        block, _ = self.object_pose(scene)
        tool = scene.tool_position()
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
        if np.linalg.norm(offset[:2]) < CLEAR:  # first up, or the tool would drag the brick along
            velocity *= float(np.clip((tool[2] - height) / RISE + 2, 0, 1))
        velocity[2] = rate * (height - tool[2])
        return np.clip(velocity / np.array(action.scale), -1, 1).astype(np.float32)

    def _direction(self, block: np.ndarray) -> np.ndarray:
        """Return the unit vector [3] on the table from the brick to the goal."""
        offset = (self.goal_position - block) * (1, 1, 0)
        return offset / max(float(np.linalg.norm(offset)), 1e-6)
