"""A base controller of your own: keep the tool above the object, at a height that the bundle chooses.

The policy's residual is added to this motion. The safety controller limits the sum.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, limited
from rlfp_ros.control.base_controllers.hold import Hold
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Schema


class AboveParameters(Schema):
    """`base_controller.parameters` of a bundle that names this controller."""

    height: float = Field(default=0.1, ge=0.0, le=0.5)  # m above the object
    speed: float = Field(default=0.1, gt=0.0, le=0.5)  # m/s


@BASE_CONTROLLERS.register("above")
class Above(Hold):
    """Moves the tool to a point above the perceived object and keeps its orientation."""

    Parameters: ClassVar[type[Schema]] = AboveParameters
    follows_object: ClassVar[bool] = True

    def __init__(self, parameters: AboveParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        self._above, self._speed = np.array([0.0, 0.0, parameters.height]), parameters.speed

    def velocity(self, situation: Situation) -> np.ndarray | float:
        if situation.object_position is None:  # nothing is seen yet: stand still
            return 0.0
        return limited(2.0 * (situation.object_position + self._above - situation.position), self._speed)
