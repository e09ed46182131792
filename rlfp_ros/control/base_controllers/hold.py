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
    limited,
)
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import rotation_matrix, rotation_vector
from rlfp_ros.schema import Schema

ORIENTATION_RATE_HZ = 4.0  # 1/s; decay of the rotation error; slower than the joints' response, to avoid overshoot
ORIENTATION_SPEED_RAD_S = 1.0  # largest angular velocity of the correction


class OrientationKeeper:
    """Keeps the tool's orientation at `start`; only the rotation of the residual changes it."""

    def __init__(self, situation: Situation) -> None:
        self._reference = situation.rotation.copy()

    def angular_velocity(self, situation: Situation, residual: np.ndarray) -> np.ndarray:
        """Return [3] rad/s in the base frame."""
        if any(residual[3:].tolist()):
            self._reference = rotation_matrix(residual[3:] * situation.dt) @ self._reference
        error = rotation_vector(self._reference.dot(situation.rotation.T))
        return limited(ORIENTATION_RATE_HZ * error, ORIENTATION_SPEED_RAD_S)


class Posture:
    """Returns the free joints towards home."""

    def __init__(self, arm: Arm, settings: ControllerSettings) -> None:
        self._home = np.array(arm.home)
        self._rate, self._speed = settings.posture_rate_hz, settings.posture_speed_rad_s

    def velocity(self, joints: np.ndarray) -> np.ndarray:
        """Return [J] rad/s at joints [J] rad."""
        pull = self._rate * (self._home - joints)
        return np.minimum(np.maximum(pull, -self._speed), self._speed)


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
        twist = np.zeros(6)
        twist[:3] = self.velocity(situation)
        twist[3:] = self._orientation.angular_velocity(situation, residual)
        return Wanted(twist, self._posture.velocity(situation.joints))

    def velocity(self, situation: Situation) -> np.ndarray | float:
        """Return the tool's velocity [3] m/s in the base frame, or 0 to stand still."""
        return 0.0
