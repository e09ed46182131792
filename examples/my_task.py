"""A task of your own: touch the block from above, without pushing it away.

./rlfp --plugin examples/my_task.py preview --task touch
./rlfp --plugin examples/my_task.py train touch --algorithm sac --observation state
"""

from __future__ import annotations

import numpy as np

from rlfp_ros.simulation.tasks.task import TASKS, Task
from rlfp_ros.simulation.tasks.task_scene import TaskScene

SPEED_COST = 0.2  # s/m, per metre per second of tool speed and per frame


@TASKS.register("touch")
class Touch(Task):
    """Success: the tool's tip rests on the block's upper face."""

    starts_closed = True  # the gripper's fingers, at the start of an episode

    def distance(self, scene: TaskScene) -> float:
        top = self.object_pose(scene)[0] + (0, 0, self.settings.block_size[2] / 2)
        return float(np.linalg.norm(scene.tool_position() - top))

    def reward(self, scene: TaskScene, success: bool) -> float:
        speed = float(np.linalg.norm(scene.tool_velocity()))
        return -5.0 * self.distance(scene) - SPEED_COST * speed + 5.0 * success
