"""Compares measured with commanded joints: tracking error, frozen measurements, effort."""

from __future__ import annotations

from collections import deque
from operator import gt

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.motion import largest
from rlfp_ros.control.safety.tick_clock import NEVER
from rlfp_ros.control.safety.verdict import Reason

FROZEN_MOTION_RAD = 0.02  # after this much commanded motion, a measurement must have changed
TRACKING_STRIKES = 3  # consecutive joint states with a tracking error; a single one may be a glitch
EFFORT_SLACK = 1.001  # simulators saturate at exactly the limit
STANDING_RAD = 0.02  # an arm that is no farther than this from where it began has not moved


class RobotWatch:
    """Watches one motion, from its start at measured joints to its end."""

    def __init__(self, arm: Arm, settings: ControllerSettings) -> None:
        self._settings = settings
        self._effort = (EFFORT_SLACK * np.array(arm.limits.effort)).tolist()
        ticks = max(2, round(settings.tracking_window_s * settings.control_rate_hz))
        self._window: deque[np.ndarray] = deque(maxlen=ticks)  # commanded positions [J] rad
        self._began_at = np.zeros(len(arm.joint_names))
        self.forget()

    def forget(self) -> None:
        """Forget the motion."""
        self._strikes = 0
        self._frozen_since: tuple[int, np.ndarray] | None = None  # now_ns, and the commanded positions then
        self._effort_since = NEVER
        self._window.clear()

    def start(self, positions: np.ndarray) -> None:
        """Begin with the arm at measured positions [J] rad."""
        self.forget()
        self._began_at = positions
        self._window.append(positions)

    def commanded(self, positions: np.ndarray) -> None:
        """Take note of the positions [J] rad commanded for a tick."""
        self._window.append(positions)

    def stands_still(self, positions: np.ndarray) -> bool:
        """Return whether the arm, measured at `positions` [J] rad, has stayed where its motion began."""
        return largest(positions - self._began_at) < STANDING_RAD

    def measured(self, joint_state: JointState, furthest: float, commanded: np.ndarray, now_ns: int) -> list[Reason]:
        """Return why the arm must stop.

        Parameters
        ----------
        joint_state
            The measurement.
        furthest
            Largest move of a joint since the measurement before, rad.
        commanded
            [J] rad, commanded for the last tick's stamp.
        now_ns
            Steady clock.
        """
        reasons = []
        if self._tracks_badly(joint_state.positions, commanded):
            reasons.append(Reason.TRACKING_ERROR)
        if self._is_frozen(furthest, commanded, now_ns):
            reasons.append(Reason.JOINT_STATE_FROZEN)
        if self._effort_lasts(joint_state.efforts, now_ns):
            reasons.append(Reason.EFFORT)
        return reasons

    def _tracks_badly(self, positions: np.ndarray, commanded: np.ndarray) -> bool:
        allowed = self._settings.tracking_error_rad
        if largest(positions - commanded) <= allowed or not self._window:
            self._strikes = 0
            return False
        # An arm lags behind its commands: an error is a position far from every command of the window.
        window = np.array(self._window)
        low, high = window.min(axis=0) - allowed, window.max(axis=0) + allowed
        if ((positions >= low) & (positions <= high)).all():
            self._strikes = 0
            return False
        self._strikes += 1
        return self._strikes >= TRACKING_STRIKES

    def _is_frozen(self, furthest: float, commanded: np.ndarray, now_ns: int) -> bool:
        if furthest > 0.0:
            self._frozen_since = None
            return False
        if self._frozen_since is None:
            self._frozen_since = (now_ns, commanded)
            return False
        since, then = self._frozen_since
        moved = largest(commanded - then)
        return moved > FROZEN_MOTION_RAD and (now_ns - since) * 1e-9 > self._settings.joint_frozen_s

    def _effort_lasts(self, efforts: np.ndarray, now_ns: int) -> bool:
        if not any(map(gt, map(abs, efforts.tolist()), self._effort)):
            self._effort_since = NEVER
            return False
        if self._effort_since == NEVER:
            self._effort_since = now_ns
        return (now_ns - self._effort_since) * 1e-9 >= self._settings.effort_time_s
