"""Checks one step together with the complete stop after it: joints, tool speed, workspace, distances.

Only the points of a stop are checked. If a joint reverses within a ramp, the path between the points exceeds them by
less than 0.001 rad, and `position_margin_rad` is larger. Comparisons are written so that NaN fails them.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from rlfp_ros.control.capsules import closest, find_spare_distances, place, spare_distance
from rlfp_ros.control.chain import find_tool
from rlfp_ros.control.compiled import compiled, shaped
from rlfp_ros.control.safety.limits import (
    SPEED_MARGIN,
    Limits,
    inside_box,
    inside_joint_limits,
    slow_near_ends,
)
from rlfp_ros.control.safety.motion import ROUNDING, copy_rows
from rlfp_ros.control.safety.promise import FilterState
from rlfp_ros.control.safety.stop import sample_stop

# Ticks between checked points of a stop, if the Jacobian changes too much for its ends to bound the speed.
CHECK_EVERY = 4
RAMP_SAMPLES = 4  # samples of the tool's speed during the first ramp of a stop
EXACT_BELOW_M = 0.1  # m; larger spare distances may be underestimated

# What a check found. The numbers index `Refusal`.
PASSED, NOT_FINITE, POSITION, VELOCITY, TOOL_SPEED, TOOL_ANGULAR_SPEED, WORKSPACE, DISTANCE = range(8)


class Refusal(StrEnum):
    """The reason why a step was refused, in the order of the numbers above."""

    NOT_FINITE = "not_finite"
    POSITION = "position"
    VELOCITY = "velocity"
    TOOL_SPEED = "tool_speed"
    TOOL_ANGULAR_SPEED = "tool_angular_speed"
    WORKSPACE = "workspace"
    DISTANCE = "distance"


@compiled
def tool_speeds(tool: np.ndarray, velocities: np.ndarray) -> tuple[float, float]:
    """Return the tool's speeds squared, (m/s)^2 and (rad/s)^2, at joint velocities [J] rad/s; `tool` is located."""
    joints, linear, angular = len(velocities), 0.0, 0.0
    for axis in range(6):
        along = 0.0
        for joint in range(joints):
            along += tool[12 + axis * joints + joint] * velocities[joint]
        if axis < 3:
            linear += along * along
        else:
            angular += along * along
    return linear, angular


@compiled
def too_fast(limits: Limits, linear: float, angular: float) -> int:
    """Return which of the tool's speeds squared is beyond its limit, or `PASSED`."""
    if not linear <= (SPEED_MARGIN * limits.numbers.tool_speed) ** 2:
        return TOOL_SPEED
    if not angular <= (SPEED_MARGIN * limits.numbers.tool_angular_speed) ** 2:
        return TOOL_ANGULAR_SPEED
    return PASSED


@compiled
def check_step(limits: Limits, state: FilterState, ticks: np.ndarray, points: int) -> int:
    """Check the step from the end of the promised motion to `state.step`, with its stop of so many points.

    Sets `state.next_end`, and the smallest spare distance there in `state.closest[1]`. Returns why the step may not be
    made, or `PASSED`.
    """
    joints = state.step.shape[1]
    here, step, stop = shaped(state.end[: 3 * joints], (3, joints)), state.step, state.step_points
    refusal = _check_joints(limits, state, here, ticks, points)
    if refusal:
        return refusal
    tool = state.next_end[3 * joints :]
    copy_rows(step, shaped(state.next_end[: 3 * joints], (3, joints)))
    place(limits.body, step[0], state.poses, state.placed)
    find_tool(limits.body.chain, state.poses, tool)
    nearest = closest(limits.body, state.placed, EXACT_BELOW_M)
    state.closest[1] = nearest
    refusal = _check_place(limits, state, step[0], tool, nearest)
    if refusal:
        return refusal
    # Speed can still grow while the first ramp reverses the acceleration; then all joints slow down together.
    linear, angular = _fastest_in_ramp(limits, state, step, stop[0], tool)
    refusal = too_fast(limits, linear, angular)
    if refusal:
        return refusal
    return _check_stop(limits, state, ticks, points, math.sqrt(linear), math.sqrt(angular))


