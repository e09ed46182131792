"""The identification motion: band-limited sines about home on every joint, small enough for the arm's limits.

Multisine excitation: Swevers et al. 1997, https://doi.org/10.1109/70.631234. The amplitudes fall with the
power 1.5 of the frequency, a compromise between sines of equal speed and of equal acceleration.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.limits import find_limits
from rlfp_ros.schema import Schema

SINES = 12  # per joint
RAMP_S = 1.5  # of the smooth start and of the smooth end
ACCELERATION_RATE = 40  # postures per period of the fastest sine, for the accelerations of single joints
PLAN_RATE_HZ = 12.5  # postures per second that are checked
ROOM = 0.8  # share of every limit that the motion may use
WALL_ROOM_M = 0.005  # more distance from the walls of the workspace
ACCELERATION_SHARE = 0.6  # of the acceleration that the safety filter allows, because it also tracks the motion
CLOSING_PAIRS = 8  # nearest pairs of capsules whose approach is checked
GROWTH, GROWTH_ROUNDS = 1.3, 4  # factor by which one joint's amplitude is tried larger, and how often
SMALLEST_SCALE = 1e-3


class ExcitationShape(Schema):
    """What a user chooses of the motion.

    `duration_s`: length without the approach to home. `low_hz`, `high_hz`: the band of the sines. `amplitude_rad`,
    `speed_rad_s`: largest deviation from home and largest speed of a joint. `seed`: of frequencies and phases.
    """

    duration_s: float = Field(default=20.0, ge=4, le=120)
    low_hz: float = Field(default=0.1, ge=0.05, le=2)
    high_hz: float = Field(default=2.0, ge=0.2, le=5)
    amplitude_rad: float = Field(default=0.25, gt=0, le=1)
    speed_rad_s: float = Field(default=0.5, gt=0, le=2)
    seed: float = Field(default=0, ge=0, le=2**31, multiple_of=1)  # parameters of base controllers are float

    @model_validator(mode="after")
    def _is_a_band(self) -> ExcitationShape:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz is {self.low_hz:g}, expected less than high_hz, which is {self.high_hz:g}")
        return self


class Excitation:
    """A finite motion of all joints about home that begins and ends there at rest.

    Parameters
    ----------
    shape
        Length, band and size.
    home
        [J] rad.
    """

    def __init__(self, shape: ExcitationShape, home: np.ndarray) -> None:
        rng = np.random.default_rng([int(shape.seed), *b"excite"])
        joints = len(home)
        self.home, self.duration_s = np.array(home, dtype=float), shape.duration_s
        edges = np.geomspace(shape.low_hz, shape.high_hz, SINES + 1)
        self._rates = 2 * math.pi * rng.uniform(edges[:-1], edges[1:], (joints, SINES))  # rad/s
        self._phases = rng.uniform(0, 2 * math.pi, (joints, SINES))
        self._sizes = self._rates**-1.5
        self._ramp_s = min(RAMP_S, shape.duration_s / 4)
        self.scale = np.ones(joints)  # rad per unit of the joint's sum of sines

    def offset(self, time_s: float) -> np.ndarray:
        """Return the deviation from home [J] rad at a time since the beginning."""
        window = self._window(time_s)
        if window == 0.0:
            return np.zeros(len(self.home))
        waves: np.ndarray = np.sin(self._rates * time_s + self._phases)
        return window * self.scale * np.einsum("js,js->j", self._sizes, waves)

    def offsets(self, times: np.ndarray) -> np.ndarray:
        """Return `offset` [N, J] at times [N]."""
        return np.stack([self.offset(float(time)) for time in times])

    def _window(self, time_s: float) -> float:
        """Return the share of the sines, 0..1: a quintic ramp, so that speed and acceleration begin and end at 0."""
        share = min(time_s, self.duration_s - time_s) / self._ramp_s
        if share <= 0.0:
            return 0.0
        return 1.0 if share >= 1.0 else share**3 * (10 - 15 * share + 6 * share**2)


def plan_excitation(arm: Arm, settings: ControllerSettings, shape: ExcitationShape) -> Excitation:
    """Make the largest motion of a shape that keeps away from every limit of the arm.

    The tool stays in the upper half of the space between the floor of its workspace and its height at home, because
    objects may lie below.

    Parameters
    ----------
    arm
        The arm.
    settings
        Margins and scales of the safety filter.
    shape
        Length, band and largest size.
    """
    return _Planner(arm, settings, shape).plan()


class _Planner:
    """Finds the amplitude of every joint."""

    def __init__(self, arm: Arm, settings: ControllerSettings, shape: ExcitationShape) -> None:
        self._kinematics = kinematics = Kinematics(arm)
        self._distances = Distances.with_margins_of(settings, kinematics)
        self._limits = find_limits(arm, settings, self._distances)
        self._home = np.array(arm.home)
        self._excitation = Excitation(shape, self._home)
        self._times = np.arange(0.0, shape.duration_s, 1 / PLAN_RATE_HZ)
        numbers = self._limits.numbers
        low = np.array([numbers.x0, numbers.y0, numbers.z0]) + WALL_ROOM_M
        self._high = np.array([numbers.x1, numbers.y1, numbers.z1]) - WALL_ROOM_M
        low[2] = max(low[2], (low[2] + kinematics.tool_position(self._home)[2]) / 2)
        self._low = low
        self._shape = shape

    def plan(self) -> Excitation:
        excitation, largest = self._excitation, self._largest()
        unit = excitation.offsets(self._times)
        share = 1.0
        while not self._is_clear(unit * (share * largest)) and share > SMALLEST_SCALE:
            share *= 0.85
        scale = share * largest
        for _ in range(GROWTH_ROUNDS):
            for joint in range(len(scale)):
                tried = scale.copy()
                tried[joint] = min(tried[joint] * GROWTH, largest[joint])
                if tried[joint] > scale[joint] and self._is_clear(unit * tried):
                    scale = tried
        excitation.scale = scale
        return excitation

    def _largest(self) -> np.ndarray:
        """Return the scale [J] that the joint's own limits allow."""
        shape, joints = self._shape, self._limits.joints
        step = 1 / (ACCELERATION_RATE * shape.high_hz)
        times = np.arange(0.0, shape.duration_s, step)
        offsets = self._excitation.offsets(times)
        speeds = np.diff(offsets, axis=0) / step
        room = np.minimum(joints.upper - self._home, self._home - joints.lower)
        most = (
            (np.minimum(shape.amplitude_rad, ROOM * np.maximum(room, 0.0)), offsets),
            (np.minimum(shape.speed_rad_s, ROOM * joints.wanted_velocity), speeds),
            (ACCELERATION_SHARE * joints.acceleration, np.diff(speeds, axis=0) / step),
        )
        found: np.ndarray = np.min([limit / np.abs(values).max(axis=0) for limit, values in most], axis=0)
        return found

    def _is_clear(self, offsets: np.ndarray) -> bool:
        """Return whether postures home + `offsets` [N, J], and the speeds between them, keep away from all limits."""
        numbers = self._limits.numbers
        rate = ROOM * numbers.barrier_rate_hz
        speeds = np.gradient(offsets, 1 / PLAN_RATE_HZ, axis=0)
        for offset, speed in zip(offsets, speeds, strict=True):
            posture = self._home + offset
            position, _, jacobian = self._kinematics.evaluate(posture)
            twist = jacobian @ speed
            if (twist[:3] < -rate * (position - self._low)).any() or (twist[:3] > rate * (self._high - position)).any():
                return False
            if np.linalg.norm(twist[:3]) > ROOM * numbers.wanted_tool_speed:
                return False
            if np.linalg.norm(twist[3:]) > ROOM * numbers.wanted_tool_angular_speed:
                return False
            rows, spare = self._distances.closing(posture, CLOSING_PAIRS)
            if len(spare) and (spare.min() <= 0 or (rows @ speed < -rate * spare).any()):
                return False
        return True
