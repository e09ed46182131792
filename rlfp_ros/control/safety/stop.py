"""Plans complete stops: from any motion to exact rest, in three pieces of constant jerk.

All joints ramp to a deceleration, keep it, and ramp it out together. (Ruckig's stops switch at times of their own for
every joint: 21 points for seven joints, or an interpolation that overshoots the jerk. Its time-optimal stop is the
yardstick in the tests.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.motion import AHEAD, ROUNDING, Motion, propagation

LONGEST_STOP_S = 10.0  # s; no plan is longer; exceeded only by a start above every speed limit or NaN
RAMP_SAMPLES = 4  # samples of the tool's speed during the first ramp of a stop


class Stop(NamedTuple):
    """The rest of a stop: n pieces of constant jerk; n is 0 at rest.

    Attributes
    ----------
    ticks
        [n], the lengths of the pieces.
    points
        [n, 3, J], the motions at their ends; the last is at rest.
    times
        [`AHEAD` + n] s, of the command's points if the stop begins at the end of its new step; None later.
    """

    ticks: tuple[int, ...]
    points: np.ndarray
    times: np.ndarray | None = None


NO_STOP = Stop((), np.zeros((0, 3, 0)))


class StopMatrices(NamedTuple):
    """Linear maps from a motion's rows [3, J] to its stop with one length of the plateau.

    Attributes
    ----------
    points
        [3 n, 3]: to the rows of the n points at which the jerk changes.
    ticks
        [n], the lengths of the pieces that end in those points.
    times
        [`AHEAD` + n] s, of the points of a command whose new step this stop follows.
    ramp_velocities
        [`RAMP_SAMPLES`, 3]: to velocities during the first ramp.
    """

    points: np.ndarray
    ticks: tuple[int, ...]
    times: np.ndarray
    ramp_velocities: np.ndarray


class StopSamples(NamedTuple):
    """[n, 3] each: from a motion's rows to position and velocity after every tick of its stop."""

    positions: np.ndarray
    velocities: np.ndarray


class StopPlan(NamedTuple):
    """A stop from one motion.

    Attributes
    ----------
    plateau
        Ticks for which the full deceleration lasts.
    matrices
        The maps that the stop was computed with.
    points
        [n, 3, J], the motions at which the jerk changes; the last is at rest.
    """

    plateau: int
    matrices: StopMatrices
    points: np.ndarray

    @property
    def stop(self) -> Stop:
        """The plan as a `Stop` of which nothing has been executed."""
        return Stop(self.matrices.ticks, self.points, self.matrices.times)


@dataclass(frozen=True)
class StopShapes:
    """The limits of stops, and the maps to stops of every length, which are computed when they are needed.

    Attributes
    ----------
    dt
        s per tick.
    ramp
        Length of both ramps in ticks, from full acceleration of a step to full deceleration.
    ramp_time
        The same in s.
    per_deceleration
        [J] s^2/rad, one over the deceleration in use.
    impulse
        [3], of (position, velocity, acceleration): twice the velocity to remove.
    growth
        [3], of the magnitudes: velocity still grows by at most half of the first ramp times the acceleration.
    constant_samples
        [`RAMP_SAMPLES`, 3], velocities while a plateau's deceleration is ramped out.
    """

    dt: float
    ramp: int
    ramp_time: float
    per_deceleration: np.ndarray
    impulse: np.ndarray
    growth: np.ndarray
    ramp_samples: np.ndarray
    constant_samples: np.ndarray
    _matrices: dict[int, StopMatrices] = field(default_factory=dict)
    _samples: dict[int, StopSamples] = field(default_factory=dict)

    def matrices(self, plateau: int) -> StopMatrices:
        """Return the maps for a plateau of `plateau` ticks.

        With both ramps T_r and the plateau T_p long, -(2 v + a T_r) / (2 (T_r + T_p)) is the deceleration that ends
        at rest.
        """
        found = self._matrices.get(plateau)
        if found is None:
            deceleration = -self.impulse / (2.0 * (self.ramp_time + plateau * self.dt))
            ramp, keep = propagation(self.ramp * self.dt), propagation(max(plateau, 1) * self.dt)
            first = ramp @ np.vstack((np.eye(3), deceleration))
            second = keep @ np.vstack((first, deceleration)) if plateau else first
            last = ramp @ np.vstack((second, np.zeros(3)))
            last[1:] = 0.0  # exact rest, without rounding errors
            points = (first, second, last) if plateau else (first, last)
            ticks = (self.ramp, plateau, self.ramp) if plateau else (self.ramp, self.ramp)
            ramp_velocities = self.ramp_samples.dot(np.vstack(((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), deceleration)))
            times = self.dt * np.array((*range(1, AHEAD + 1), *(AHEAD + np.cumsum(ticks)).tolist()))
            times.setflags(write=False)  # shared by commands
            found = self._matrices[plateau] = StopMatrices(np.vstack(points), ticks, times, ramp_velocities)
        return found

    def samples(self, plateau: int) -> StopSamples:
        """Return the maps to every tick of a stop with this plateau."""
        found = self._samples.get(plateau)
        if found is None:
            points, ticks, _, _ = self.matrices(plateau)
            here, positions, velocities = np.eye(3), [], []
            for length, target in zip(ticks, points.reshape(-1, 3, 3), strict=True):
                time = self.dt * np.arange(1, length + 1)[:, None]
                jerk = (target[2] - here[2]) / (length * self.dt)
                positions.append(here[0] + time * here[1] + 0.5 * time**2 * here[2] + time**3 / 6.0 * jerk)
                velocities.append(here[1] + time * here[2] + 0.5 * time**2 * jerk)
                here = target
            found = self._samples[plateau] = StopSamples(np.vstack(positions), np.vstack(velocities))
        return found


