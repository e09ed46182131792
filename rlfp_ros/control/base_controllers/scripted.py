"""`scripted`: moves through waypoints."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, limited
from rlfp_ros.control.base_controllers.hold import Hold
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Coordinate, Schema


class ScriptedParameters(Schema):
    """`waypoints`: x y z x y z ... (m, base frame). `tolerance`: m. `rate_hz`: 1/s. `speed`: m/s."""

    waypoints: tuple[Coordinate, ...]
    tolerance: float = Field(default=0.01, gt=0, le=0.2)
    rate_hz: float = Field(default=3.0, gt=0, le=20)
    speed: float = Field(default=0.15, gt=0, le=1)

    @model_validator(mode="after")
    def _triples(self) -> ScriptedParameters:
        if not self.waypoints or len(self.waypoints) % 3:
            raise ValueError(f"waypoints has {len(self.waypoints)} numbers, expected three for each waypoint")
        return self


@BASE_CONTROLLERS.register("scripted")
class Scripted(Hold):
    """Moves through the waypoints in order and stays at the last."""

    Parameters: ClassVar[type[Schema]] = ScriptedParameters

    def __init__(self, parameters: ScriptedParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        self._parameters = parameters
        self._waypoints = np.array(parameters.waypoints).reshape(-1, 3)
        self._next = 0

    def start(self, situation: Situation) -> None:
        super().start(situation)
        self._next = 0

    def velocity(self, situation: Situation) -> np.ndarray | float:
        error = self._waypoints[self._next] - situation.position
        if self._next + 1 < len(self._waypoints) and error @ error < self._parameters.tolerance**2:
            self._next += 1
            error = self._waypoints[self._next] - situation.position
        return limited(self._parameters.rate_hz * error, self._parameters.speed)
