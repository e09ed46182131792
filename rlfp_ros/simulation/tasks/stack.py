"""Stack: put a LEGO brick on top of another one of a different colour. There is no teacher."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.schema import ConfigurationError, Coordinate
from rlfp_ros.simulation.tasks.grasping import held_between_fingers
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import GRIPPING_ACTION, TASKS, Task
from rlfp_ros.simulation.tasks.task_scene import Body, Hue, SceneBuilder, TaskScene
from rlfp_ros.simulation.tasks.task_settings import TaskSettings

RESTING = 0.004  # m, difference of height from that of a brick on top of the other within which it rests there
LET_GO = 0.016  # m; with an opening this much wider than the brick the fingers hold nothing, even if it is turned
# Shares of the reward. Before the brick is in its place: tool close to it, fingers on it, height of the place reached,
# and close to the place. In its place all of these, and the rest for open fingers and for leaving.
TOOL_SHARE, GRIP_SHARE, HEIGHT_SHARE, PLACE_SHARE = 0.15, 0.15, 0.15, 0.3
RELEASE_SHARE, LEAVE_SHARE = 0.15, 0.1
TOOL_NEAR, PLACE_NEAR = 0.04, 0.05  # m, scales of the reward
SUCCESS_REWARD = 5.0  # once
ATTEMPTS = 1000  # number of tries to draw two bricks at the wanted distance
SCATTERED = 0.3  # share of the images for training with the brick on top of the other


class StackSettings(TaskSettings):
    """`sim/tasks/stack.yaml`."""

    largest_yaw: float = Field(default=0.4, ge=0, le=3.2)  # rad, of both bricks at the start; the gripper does not turn
    apart: tuple[Coordinate, Coordinate] = (0.11, 0.25)  # m, least and most between the bricks' middles at the start
    clearance: float = Field(default=0.03, gt=0, le=1)  # m, from the brick to the tool at the end

    @model_validator(mode="after")
    def _has_room(self) -> StackSettings:
        least, most = self.apart
        if not math.hypot(*self.block_size[:2]) < least < most:
            raise ValueError(
                f"apart is {list(self.apart)}, expected it to rise from above the diagonal of block_size, "
                f"{math.hypot(*self.block_size[:2]):.3f} m; or the bricks overlap"
            )
        return self


@TASKS.register("stack")
class Stack(Task):
    """Won if the brick rests on the target brick for `hold`, released, with the tool `clearance` away."""

    settings: StackSettings
    settings_schema = StackSettings
    action = GRIPPING_ACTION
    grips = True
    keypoints = ("object", "target", "tool", "hand", "base")
    objects = ("object", "target")
    target: Body  # the lower brick, from `build` on

    def build(self, builder: SceneBuilder) -> None:
        """Create the brick and the target brick."""
        self.block = builder.add_block(self.settings.block_size, studs=True)
        self.target = builder.add_block(self.settings.block_size, studs=True, hue=Hue.OTHER)

    def reset(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        """Put both bricks somewhere, `apart` from each other, turned as little as the gripper can take."""
        settings = self.settings
        least, most = settings.apart
        for _ in range(ATTEMPTS):
            places = rng.uniform(settings.region.lower, settings.region.upper, (2, 2))
            if least <= math.dist(*places) <= most:
                break
        else:
            raise ConfigurationError(
                f"{self.source}: apart is {list(settings.apart)}, but no two points of region are that far from each "
                "other; widen one of them"
            )
        yaws = rng.uniform(-settings.largest_yaw, settings.largest_yaw, 2)
        for body, (x, y), yaw in zip((self.block, self.target), places.tolist(), yaws.tolist(), strict=True):
            builder.place(body, (x, y, settings.block_size[2] / 2), yaw)

    def scatter(self, builder: SceneBuilder, scene: TaskScene, rng: np.random.Generator) -> None:
        """Put the brick on top of the other one, in some of the images."""
        if rng.uniform() < SCATTERED:
            yaw = rng.uniform(-self.settings.largest_yaw, self.settings.largest_yaw)
            beside = rng.uniform(-1, 1, 2) * self.settings.success_distance
            x, y, z = (self._top(scene) + np.append(beside, 0.0)).tolist()
            builder.place(self.block, (x, y, z), yaw)

    def keypoint(self, name: str, scene: TaskScene) -> np.ndarray:
        """Return the position [3] m, base frame, of one of `keypoints`."""
        return scene.body_pose(self.target)[0] if name == "target" else super().keypoint(name, scene)

    def distance(self, scene: TaskScene) -> float:
        """Return the distance from the brick to its place, m; at least twice `success_distance` until released."""
        away = math.dist(self.object_pose(scene)[0], self._top(scene))
        return away if self._released(scene) else max(away, 2 * self.settings.success_distance)

    def success(self, scene: TaskScene) -> bool:
        """Return whether the brick rests on the other one, the fingers are open and the tool is away."""
        return self._in_place(scene) and self._released(scene) and not len(scene.contacts(self.block))

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a tool close to the brick, fingers on it, its height and closeness to its place, release, success."""
        block, top, tool = self.object_pose(scene)[0], self._top(scene), scene.tool_position()
        if self._in_place(scene):
            width = self.settings.block_size[0]
            opened = min(max(scene.gripper_width() - width, 0.0) / LET_GO, 1.0)
            left = min(math.dist(tool, block) / self.settings.clearance, 1.0)
            total = TOOL_SHARE + GRIP_SHARE + HEIGHT_SHARE + PLACE_SHARE
            total += opened * (RELEASE_SHARE + LEAVE_SHARE * left)
        else:
            total = TOOL_SHARE * closeness(math.dist(tool, block), TOOL_NEAR)
            total += GRIP_SHARE * held_between_fingers(scene, self.block)
            lowest = self.settings.block_size[2] / 2
            total += HEIGHT_SHARE * min(max((block[2] - lowest) / (top[2] - lowest), 0.0), 1.0)
            total += PLACE_SHARE * closeness(math.dist(block, top), PLACE_NEAR)
        return total - 1 + SUCCESS_REWARD * success

    def privileged_state(self, scene: TaskScene) -> np.ndarray:
        """Return the usual state with the brick's way to its place, and the target brick's pose, [27] float32."""
        target, turned = scene.body_pose(self.target)
        way = self._top(scene) - self.object_pose(scene)[0]
        return np.concatenate([super().privileged_state(scene), way, target, turned]).astype(np.float32)

    def _top(self, scene: TaskScene) -> np.ndarray:
        """Return the place of the brick's middle on top of the target brick, [3] m."""
        return scene.body_pose(self.target)[0] + (0.0, 0.0, self.settings.block_size[2])

    def _in_place(self, scene: TaskScene) -> bool:
        offset = self.object_pose(scene)[0] - self._top(scene)
        return math.hypot(*offset[:2]) < self.settings.success_distance and bool(abs(offset[2]) < RESTING)

    def _released(self, scene: TaskScene) -> bool:
        """Return whether the fingers are open and the tool is away from the brick."""
        away = math.dist(scene.tool_position(), self.object_pose(scene)[0])
        return scene.gripper_width() > self.settings.block_size[0] + LET_GO and away > self.settings.clearance
