"""`hold`: the arm keeps its pose, and only the residual moves it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import (
    BASE_CONTROLLERS,
    NoParameters,
    Situation,
    Wanted,
)
from rlfp_ros.control.base_controllers.keeping import keep
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Schema


@BASE_CONTROLLERS.register("hold")
class Hold:
    """Keeps orientation and posture; adds no translation.

    Also the base class of controllers that translate the tool: they override `velocity`.
    """

    Parameters: ClassVar[type[Schema]] = NoParameters
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters: Any, arm: Arm, settings: ControllerSettings) -> None:
        self._home = np.array(arm.home)
        self._posture_rate, self._posture_speed = settings.posture_rate_hz, settings.posture_speed_rad_s
        self._reference, self._rotation, self._error = np.zeros((3, 3, 3))
        self._started = False

    def start(self, situation: Situation) -> None:
        self._reference[:] = situation.rotation
        self._started = True

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        if not self._started:
            self.start(situation)
        motion, posture = np.array(residual, dtype=float), np.array(situation.joints, dtype=float)
        self._rotation[:] = situation.rotation
        keep(
            self._reference,
            self._rotation,
            self._error,
            motion,
            self._home,
            posture,
            situation.dt,
            self._posture_rate,
            self._posture_speed,
        )
        motion[:3] = self.velocity(situation)
        return Wanted(motion, posture)

    def velocity(self, situation: Situation) -> np.ndarray | float:
        """Return the tool's velocity [3] m/s in the base frame, or 0 to stand still."""
        return 0.0
