"""The base class of tasks that bring a brick to a goal on the table (`push`, `place`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import SceneBuilder, TaskScene
from rlfp_ros.simulation.tasks.task_settings import GoalSettings, TaskSettings

MARKER_RADIUS = 0.03  # m
LYING = 0.005  # m, height above which a brick does not lie on the table
ATTEMPTS = 1000  # number of tries to draw a goal at the wanted distance


@dataclass
class GoalState:
    """The state of an episode of a goal task."""

    goal_position: np.ndarray  # [3] m, base frame


class GoalTask(Task):
    """A brick and a goal point. With `goal: marker` the policy does not get the point: it has to see the disc."""

    settings: GoalSettings
    settings_schema = GoalSettings
    state: GoalState
    largest_yaw = float(np.pi)  # rad, of the brick at the start

    def __init__(self, settings: TaskSettings, source: str = "") -> None:
        super().__init__(settings, source)
        if self.settings.goal == "marker":
            self.keypoints = ("object", "goal", "tool", "hand", "base")

    @property
    def goal_position(self) -> np.ndarray:
        """The goal of this episode, [3] m, base frame."""
        return self.state.goal_position

    @goal_position.setter
    def goal_position(self, position: np.ndarray) -> None:
        self.state = GoalState(position)

    def build(self, builder: SceneBuilder) -> None:
        """Create the brick, and the disc if the goal is shown."""
        self.block = builder.add_block(self.settings.block_size, studs=True)
        self._marker = builder.add_marker(MARKER_RADIUS) if self.settings.goal == "marker" else None

    def reset(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        """Draw brick and goal within their regions, `goal_distance` apart."""
        settings, height = self.settings, self.settings.block_size[2] / 2
        least, most = settings.goal_distance
        for _ in range(ATTEMPTS):
            block = rng.uniform(settings.region.lower, settings.region.upper)
            goal = rng.uniform(settings.goal_region.lower, settings.goal_region.upper)
            if least <= np.linalg.norm(goal - block) <= most:
                break
        else:
            raise ConfigurationError(
                f"{self.source}: goal_distance is {list(settings.goal_distance)}, but no point of "
                "goal_region is that far from one of region; widen one of them"
            )
        builder.place(self.block, (*block, height), yaw=rng.uniform(-self.largest_yaw, self.largest_yaw))
        self.goal_position = np.array([*goal, height])
        if self._marker is not None:
            builder.place(self._marker, (*goal, 0.001))

    def goal_point(self) -> np.ndarray | None:
        """Return the goal of this episode, [3] m, base frame."""
        return self.goal_position

    def goal(self, scene: TaskScene) -> np.ndarray | None:
        """Return the goal for the policy's input, or None if it has to see the disc."""
        return self.goal_position if self.settings.goal == "point" else None

    def reached_goal(self, scene: TaskScene) -> np.ndarray | None:
        """Return the brick's place, or None if it does not lie on the table."""
        position = self.object_pose(scene)[0].copy()
        height = self.settings.block_size[2] / 2
        if abs(position[2] - height) > LYING:
            return None
        position[2] = height
        return position

    def pursue(self, goal: np.ndarray) -> None:
        """Use another goal."""
        self.goal_position = goal

    def keypoint(self, name: str, scene: TaskScene) -> np.ndarray:
        """Return the position [3] m, base frame, of one of `keypoints`, the goal included."""
        return self.goal_position if name == "goal" else super().keypoint(name, scene)
