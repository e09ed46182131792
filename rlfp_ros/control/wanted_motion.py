"""The motion that policy and base controller want together, or that a person wants who has taken over."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.base_controllers.base_controller import BaseController, Situation, make_base_controller
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.filter import SafetyFilter
from rlfp_ros.control.safety.motion import Located


class WantedMotion:
    """Joint velocities from a residual and the base controller under it.

    While a person has the arm, the base controller `hold` is under the person's velocity: it keeps the tool's
    orientation, and nothing else moves the arm.

    Parameters
    ----------
    base, base_name
        The base controller of the policy.
    in_joint_space
        Whether residuals are joint velocities.
    """

    def __init__(
        self,
        base: BaseController,
        base_name: str,
        arm: Arm,
        settings: ControllerSettings,
        safety: SafetyFilter,
        in_joint_space: bool,
    ) -> None:
        self._base, self._filter, self._in_joint_space = base, safety, in_joint_space
        self._hold = base if base_name == "hold" else make_base_controller("hold", {}, arm, settings)
        self._person_acted = False  # in the last tick

    def velocity(self, here: Located, situation: Situation, residual: np.ndarray, person: bool) -> np.ndarray:
        """Return the wanted joint velocities [J] rad/s, inside the limits.

        Parameters
        ----------
        residual
            Of the policy; with `person` a tool twist [6], m/s and rad/s.
        person
            Whether a person's velocity acts.
        """
        base = self._hold if person else self._base
        if person is not self._person_acted:
            self._person_acted = person
            if self._hold is not self._base:
                base.start(situation)
        if self._in_joint_space and not person:
            motion = base.wanted(situation, situation.jacobian @ residual)
            return self._filter.joint_velocity(here, motion.twist, motion.posture, residual)
        motion = base.wanted(situation, residual)
        return self._filter.joint_velocity(here, motion.twist + residual, motion.posture)

    def as_residual(self, twist: np.ndarray) -> np.ndarray:
        """Return a tool twist [6] as a residual: itself, or the joint velocities [J] rad/s that come nearest to it."""
        return np.linalg.pinv(self._filter.locate().jacobian) @ twist if self._in_joint_space else twist
