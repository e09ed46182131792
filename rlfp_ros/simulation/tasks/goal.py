"""What the tasks share that bring a brick to a goal on the table (`push`, `place`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import ARM_FOOT, GoalSettings, Task, TaskSettings

if TYPE_CHECKING:
    from rlfp_ros.simulation.pybullet_world import World

MARKER_RADIUS = 0.03  # m
ATTEMPTS = 1000  # to draw a goal at the wanted distance


class GoalTask(Task):
    """A brick and a goal point. With `goal: marker` the policy is not told the point: it has to see the disc."""

    settings: GoalSettings
    settings_schema = GoalSettings

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.keypoints = ("object", "tool", "hand", "base")
        if self.settings.goal == "marker":
            self.keypoints = ("object", "goal", "tool", "hand", "base")

    def build(self, world: World) -> None:
        self.block = world.add_block(self.settings.block_size, studs=True)
        self._marker = world.add_marker(MARKER_RADIUS) if self.settings.goal == "marker" else None

    def reset(self, world: World, rng: np.random.Generator) -> None:
        settings, height = self.settings, self.settings.block_size[2] / 2
        least, most = settings.goal_distance
        for _ in range(ATTEMPTS):
            block = rng.uniform(settings.region.lower, settings.region.upper)
            goal = rng.uniform(settings.goal_region.lower, settings.goal_region.upper)
            if least <= np.linalg.norm(goal - block) <= most:
                break
        else:
            raise ConfigurationError(
                f"sim/tasks/{settings.task}.yaml: goal_distance is {list(settings.goal_distance)}, but no point of "
                "goal_region is that far from one of region; widen one of them"
            )
        world.place(self.block, (*block, height), yaw=rng.uniform(-self.largest_yaw, self.largest_yaw))
        self.goal_position = np.array([*goal, height])
        if self._marker is not None:
            world.place(self._marker, (*goal, 0.001))

    largest_yaw = float(np.pi)  # rad, of the brick at the start

    def goal(self, world: World) -> np.ndarray | None:
        return self.goal_position if self.settings.goal == "point" else None

    def object_pose(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        return world.body_pose(self.block)

    def keypoint_positions(self, world: World) -> np.ndarray:
        points = {
            "object": self.object_pose(world)[0],
            "goal": self.goal_position,
            "tool": world.tool_position(),
            "hand": world.hand_position(),
            "base": np.array(ARM_FOOT),
        }
        return np.stack([points[name] for name in self.keypoints])

    def privileged_state(self, world: World) -> np.ndarray:
        block, turned = self.object_pose(world)
        tool, width = world.tool_position(), [world.gripper_width()]
        parts = [block, turned, tool, block - tool, self.goal_position - block, world.tool_velocity(), width]
        return np.concatenate(parts).astype(np.float32)