@compiled
def _check_joints(limits: Limits, state: FilterState, here: np.ndarray, ticks: np.ndarray, points: int) -> int:
    """Return why the joints may not make the step and its stop, or `PASSED`."""
    step, stop, numbers = state.step, state.step_points, limits.numbers
    for point in range(points):
        if not inside_joint_limits(limits, stop[point, 0], here[0]):
            return POSITION
    for joint in range(step.shape[1]):
        if not bound_of_speed(limits, step, joint) <= limits.joints.velocity[joint]:
            return VELOCITY
    if numbers.near_ends == 0.0:
        return PASSED
    length = ticks[0] + ticks[1] + (ticks[2] if points == 3 else 0)
    for tick in range(length + 1):
        if tick:
            sample_stop(limits, step, stop, ticks, tick, state.sample)
        else:
            copy_rows(step[:2], state.sample)
        for joint in range(step.shape[1]):
            if not slow_near_ends(limits, joint, state.sample[0, joint], state.sample[1, joint]):
                return VELOCITY
    return PASSED


@compiled
def bound_of_speed(limits: Limits, rows: np.ndarray, joint: int) -> float:
    """Return a bound on the speed of a joint during the stop from `rows` [3, J], rad/s.

    While the first ramp reverses an acceleration, velocity still grows by at most half of it.
    """
    ramp_time = limits.numbers.ramp * limits.numbers.dt
    return abs(rows[1, joint]) + 0.5 * ramp_time * abs(rows[2, joint])


@compiled
def _fastest_in_ramp(
    limits: Limits, state: FilterState, rows: np.ndarray, target: np.ndarray, tool: np.ndarray
) -> tuple[float, float]:
    """Return the highest tool speeds squared while the acceleration changes from `rows` [3, J] to `target` [3, J]."""
    ramp_time = limits.numbers.ramp * limits.numbers.dt
    fastest_linear, fastest_angular = 0.0, 0.0
    for index in range(RAMP_SAMPLES):
        share = index / (RAMP_SAMPLES - 1.0)  # v + a t + (a_end - a) t^2 / (2 T)
        time = share * ramp_time
        for joint in range(rows.shape[1]):
            velocity, acceleration = rows[1, joint], rows[2, joint]
            state.ramp[joint] = (
                velocity + time * (1.0 - 0.5 * share) * acceleration + 0.5 * time * share * target[2, joint]
            )
        linear, angular = tool_speeds(tool, state.ramp)
        if not linear <= fastest_linear:  # a NaN is kept
            fastest_linear = linear
        if not angular <= fastest_angular:
            fastest_angular = angular
    return fastest_linear, fastest_angular


