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
from rlfp_ros.control.base_controllers.keeping import keep_orientation
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Schema


class OrientationKeeper:
    """Keeps the tool's orientation at `start`; only the rotation of the residual changes it."""

    def __init__(self, situation: Situation) -> None:
        self._reference = np.array(situation.rotation, dtype=float, order="C")
        self._rotation, self._error = np.zeros((3, 3)), np.zeros((3, 3))

    def twist(self, situation: Situation, residual: np.ndarray) -> np.ndarray:
        """Return the twist [6] of the correction, m/s and rad/s in the base frame: it only turns the tool."""
        motion = np.array(residual, dtype=float)
        self._rotation[:] = situation.rotation
        keep_orientation(self._reference, self._rotation, self._error, motion, situation.dt)
        return motion


class Posture:
    """Returns the free joints towards home."""

    def __init__(self, arm: Arm, settings: ControllerSettings) -> None:
        self._home = np.array(arm.home)
        self._rate, self._speed = settings.posture_rate_hz, settings.posture_speed_rad_s

    def velocity(self, joints: np.ndarray) -> np.ndarray:
        """Return [J] rad/s at joints [J] rad."""
        pull = self._home - joints
        pull *= self._rate
        return pull.clip(-self._speed, self._speed, out=pull)


@BASE_CONTROLLERS.register("hold")
class Hold:
    """Keeps orientation and posture; adds no translation.

    Also the base class of controllers that translate the tool: they override `velocity`.
    """

    Parameters: ClassVar[type[Schema]] = NoParameters
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters: Any, arm: Arm, settings: ControllerSettings) -> None:
        self._posture = Posture(arm, settings)
        self._orientation: OrientationKeeper | None = None

    def start(self, situation: Situation) -> None:
        self._orientation = OrientationKeeper(situation)

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        if self._orientation is None:
            self.start(situation)
        assert self._orientation is not None
        twist = self._orientation.twist(situation, residual)
        twist[:3] = self.velocity(situation)
        return Wanted(twist, self._posture.velocity(situation.joints))

    def velocity(self, situation: Situation) -> np.ndarray | float:
        """Return the tool's velocity [3] m/s in the base frame, or 0 to stand still."""
        return 0.0
