"""What a task is, and the registry of tasks. One task is one file here and one data file in `sim/tasks/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.schema import ConfigurationError, Schema

if TYPE_CHECKING:
    from rlfp_ros.contract import ActionContract
    from rlfp_ros.control.arm import Arm
    from rlfp_ros.simulation.pybullet_world import World


# m, base frame, a keypoint: a place on the arm that never moves shows how the camera stands. In the picture of every
# arm there is, and mostly in view.
ARM_FOOT = (0.0, 0.0, 0.1)
HAND_BEHIND_TOOL = 0.105  # m along the tool's direction, of the keypoint `hand`


class Region(Schema):
    """A rectangle on the table, base frame, metres."""

    lower: tuple[float, float]
    upper: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Region:
        if self.lower[0] > self.upper[0] or self.lower[1] > self.upper[1]:
            raise ValueError(f"lower {self.lower} is above upper {self.upper}; exchange them")
        return self


class TaskSettings(Schema):
    """`sim/tasks/<name>.yaml`: what every task has."""

    task: str
    block_size: tuple[float, float, float]  # m
    region: Region
    success_distance: float = Field(gt=0)  # m
    hold: float = Field(ge=0)  # s
    time_limit: float = Field(gt=0)  # s
    # By arm, for one of another reach: the fields that differ. Not dumped: for that arm they stand in their place.
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude=True)

    def for_arm(self, name: str) -> Self:
        """These settings with what `arms` says of one arm. Raises ConfigurationError where that does not fit."""
        if name not in self.arms:
            return self
        return schema.validate(self.model_dump() | self.arms[name], type(self), f"sim/tasks/{self.task}.yaml: {name}")

    def regions(self) -> dict[str, Region]:
        """The places that the tool must be able to get to, by field."""
        return {"region": self.region}


class GoalSettings(TaskSettings):
    """Tasks that bring the block to a goal on the table."""

    goal: Literal["point", "marker"]  # told to the policy as a point, or seen only, as a disc on the table
    goal_region: Region
    goal_distance: tuple[float, float]  # m, least and most between block and goal at the start

    def regions(self) -> dict[str, Region]:
        return {"region": self.region, "goal_region": self.goal_region}

    @model_validator(mode="after")
    def _distances(self) -> GoalSettings:
        least, most = self.goal_distance
        if not self.success_distance < least < most:
            raise ValueError(
                f"goal_distance is {list(self.goal_distance)}, expected it to rise from above success_distance "
                f"{self.success_distance}; or the episode is won before it starts"
            )
        return self


class Task(ABC):
    """Objects, reward and success of one task. The world calls it; it never draws a random number of its own."""

    settings_schema: ClassVar[type[TaskSettings]] = TaskSettings
    keypoints: tuple[str, ...]  # what the encoder's first feature points are supervised with
    starts_closed: ClassVar[bool] = False  # the gripper, at the start of an episode
    block: int = -1  # the object's body, from `build` on
    grips: ClassVar[bool] = False  # takes hold of something: the fingers then move as one, as a real gripper's do
    pushes: ClassVar[bool] = False  # moves its object by pushing it with the tool

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    def fit_to(self, arm: Arm) -> None:
        """Take the settings for this arm. Raises ConfigurationError where its tool leaves a part out of reach."""
        self.settings = self.settings.for_arm(arm.name)
        lower, upper = arm.tool_limits.lower, arm.tool_limits.upper
        if lower[2] > self.settings.block_size[2]:
            raise ConfigurationError(
                f"config/arms/{arm.name}.yaml: tool_limits.lower keeps the tool {lower[2]} m above the table, but the "
                f"block of sim/tasks/{self.settings.task}.yaml is {self.settings.block_size[2]} m high; give the arm "
                "a gripper or a pointer, or choose another arm"
            )
        for name, region in self.settings.regions().items():
            for axis in range(2):
                if region.lower[axis] < lower[axis] or region.upper[axis] > upper[axis]:
                    raise ConfigurationError(
                        f"sim/tasks/{self.settings.task}.yaml: {name} reaches from {region.lower[axis]} to "
                        f"{region.upper[axis]} m in {'xy'[axis]}, but tool_limits of config/arms/{arm.name}.yaml "
                        f"allow {lower[axis]} to {upper[axis]}; make the region smaller or choose another arm"
                    )

    @abstractmethod
    def build(self, world: World) -> None:
        """Create the task's bodies, once."""

    @abstractmethod
    def reset(self, world: World, rng: np.random.Generator) -> None:
        """Place and colour the bodies for a new episode."""

    @abstractmethod
    def object_pose(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4] of the object that matters, base frame."""

    @abstractmethod
    def keypoint_positions(self, world: World) -> np.ndarray:
        """[len(keypoints), 3] m, base frame."""

    @abstractmethod
    def distance(self, world: World) -> float:
        """m from success; success is this below `settings.success_distance` for `settings.hold`."""

    @abstractmethod
    def reward(self, world: World, success: bool) -> float:
        """Dense reward of one camera frame."""

    @abstractmethod
    def privileged_state(self, world: World) -> np.ndarray:
        """[P] float32, what only a simulator knows; for critics and teachers, never for a deployed policy."""

    @abstractmethod
    def teacher(self, world: World, action: ActionContract) -> np.ndarray:
        """A sensible action in [-1, 1] from the true state, to start a policy's learning."""

    def goal(self, world: World) -> np.ndarray | None:
        """Goal point [3] m in the base frame, or None for a task without one."""
        return None


_TASKS: dict[str, type[Task]] = {}
TaskClass = TypeVar("TaskClass", bound=type[Task])
NAMES = ("reach", "push", "lift", "place")


def register(name: str) -> Callable[[TaskClass], TaskClass]:
    """Class decorator that makes a task selectable by name."""

    def decorate(task: TaskClass) -> TaskClass:
        _TASKS[name] = task
        return task

    return decorate


def load_task(name: str) -> Task:
    """The task `name` with the settings of `sim/tasks/<name>.yaml`."""
    if name not in NAMES:
        raise ConfigurationError(f"task is {name!r}, expected one of: {', '.join(NAMES)}")
    import_module(f"rlfp_ros.simulation.tasks.{name}")
    task = _TASKS[name]
    settings = schema.load(paths.resolve(name, "sim/tasks", ".yaml"), task.settings_schema)
    for arm in settings.arms:
        settings.for_arm(arm)  # refused here, not when somebody has that arm
    return task(settings)


def parameters(task: Task) -> dict[str, Any]:
    """The task's settings as plain data, for provenance."""
    return task.settings.model_dump(mode="json")