def stop_shapes(arm: Arm, settings: ControllerSettings) -> StopShapes:
    """Derive the stops of an arm from the settings."""
    dt = 1.0 / settings.control_rate_hz
    acceleration = settings.acceleration_scale * np.array(arm.limits.acceleration)
    per_deceleration = 1.0 / (settings.stop_acceleration_scale * np.array(arm.limits.acceleration))
    jerk_dt = settings.stop_jerk_scale * np.array(arm.limits.jerk) * dt
    ramp = max(2, math.ceil(np.max((acceleration + 1.0 / per_deceleration) / jerk_dt) - ROUNDING))
    ramp_time = ramp * dt
    share = np.linspace(0.0, 1.0, RAMP_SAMPLES)[:, None]  # share of the ramp: v + a t + (a_end - a) t^2 / (2 T)
    time = share * ramp_time
    samples = np.hstack((np.ones_like(share), time * (1.0 - 0.5 * share), 0.5 * time * share))
    return StopShapes(
        dt=dt,
        ramp=ramp,
        ramp_time=ramp_time,
        per_deceleration=per_deceleration,
        impulse=np.array((0.0, 2.0, ramp_time)),
        growth=np.array((0.0, 1.0, 0.5 * ramp_time)),
        ramp_samples=samples,
        constant_samples=samples.dot(((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0))),
    )


def plan_stop(shapes: StopShapes, rows: np.ndarray) -> StopPlan | None:
    """Return the shortest stop from `rows` [3, J] inside the stop's acceleration, or None if `rows` are not finite.

    The length of the ramps keeps jerk inside its limit.
    """
    durations = (shapes.impulse.dot(rows) * shapes.per_deceleration).tolist()
    hardest = max(max(durations), -min(durations))
    if not math.isfinite(sum(durations)) or hardest >= LONGEST_STOP_S:  # the comparison alone may miss a NaN
        return None
    needed = 0.5 * hardest - shapes.ramp_time
    plateau = math.ceil(needed / shapes.dt - ROUNDING) if needed > 0.0 else 0
    matrices = shapes.matrices(plateau)
    points = matrices.points.dot(rows).reshape(len(matrices.ticks), 3, rows.shape[1])
    return StopPlan(plateau, matrices, points)


def follow(stop: Stop, here: Motion, to_step: np.ndarray) -> tuple[Motion, Stop]:
    """Return the motion one tick after `here` along `stop`, and the rest of the stop. At rest, return `here`."""
    if not stop.ticks:
        return here, stop  # at rest, as every stop ends and every motion starts
    left, target = stop.ticks[0], stop.points[0]
    if left == 1:
        return Motion(target, len(stop.ticks) == 1), Stop(stop.ticks[1:], stop.points[1:])
    rows = here.rows
    acceleration = rows[2] + (target[2] - rows[2]) / left
    return Motion(to_step @ np.vstack((rows, acceleration)), False), Stop((left - 1, *stop.ticks[1:]), stop.points)
