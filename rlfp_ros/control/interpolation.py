"""Interpolation between the points of a trajectory as joint_trajectory_controller does it, compiled."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.compiled import compiled, entry_point

REFUSED = 0  # points: the message is not used


@compiled
def _interpolate(
    knots: np.ndarray, states: np.ndarray, count: int, rest: np.ndarray, stamp_ns: int, state: np.ndarray
) -> None:
    if count == 0 or stamp_ns >= knots[count - 1]:
        for joint in range(len(rest)):
            state[0, joint] = rest[joint] if count == 0 else states[count - 1, 0, joint]
            state[1, joint], state[2, joint] = 0.0, 0.0
        return
    index = 0
    while knots[index + 1] <= stamp_ns:
        index += 1
    duration_ns, time_ns = knots[index + 1] - knots[index], max(0, stamp_ns - knots[index])
    h, s = duration_ns * 1e-9, time_ns / duration_ns
    for joint in range(len(rest)):
        p0, v0, a0 = states[index, 0, joint], states[index, 1, joint] * h, states[index, 2, joint] * (h * h)
        p1, v1, a1 = states[index + 1, 0, joint], states[index + 1, 1, joint] * h, states[index + 1, 2, joint] * (h * h)
        way = p1 - p0
        c3 = 10.0 * way - 6.0 * v0 - 4.0 * v1 - 1.5 * a0 + 0.5 * a1
        c4 = -15.0 * way + 8.0 * v0 + 7.0 * v1 + 1.5 * a0 - a1
        c5 = 6.0 * way - 3.0 * v0 - 3.0 * v1 - 0.5 * a0 + 0.5 * a1
        state[0, joint] = p0 + s * (v0 + s * (0.5 * a0 + s * (c3 + s * (c4 + s * c5))))
        state[1, joint] = (v0 + s * (a0 + s * (3.0 * c3 + s * (4.0 * c4 + s * 5.0 * c5)))) / h
        state[2, joint] = (a0 + s * (6.0 * c3 + s * (12.0 * c4 + s * 20.0 * c5))) / (h * h)


@entry_point("void(i8[::1], f8[:,:,::1], i8, f8[::1], i8, f8[:,::1])")
def interpolate(
    knots: np.ndarray, states: np.ndarray, count: int, rest: np.ndarray, stamp_ns: int, state: np.ndarray
) -> None:
    """Set the desired `state` [3, J] at `stamp_ns`.

    Quintic between two points; before the first one, the first; after the last one its position, at rest.

    Parameters
    ----------
    knots, states
        Times of the points, ns, and the states [N, 3, J] there, of which `count` are used.
    rest
        [J] rad, the position without any point.
    """
    _interpolate(knots, states, count, rest, stamp_ns, state)


@entry_point("i8(f8[::1], f8[:,:,::1], i8, i8, f8[::1], i8[::1], f8[:,:,::1], i8, f8[:,::1])")
def take_points(
    times: np.ndarray,
    points: np.ndarray,
    stamp_ns: int,
    now_ns: int,
    rest: np.ndarray,
    knots: np.ndarray,
    states: np.ndarray,
    count: int,
    desired: np.ndarray,
) -> int:
    """Replace the points of a trajectory by those of a message that arrives at `now_ns`.

    If the first point is still to come, the state that is desired now is put before it.

    Parameters
    ----------
    times, points
        [M] s after `stamp_ns`, and [M, 3, J].
    knots, states
        As in `interpolate`, with room for M + 1; changed unless the message is refused.
    desired
        [3, J], scratch memory.

    Returns
    -------
    int
        How many points there are now, or `REFUSED` if a value is not finite or the last point is past.
    """
    total, size = 0.0, len(times)
    for index in range(size):
        for row in range(3):
            for joint in range(len(rest)):
                total += 0.0 * points[index, row, joint]
    if not (total == 0.0 and stamp_ns + round(times[size - 1] * 1e9) > now_ns):
        return REFUSED
    first = 0
    if stamp_ns + round(times[0] * 1e9) > now_ns:  # JTC does not use the desired state of a message that arrives late
        _interpolate(knots, states, count, rest, now_ns, desired)
        first = 1
    for index in range(size):
        knots[first + index] = stamp_ns + round(times[index] * 1e9)
        for row in range(3):
            for joint in range(len(rest)):
                states[first + index, row, joint] = points[index, row, joint]
    if first:
        knots[0] = now_ns
        for row in range(3):
            for joint in range(len(rest)):
                states[0, row, joint] = desired[row, joint]
    return first + size
