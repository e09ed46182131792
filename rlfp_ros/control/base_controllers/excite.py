"""`excite`: plays the motion from which a simulator's drives are identified, then rests at home."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, Wanted
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.excitation import ExcitationShape, plan_excitation
from rlfp_ros.schema import Schema

APPROACH_SPEED_RAD_S = 0.3  # of the way to home, before the motion begins
APPROACHED_RAD = 0.002  # distance to home at which the motion begins
TRACKING_RATE_HZ = 3.0  # 1/s; decay of the distance to the motion, for example after a hold


@BASE_CONTROLLERS.register("excite")
class Excite:
    """Moves to home, plays the identification motion once, and stays at home.

    Time passes only while the controller moves the arm, so a hold interrupts the motion and does not cut it.
    """

    Parameters: ClassVar[type[Schema]] = ExcitationShape
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters: ExcitationShape, arm: Arm, settings: ControllerSettings) -> None:
        self._excitation = plan_excitation(arm, settings, parameters)
        self._begun, self._time = False, 0.0

    def start(self, situation: Situation) -> None:
        self._begun, self._time = False, 0.0

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        excitation, dt = self._excitation, situation.dt
        reference = excitation.home + (excitation.offset(self._time) if self._begun else 0.0)
        error = reference - situation.joints
        velocity = TRACKING_RATE_HZ * error
        if self._begun:
            velocity += (excitation.offset(self._time + dt) - excitation.offset(self._time)) / dt
            self._time += dt
        else:
            fastest = float(np.max(np.abs(velocity)))
            if fastest > APPROACH_SPEED_RAD_S:
                velocity *= APPROACH_SPEED_RAD_S / fastest
            self._begun = float(np.max(np.abs(error))) < APPROACHED_RAD
        return Wanted(situation.jacobian @ velocity, velocity)
