"""Place: pick a LEGO brick up and put it down at a goal."""

from __future__ import annotations

import math

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, held_between_fingers, reach_for
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import GRIPPING_ACTION, TASKS
from rlfp_ros.simulation.tasks.task_scene import TaskScene, TeacherScene

TOOL_SHARE, GOAL_SHARE = 0.2, 0.4  # of the reward: tool close to the brick, brick close to the goal
# The rest: fingers on the brick while it is away from the goal; at the goal more, the wider they are open.
GRIP_SHARE, RELEASE_SHARE = 0.15, 0.25
TOOL_NEAR, GOAL_NEAR = 0.04, 0.05  # m, scales of the reward
OPEN = 0.06  # m, opening of fingers that are open
SUCCESS_REWARD = 5.0  # once
LET_GO = 0.016  # m; with an opening this much wider than the brick the fingers hold nothing, even if it is turned

# The teacher:
RATE = 4.0  # 1/s, speed per distance
CARRY_HEIGHT = 0.07  # m, of the brick's middle
OVER_GOAL = 0.008  # m, horizontal distance from the goal at which the brick is lowered
PUT_DOWN = 0.004  # m above the table at which the fingers open
LEAVE_HEIGHT = 0.12  # m, height of the tool at the end


@TASKS.register("place")
class Place(GoalTask):
    """Won if the brick lies released within `success_distance` of the goal for `hold`."""

    action = GRIPPING_ACTION
    grips = True
    largest_yaw = 0.4  # rad; the gripper does not turn

    def distance(self, scene: TaskScene) -> float:
        """Return the distance from brick to goal, m; while the gripper holds it, at least twice `success_distance`."""
        away = float(np.linalg.norm(self.goal_position - self.object_pose(scene)[0]))
        return away if self._let_go(scene) else max(away, 2 * self.settings.success_distance)

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a tool that is close to the brick, fingers on it, a brick close to the goal, release, and success."""
        block, _ = self.object_pose(scene)
        away = math.dist(self.goal_position, block)
        total = TOOL_SHARE * closeness(math.dist(scene.tool_position(), block), TOOL_NEAR)
        total += GOAL_SHARE * closeness(away, GOAL_NEAR)
        if away < self.settings.success_distance:
            total += GRIP_SHARE + RELEASE_SHARE * min(1.0, scene.gripper_width() / OPEN)
        else:
            total += GRIP_SHARE * held_between_fingers(scene, self.block)
        return total - 1 + SUCCESS_REWARD * success

    def teacher(self, scene: TeacherScene, action: ActionContract) -> np.ndarray:
        """Take hold of the brick, carry it over the goal, put it down, let go and leave."""
        block, _ = self.object_pose(scene)
        size, tool, goal = self.settings.block_size, scene.tool_position(), self.goal_position
        beside = float(np.linalg.norm((goal - block)[:2]))
        lying = block[2] < goal[2] + PUT_DOWN
        if beside < 2 * OVER_GOAL and lying:
            velocity = np.array([0.0, 0.0, RATE * (LEAVE_HEIGHT - tool[2])]) if self._let_go(scene) else np.zeros(3)
            return gripping_action(velocity, closed=False, action=action)
        if not grasped(scene, block, size):
            return reach_for(scene, block, action)
        velocity = RATE * (goal - block)
        if beside > OVER_GOAL and not (beside < 2 * OVER_GOAL and block[2] < CARRY_HEIGHT - 0.02):
            velocity[2] = RATE * (CARRY_HEIGHT - block[2])
            if block[2] < CARRY_HEIGHT - 0.03:
                velocity[:2] = 0.0  # first up
        return gripping_action(velocity, closed=True, action=action)

    def _let_go(self, scene: TeacherScene) -> bool:
        return scene.gripper_width() > self.settings.block_size[0] + LET_GO
