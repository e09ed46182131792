"""`excite`: plays the motion from which a simulator's drives are identified, then rests at home."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, Wanted
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.excitation import ExcitationShape, plan_excitation
from rlfp_ros.schema import Schema

APPROACH_SPEED_RAD_S = 0.3  # of the way to home, before the motion begins
APPROACHED_RAD = 0.002  # distance to home at which the motion begins
TRACKING_RATE_HZ = 3.0  # 1/s; decay of the distance to the motion, for example after a hold


class ExciteParameters(Schema):
    """`duration_s`: s. `low_hz`, `high_hz`: band. `amplitude_rad`, `speed_rad_s`: the most per joint. `seed`."""

    duration_s: float = Field(default=20.0, ge=4, le=120)
    low_hz: float = Field(default=0.1, ge=0.05, le=2)
    high_hz: float = Field(default=2.0, ge=0.2, le=5)
    amplitude_rad: float = Field(default=0.25, gt=0, le=1)
    speed_rad_s: float = Field(default=0.5, gt=0, le=2)
    seed: float = Field(default=0, ge=0, le=2**31, multiple_of=1)

    @model_validator(mode="after")
    def _is_a_band(self) -> ExciteParameters:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz is {self.low_hz:g}, expected less than high_hz, which is {self.high_hz:g}")
        return self

    def shape(self) -> ExcitationShape:
        """Return the motion that these parameters describe."""
        values = self.model_dump()
        return ExcitationShape(**{**values, "seed": int(self.seed)})


@BASE_CONTROLLERS.register("excite")
class Excite:
    """Moves to home, plays the excitation once, and stays at home.

    Time passes only while the controller moves the arm, so a hold interrupts the motion and does not cut it.
    """

    Parameters: ClassVar[type[Schema]] = ExciteParameters
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters: ExciteParameters, arm: Arm, settings: ControllerSettings) -> None:
        self._excitation = plan_excitation(arm, settings, parameters.shape())
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
