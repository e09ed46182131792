"""`joint_pd`: moves to a joint configuration."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, Wanted
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Angle, ConfigurationError, Schema


class JointPdParameters(Schema):
    """`reference`: target joints (rad, in the arm's order; home if empty). `rate_hz`: 1/s. `speed`: rad/s."""

    reference: tuple[Angle, ...] = ()
    rate_hz: float = Field(default=2.0, gt=0, le=20)
    speed: float = Field(default=0.5, gt=0, le=3)


@BASE_CONTROLLERS.register("joint_pd")
class JointPd:
    """Moves to the reference, at most at `speed`; damping comes from the filter's jerk-limited approach."""

    Parameters: ClassVar[type[Schema]] = JointPdParameters
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters: JointPdParameters, arm: Arm, settings: ControllerSettings) -> None:
        self._parameters = parameters
        self._reference = np.array(parameters.reference or arm.home)
        if self._reference.shape != (len(arm.joint_names),):
            raise ConfigurationError(
                f"bundle.yaml: base_controller.parameters.reference has {len(self._reference)} values, "
                f"expected {len(arm.joint_names)}, one for each joint of {arm.name}"
            )

    def start(self, situation: Situation) -> None:
        pass

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        velocity = self._parameters.rate_hz * (self._reference - situation.joints)
        fastest = float(np.max(np.abs(velocity)))
        if fastest > self._parameters.speed:
            velocity = velocity * (self._parameters.speed / fastest)
        return Wanted(situation.jacobian @ velocity, velocity)
