"""Plans complete stops: from any motion to exact rest, in three pieces of constant jerk.

All joints ramp to a deceleration, keep it, and ramp it out together. (Ruckig's stops switch at times of their own for
every joint: 21 points for seven joints, or an interpolation that overshoots the jerk. Its time-optimal stop is the
yardstick in the tests.)

A stop is an array of points [3, 3, J], the motions at which the jerk changes, and the lengths of the pieces before them
in ticks [3]. Two or three are used; the last is at rest. The length of the ramps keeps jerk inside its limit.
"""

from __future__ import annotations

import math

import numpy as np

from rlfp_ros.control.compiled import compiled
from rlfp_ros.control.safety.limits import Limits
from rlfp_ros.control.safety.motion import ROUNDING, propagate

LONGEST_STOP_S = 10.0  # s; no plan is longer; exceeded only by a start above every speed limit or NaN
STOP_POINTS = 3
NO_STOP = -1


@compiled
def plan_stop(limits: Limits, rows: np.ndarray, points: np.ndarray, ticks: np.ndarray) -> int:
    """Set `points` and `ticks` to the shortest stop from `rows` [3, J] inside the stop's acceleration.

    Returns
    -------
    int
        How many points the stop has, or `NO_STOP` if `rows` are not finite.
    """
    dt, ramp = limits.numbers.dt, int(limits.numbers.ramp)
    ramp_time, hardest = ramp * dt, 0.0
    for joint in range(rows.shape[1]):
        duration = abs((2.0 * rows[1, joint] + ramp_time * rows[2, joint]) * limits.joints.per_deceleration[joint])
        if not (duration < LONGEST_STOP_S and math.isfinite(rows[0, joint])):
            return NO_STOP
        hardest = max(hardest, duration)
    needed = 0.5 * hardest - ramp_time
    plateau = math.ceil(needed / dt - ROUNDING) if needed > 0.0 else 0
    last = 2 if plateau else 1
    for joint in range(rows.shape[1]):
        # With both ramps T_r and the plateau T_p long, -(2 v + a T_r) / (2 (T_r + T_p)) is the deceleration that ends
        # at rest.
        deceleration = -(2.0 * rows[1, joint] + ramp_time * rows[2, joint]) / (2.0 * (ramp_time + plateau * dt))
        propagate(rows, joint, deceleration, ramp_time, points[0])
        if plateau:
            propagate(points[0], joint, deceleration, plateau * dt, points[1])
        propagate(points[last - 1], joint, 0.0, ramp_time, points[last])
        points[last, 1, joint] = points[last, 2, joint] = 0.0  # exact rest, without rounding errors
    ticks[0], ticks[last] = ramp, ramp
    if plateau:
        ticks[1] = plateau
    return last + 1


@compiled
def sample_stop(
    limits: Limits, rows: np.ndarray, points: np.ndarray, ticks: np.ndarray, tick: int, sample: np.ndarray
) -> None:
    """Set positions and velocities `sample` [2, J] of a stop from `rows` [3, J], `tick` ticks after its start."""
    dt, piece, before = limits.numbers.dt, 0, 0
    while tick > before + ticks[piece]:
        before += ticks[piece]
        piece += 1
    here = rows if piece == 0 else points[piece - 1]
    time, length = (tick - before) * dt, ticks[piece] * dt
    for joint in range(rows.shape[1]):
        velocity, acceleration = here[1, joint], here[2, joint]
        jerk = (points[piece, 2, joint] - acceleration) / length
        sample[0, joint] = (
            here[0, joint] + time * velocity + 0.5 * time * time * acceleration + time * time * time / 6.0 * jerk
        )
        sample[1, joint] = velocity + time * acceleration + 0.5 * time * time * jerk
