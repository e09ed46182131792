"""`mpc`: model predictive control of the tool point to the perceived object or the goal."""

from __future__ import annotations

from typing import ClassVar

import daqp
import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Situation, limited
from rlfp_ros.control.base_controllers.servo import ServoParameters, TargetFollower
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.schema import Schema

STEPS = 10  # steps of the horizon; with ten variables per axis the programme takes a few microseconds


class MpcParameters(ServoParameters):
    """The parameters of `servo`, and `horizon_s`: prediction horizon in s; `acceleration`: limit per axis in m/s^2."""

    horizon_s: float = Field(default=0.5, gt=0.05, le=3)
    acceleration: float = Field(default=1.0, gt=0, le=10)
    effort_weight: float = Field(default=0.002, gt=0, le=10)  # cost of (m/s^2)^2 against m^2


@BASE_CONTROLLERS.register("mpc")
class Mpc(TargetFollower):
    """Linear model predictive control of the tool point, a double integrator on each axis.

    Minimises distance over the horizon under speed and acceleration bounds: unlike the servo it brakes in time with
    a bounded deceleration. Condensed to one programme of `STEPS` accelerations per axis, solved by DAQP.
    """

    Parameters: ClassVar[type[Schema]] = MpcParameters

    def __init__(self, parameters: MpcParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        self._speed = parameters.speed
        step = parameters.horizon_s / STEPS
        ones = np.tril(np.ones((STEPS, STEPS)))
        self._to_velocity = step * ones  # velocities after each step, from accelerations
        self._to_position = step * (ones @ self._to_velocity) - 0.5 * step * self._to_velocity
        self._times = step * np.arange(1, STEPS + 1)
        self._hessian = self._to_position.T @ self._to_position + parameters.effort_weight * np.eye(STEPS)
        self._bound = np.full(STEPS, parameters.acceleration)
        self._free = np.zeros(2 * STEPS, dtype=np.intc)
        self._planned = np.zeros(3)

    def start(self, situation: Situation) -> None:
        super().start(situation)
        self._planned = np.zeros(3)

    def velocity(self, situation: Situation) -> np.ndarray | float:
        target = self.target(situation)
        if target is None:
            self._planned = np.zeros(3)
            return 0.0
        speed = self._speed / 3**0.5  # per axis, so that the magnitude stays below `speed`
        accelerations = np.zeros(3)
        for axis in range(3):
            now = min(max(float(self._planned[axis]), -speed), speed)
            gap = (float(situation.position[axis]) - float(target[axis])) + now * self._times
            solution, _, flag, _ = daqp.solve(
                self._hessian,
                self._to_position.T @ gap,
                self._to_velocity,
                np.concatenate((self._bound, np.full(STEPS, speed - now))),
                np.concatenate((-self._bound, np.full(STEPS, -speed - now))),
                self._free,
            )
            accelerations[axis] = solution[0] if flag == 1 else -now / self._times[0]
        self._planned = limited(self._planned + accelerations * situation.dt, self._speed)
        return self._planned
