"""Settings of tasks: `sim/tasks/<name>.yaml`, or the file beside a plugin's task."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlfp_ros import schema
from rlfp_ros.schema import Coordinate, Edge, Schema

LONGEST_S = 3600.0  # of an episode


class Region(Schema):
    """A rectangle on the table, base frame, metres."""

    lower: tuple[Coordinate, Coordinate]
    upper: tuple[Coordinate, Coordinate]

    @model_validator(mode="after")
    def _ordered(self) -> Region:
        if self.lower[0] > self.upper[0] or self.lower[1] > self.upper[1]:
            raise ValueError(f"lower {self.lower} is above upper {self.upper}; exchange them")
        return self


class TaskSettings(Schema):
    """Settings of every task. A task with more settings extends this class and sets `settings_schema`.

    The defaults are those of a plugin without a settings file. They fit a Panda-sized arm.
    """

    task: str
    block_size: tuple[Edge, Edge, Edge] = (0.035, 0.035, 0.035)  # m
    region: Region = Region(lower=(0.36, -0.18), upper=(0.58, 0.18))  # of the block at the start
    success_distance: float = Field(default=0.02, gt=0, le=1)  # m
    hold: float = Field(default=0.1, ge=0, le=LONGEST_S)  # s, how long success has to last
    time_limit: float = Field(default=8.0, gt=0, le=LONGEST_S)  # s
    # By arm, the fields that differ for an arm with another reach. They replace those above and are not dumped.
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _can_be_won(self) -> Self:
        if self.hold >= self.time_limit:
            raise ValueError(
                f"hold is {self.hold} s, expected less than time_limit {self.time_limit} s; or no episode is won"
            )
        return self

    def for_arm(self, name: str, source: str = "") -> Self:
        """Return these settings with the fields that `arms` changes for one arm.

        Raises
        ------
        ConfigurationError
            If a changed field is unknown or invalid; `source` names the file in the message.
        """
        if name not in self.arms:
            return self
        changed = self.model_dump() | self.arms[name]
        return schema.validate(changed, type(self), f"{source or f'sim/tasks/{self.task}.yaml'}: {name}")

    def regions(self) -> dict[str, Region]:
        """Return the regions that the tool must be able to reach, by field or in words."""
        return {"region": self.region}

    def scaled(self, scale: float) -> dict[str, Any]:
        """Return the distances that shrink with the regions of an arm of shorter reach, by field."""
        return {}


class GoalSettings(TaskSettings):
    """Settings of tasks that bring the block to a goal on the table."""

    # point: the goal is an input of the policy; marker: the goal is only visible, as a disc on the table
    goal: Literal["point", "marker"] = "point"
    goal_region: Region = Region(lower=(0.36, -0.20), upper=(0.60, 0.20))
    goal_distance: tuple[Coordinate, Coordinate] = (0.10, 0.30)  # m, least and most from block to goal at the start

    def regions(self) -> dict[str, Region]:
        """Return the regions that the tool must be able to reach, by field."""
        return {"region": self.region, "goal_region": self.goal_region}

    def scaled(self, scale: float) -> dict[str, Any]:
        """Return the distance to the goal for an arm of shorter reach."""
        least = max(scale * self.goal_distance[0], 1.25 * self.success_distance)
        return {"goal_distance": (least, max(scale * self.goal_distance[1], 1.5 * least))}

    @model_validator(mode="after")
    def _distances(self) -> GoalSettings:
        least, most = self.goal_distance
        if not self.success_distance < least < most:
            raise ValueError(
                f"goal_distance is {list(self.goal_distance)}, expected it to rise from above success_distance "
                f"{self.success_distance}; or the episode is won before it starts"
            )
        return self
