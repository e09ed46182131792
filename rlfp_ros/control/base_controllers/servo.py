"""`servo`: Cartesian servo to the perceived object or the goal."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, limited
from rlfp_ros.control.base_controllers.hold import Hold
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Point, Schema


class ServoParameters(Schema):
    """`target`: 0 the perceived object, 1 the goal. `offset`: m, base frame. `rate_hz`: 1/s. `speed`: m/s."""

    target: float = Field(default=0.0, ge=0, le=1)
    offset: Point = (0.0, 0.0, 0.0)
    rate_hz: float = Field(default=3.0, gt=0, le=20)
    speed: float = Field(default=0.15, gt=0, le=1)


class TargetFollower(Hold):
    """Base class of controllers that move the tool to the perceived object or the goal."""

    follows_object: ClassVar[bool] = True

    def __init__(self, parameters: ServoParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        self._to_goal = bool(parameters.target)
        self._offset = np.array(parameters.offset)

    def target(self, situation: Situation) -> np.ndarray | None:
        """Return where the tool should be, [3] m in the base frame, or None if that is not known yet."""
        place = situation.goal if self._to_goal else situation.object_position
        return None if place is None else place + self._offset


@BASE_CONTROLLERS.register("servo")
class Servo(TargetFollower):
    """Moves the tool to its target at a speed proportional to the distance; stays still until there is a target."""

    Parameters: ClassVar[type[Schema]] = ServoParameters

    def __init__(self, parameters: ServoParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        self._rate, self._speed = parameters.rate_hz, parameters.speed

    def velocity(self, situation: Situation) -> np.ndarray | float:
        target = self.target(situation)
        if target is None:
            return 0.0
        return limited(self._rate * (target - situation.position), self._speed)
