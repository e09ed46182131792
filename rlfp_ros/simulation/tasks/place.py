"""Place: pick a LEGO brick up and put it down at a goal."""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, reach_for
from rlfp_ros.simulation.tasks.task import GRIPPING_ACTION, TASKS
from rlfp_ros.simulation.tasks.task_scene import TaskScene, TeacherScene

TOOL_COST = 1.0  # per metre between tool and brick, per frame
GOAL_COST = 5.0  # per metre between brick and goal, per frame
SUCCESS_REWARD = 10.0  # once
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
        """Penalise the distances from brick to goal and from tool to brick; reward success."""
        block, _ = self.object_pose(scene)
        away = float(np.linalg.norm(self.goal_position - block))
        tool = float(np.linalg.norm(scene.tool_position() - block))
        return -GOAL_COST * away - TOOL_COST * tool + SUCCESS_REWARD * success

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