@compiled
def _check_stop(
    limits: Limits, state: FilterState, ticks: np.ndarray, points: int, linear: float, angular: float
) -> int:
    """Return why the tool and the links may not follow the stop, or `PASSED`.

    `linear` and `angular` are the highest tool speeds in its first ramp, m/s and rad/s.
    """
    numbers, reach = limits.numbers, limits.joints.reach
    joints, step, last = state.step.shape[1], state.step, state.step_points[points - 1]
    # Bounds on how far any point of the arm can move, and on how much the changing Jacobian can add to the tool's
    # speed. In most cases they are sufficient.
    swept, turn, far, fastest, stopping = 0.0, 0.0, 0.0, 0.0, 0.0
    for joint in range(joints):
        speed, travel = bound_of_speed(limits, step, joint), abs(last[0, joint] - state.end[joint])
        swept += speed * reach[joint]
        fastest += speed
        turn += travel
        far += travel * reach[joint]
        stopping += abs(last[0, joint] - step[0, joint]) * reach[joint]
    far += numbers.ramp * numbers.dt * swept
    fast = linear + turn * swept > numbers.tool_speed or angular + turn * fastest > numbers.tool_angular_speed
    x, y, z = state.end[3 * joints], state.end[3 * joints + 1], state.end[3 * joints + 2]
    room = min(x - numbers.x0, y - numbers.y0, z - numbers.z0, numbers.x1 - x, numbers.y1 - y, numbers.z1 - z)
    clear = state.closest[1] - stopping > 0.0
    if not clear:
        place(limits.body, last[0], state.poses, state.placed)
        clear = closest(limits.body, state.placed, 0.0) > 0.0
    if room > far and not fast and clear:
        return PASSED
    for point in (0, points - 1):
        rows = state.step_points[point]
        refusal = _check_posture(limits, state, rows[0])
        if refusal:
            return refusal
        linear_squared, angular_squared = _fastest_in_ramp(limits, state, rows, rows, state.tool)
        refusal = too_fast(limits, linear_squared, angular_squared)
        if refusal:
            return refusal
    if fast or numbers.ramp > CHECK_EVERY:
        return _check_path(limits, state, ticks, points)
    return PASSED


@compiled
def _check_path(limits: Limits, state: FilterState, ticks: np.ndarray, points: int) -> int:
    """Return why the tool may not follow the stop, or `PASSED`. Checks until the tool stays slow.

    Fast joints whose motions cancel each other leave the tool slow only while the Jacobian does not change.
    """
    numbers, reach, joints = limits.numbers, limits.joints.reach, state.step.shape[1]
    length = ticks[0] + ticks[1] + (ticks[2] if points == 3 else 0)
    for tick in range(CHECK_EVERY, length + 1, CHECK_EVERY):
        sample_stop(limits, state.step, state.step_points, ticks, tick, state.sample)
        refusal = _check_posture(limits, state, state.sample[0])
        linear, angular = tool_speeds(state.tool, state.sample[1])
        refusal = too_fast(limits, linear, angular) or refusal
        if refusal:
            return refusal
        left, swept, fastest = 0.0, 0.0, 0.0
        for joint in range(joints):
            left += abs(state.step_points[points - 1, 0, joint] - state.sample[0, joint])
            swept += abs(state.sample[1, joint]) * reach[joint]
            fastest += abs(state.sample[1, joint])
        slow = math.sqrt(linear) + left * swept <= numbers.tool_speed
        if tick >= numbers.ramp and slow and math.sqrt(angular) + left * fastest <= numbers.tool_angular_speed:
            break
    return PASSED


@compiled
def _check_posture(limits: Limits, state: FilterState, joints: np.ndarray) -> int:
    """Return why the arm may not be at `joints` [J] rad, or `PASSED`; sets `state.tool` to the tool there."""
    place(limits.body, joints, state.poses, state.placed)
    find_tool(limits.body.chain, state.poses, state.tool)
    return _check_place(limits, state, joints, state.tool, closest(limits.body, state.placed, 0.0))


@compiled
def _check_place(limits: Limits, state: FilterState, joints: np.ndarray, tool: np.ndarray, nearest: float) -> int:
    """Return why the arm may not be at `joints` [J] rad, or `PASSED`.

    An arm that is already outside may stay or go inwards, never farther out. `nearest` is a lower bound on the smallest
    spare distance, m; the capsules are placed there.
    """
    count = len(joints)
    if not inside_box(limits, tool[:3], state.end[3 * count : 3 * count + 3]):
        return WORKSPACE
    if nearest > 0.0:
        return PASSED
    find_spare_distances(limits.body, state.end[:count], state.poses, state.placed, state.spares)
    place(limits.body, joints, state.poses, state.placed)
    for pair in range(len(limits.body.pairs)):
        if not spare_distance(limits.body, pair, state.placed) >= min(state.spares[pair], 0.0) - ROUNDING:
            return DISTANCE
    return PASSED
