"""The velocity programme: finds the joint velocities inside all limits that are nearest to a wanted tool twist.

Damped inverse kinematics, whose damping grows as the smallest singular value falls. If that breaks a limit, a quadratic
programme on DAQP finds the nearest velocity that does not.
"""

from __future__ import annotations

import math

import daqp
import numpy as np

from rlfp_ros.control.capsules import find_closing, place
from rlfp_ros.control.compiled import compiled, inlined
from rlfp_ros.control.safety.limits import SLIDING_ROOM_M, Limits, speeds_near_ends
from rlfp_ros.control.safety.motion import ROUNDING, all_finite
from rlfp_ros.control.safety.promise import CLOSEST_PAIRS, NEAREST, PAIRS, FilterState

DAQP_OPTIMAL = 1  # exit flag of a solved programme
POSE_AXES = 6  # a tool pose needs six joints; any more are spare
LEAST_DAMPING = 1e-9  # m^2, keeps the factors of a singular matrix finite
POSTURE_DAMPING = 1e-12  # m^2; the posture leaks into the tool's motion by this share of the smallest squared value
REGULAR = 1e-4  # keeps the programme's matrix positive definite for spare joints
HALVINGS = 52  # of the interval that holds the smallest eigenvalue: to rounding

INSIDE, LIMITED = 0, 1  # whether the wanted motion is inside the limits, or the quadratic programme must change it


@inlined
def find_velocity(limits: Limits, state: FilterState, counters: np.ndarray) -> int:
    """Set `state.velocity` to the joint velocities for the wanted motion `state.asked`, from the promised end.

    Returns
    -------
    int
        `INSIDE` if they are inside all limits or not finite, otherwise `LIMITED`; then the quadratic programme is set,
        which has `counters[PAIRS]` pairs.
    """
    joints = len(state.velocity)
    tool = state.end[3 * joints :]
    _find_unlimited(limits, state, tool)
    if not all_finite(state.velocity):
        return INSIDE
    find_bounds(limits, state, counters)
    # A motion that is too fast is scaled down in the same direction. Only walls and the ends of joint ranges change
    # its direction: the arm slides along them.
    slow_down(limits, state)
    inside = _inside_bounds(state, tool)
    if not inside:
        excess = 0.0
        for joint in range(joints):
            excess = max(excess, abs(state.velocity[joint]) / limits.joints.wanted_velocity[joint])
        if excess > 1.0:
            scale = (1.0 - ROUNDING) / excess
            for joint in range(joints):
                state.velocity[joint] *= scale
            inside = _inside_bounds(state, tool)
    for pair in range(counters[PAIRS]):
        speed = 0.0
        for joint in range(joints):
            speed += state.rows[pair, joint] * state.velocity[joint]
        inside = inside and speed >= state.least[pair]
    if inside:
        return INSIDE
    _set_programme(limits, state, tool, counters[PAIRS])
    return LIMITED


# --- inverse kinematics ---------------------------------------------------------------------------------------------


@inlined
def _find_unlimited(limits: Limits, state: FilterState, tool: np.ndarray) -> None:
    """Set `state.velocity` to damped inverse kinematics of the wanted twist and the posture's part that keeps the tool.

    With the weighted Jacobian A, A^T (A A^T + d I)^-1 is the inverse. An arm with fewer than six joints has no spare
    ones and uses (A^T A + d I)^-1 A^T, which is the same.
    """
    joints, numbers = len(state.velocity), limits.numbers
    size = min(joints, POSE_AXES)
    _set_gram(numbers.lever, state, tool)
    damping = LEAST_DAMPING
    threshold = numbers.singularity_threshold**2
    if not factorise(state.gram, -threshold, state.factor, size):
        smallest = smallest_eigenvalue(state.gram, threshold, state.factor, size)
        damping += (numbers.singularity_damping * (1.0 - smallest / threshold)) ** 2 if threshold > 0.0 else 0.0
    _set_twist(limits, state, tool)
    solved = state.column
    if joints < POSE_AXES:
        for joint in range(joints):
            solved[joint] = _along(state, tool, joint, numbers.lever)
        factorise(state.gram, damping, state.factor, size)
        solve(state.factor, solved, size)
        for joint in range(joints):
            state.velocity[joint] = solved[joint] + state.asked[6 + joints + joint]
        return
    for axis in range(POSE_AXES):
        solved[axis] = state.twist[axis] * _weight(axis, numbers.lever)
    factorise(state.gram, damping, state.factor, size)
    solve(state.factor, solved, size)
    for joint in range(joints):
        state.velocity[joint] = _turned(tool, joints, joint, solved, numbers.lever) + state.asked[6 + joints + joint]
    if joints == POSE_AXES:
        return
    for axis in range(POSE_AXES):
        solved[axis] = 0.0
        for joint in range(joints):
            solved[axis] += tool[12 + axis * joints + joint] * state.asked[6 + joint]
        solved[axis] *= _weight(axis, numbers.lever)
    factorise(state.gram, POSTURE_DAMPING, state.factor, size)
    solve(state.factor, solved, size)
    for joint in range(joints):
        state.velocity[joint] += state.asked[6 + joint] - _turned(tool, joints, joint, solved, numbers.lever)


@inlined
def _weight(axis: int, lever: float) -> float:
    return 1.0 if axis < 3 else lever


@inlined
def _turned(tool: np.ndarray, joints: int, joint: int, solved: np.ndarray, lever: float) -> float:
    """Return a joint's row of the weighted Jacobian's transpose times `solved` [6]."""
    total = 0.0
    for axis in range(POSE_AXES):
        total += tool[12 + axis * joints + joint] * _weight(axis, lever) * solved[axis]
    return total


@inlined
def _along(state: FilterState, tool: np.ndarray, joint: int, lever: float) -> float:
    """Return a joint's row of the weighted Jacobian's transpose times the weighted twist in `state.twist`."""
    joints, total = len(state.velocity), 0.0
    for axis in range(POSE_AXES):
        total += tool[12 + axis * joints + joint] * _weight(axis, lever) ** 2 * state.twist[axis]
    return total


@inlined
def _set_gram(lever: float, state: FilterState, tool: np.ndarray) -> None:
    """Set `state.gram` to A A^T, or to A^T A for fewer than six joints."""
    joints = len(state.velocity)
    size = min(joints, POSE_AXES)
    for row in range(size):
        for column in range(row + 1):
            total = 0.0
            if joints < POSE_AXES:
                for axis in range(POSE_AXES):
                    at = 12 + axis * joints
                    total += tool[at + row] * tool[at + column] * _weight(axis, lever) ** 2
            else:
                for joint in range(joints):
                    total += tool[12 + row * joints + joint] * tool[12 + column * joints + joint]
                total *= _weight(row, lever) * _weight(column, lever)
            state.gram[row, column] = state.gram[column, row] = total


@compiled
def factorise(matrix: np.ndarray, added: float, factor: np.ndarray, size: int) -> bool:
    """Set the Cholesky factor of a symmetric matrix plus `added` on its diagonal; return False if it has none."""
    for row in range(size):
        for column in range(row + 1):
            total = matrix[row, column]
            if row == column:
                total += added
            for index in range(column):
                total -= factor[row, index] * factor[column, index]
            if row == column:
                if not total > 0.0:
                    return False
                factor[row, row] = math.sqrt(total)
            else:
                factor[row, column] = total / factor[column, column]
    return True


@compiled
def solve(factor: np.ndarray, vector: np.ndarray, size: int) -> None:
    """Replace `vector` by the solution of the system whose Cholesky factor is given."""
    for row in range(size):
        for index in range(row):
            vector[row] -= factor[row, index] * vector[index]
        vector[row] /= factor[row, row]
    for row in range(size - 1, -1, -1):
        for index in range(row + 1, size):
            vector[row] -= factor[index, row] * vector[index]
        vector[row] /= factor[row, row]


@compiled
def smallest_eigenvalue(matrix: np.ndarray, upper: float, factor: np.ndarray, size: int) -> float:
    """Return the smallest eigenvalue of a positive semidefinite matrix, if it is below `upper`.

    A matrix has a Cholesky factor while less than that is subtracted from its diagonal.
    """
    lower = 0.0
    for _ in range(HALVINGS):
        middle = 0.5 * (lower + upper)
        if factorise(matrix, -middle, factor, size):
            lower = middle
        else:
            upper = middle
    return lower


@inlined
def _set_twist(limits: Limits, state: FilterState, tool: np.ndarray) -> None:
    """Set `state.twist` to the wanted twist, with the speed that brings a tool outside its room back into it.

    Each step of a slide along a wall drifts a little towards the wall.
    """
    n, room = limits.numbers, SLIDING_ROOM_M
    for axis in range(POSE_AXES):
        state.twist[axis] = state.asked[axis]
    rate = n.barrier_rate_hz
    state.twist[0] = _kept_inside(state.twist[0], tool[0], n.x0 + room, n.x1 - room, rate)
    state.twist[1] = _kept_inside(state.twist[1], tool[1], n.y0 + room, n.y1 - room, rate)
    state.twist[2] = _kept_inside(state.twist[2], tool[2], n.z0 + room, n.z1 - room, rate)


@compiled
def _kept_inside(speed: float, value: float, lower: float, upper: float, rate: float) -> float:
    """Return a wanted speed; outside the bounds, without its part that leads farther out and with one that leads back.

    An arm that presses against a wall must also come back from it while it slides, or it drifts until it is held.
    """
    if value < lower:
        return max(speed, 0.0) + rate * (lower - value)
    if value > upper:
        return min(speed, 0.0) - rate * (value - upper)
    return speed


# --- limits ---------------------------------------------------------------------------------------------------------


@inlined
def find_bounds(limits: Limits, state: FilterState, counters: np.ndarray) -> None:
    """Set `state.most`, `state.rows` and `state.least`.

    Speed towards a limit is at most `barrier_rate_hz` times the distance to it. Motion back inside is not limited.
    Capsules that are too close to slide along each other must move apart, slowly, for the same reason as in
    `_kept_inside`. `state.velocity` is the wanted motion.
    """
    n, joints, room = limits.numbers, len(state.velocity), SLIDING_ROOM_M
    rate, tool = n.barrier_rate_hz, state.end[3 * joints :]
    for joint in range(joints):
        position, most = state.end[joint], limits.joints.wanted_velocity[joint]
        up = min(max(rate * (limits.joints.upper[joint] - position), 0.0), most)
        down = min(max(rate * (position - limits.joints.lower[joint]), 0.0), most)
        if n.near_ends:
            near_down, near_up = speeds_near_ends(limits, joint, position)
            up, down = min(up, n.velocity_scale * near_up), min(down, n.velocity_scale * near_down)
        state.most[0, joint], state.most[1, joint] = up, down
    state.most[0, joints] = max(rate * (n.x1 - room - tool[0]), 0.0)
    state.most[1, joints] = max(rate * (tool[0] - n.x0 - room), 0.0)
    state.most[0, joints + 1] = max(rate * (n.y1 - room - tool[1]), 0.0)
    state.most[1, joints + 1] = max(rate * (tool[1] - n.y0 - room), 0.0)
    state.most[0, joints + 2] = max(rate * (n.z1 - room - tool[2]), 0.0)
    state.most[1, joints + 2] = max(rate * (tool[2] - n.z0 - room), 0.0)
    counters[PAIRS] = 0
    if state.closest[0] > n.influence:
        return
    place(limits.body, state.end[:joints], state.poses, state.placed)
    nearest = counters[NEAREST : NEAREST + CLOSEST_PAIRS]
    count = find_closing(limits.body, state.poses, state.placed, n.influence, nearest, state.rows, state.least)
    for pair in range(count):
        moving = 0.0  # speed of the wanted motion, m/s: an arm that shall stand does not move apart either
        for joint in range(joints):
            moving += abs(state.rows[pair, joint] * state.velocity[joint])
        state.least[pair] = min(rate * min(room - state.least[pair], room), moving)
    counters[PAIRS] = count


@inlined
def _moved(tool: np.ndarray, velocity: np.ndarray, axis: int) -> float:
    """Return the tool's speed along an axis of its twist."""
    joints, total = len(velocity), 0.0
    for joint in range(joints):
        total += tool[12 + axis * joints + joint] * velocity[joint]
    return total


@inlined
def _inside_bounds(state: FilterState, tool: np.ndarray) -> bool:
    joints = len(state.velocity)
    for row in range(joints + 3):
        rate = state.velocity[row] if row < joints else _moved(tool, state.velocity, row - joints)
        if not -state.most[1, row] <= rate <= state.most[0, row]:
            return False
    return True


@inlined
def slow_down(limits: Limits, state: FilterState) -> None:
    """Scale `state.velocity` so that the tool is inside its speeds."""
    n, joints = limits.numbers, len(state.velocity)
    tool, linear, angular = state.end[3 * joints :], 0.0, 0.0
    for axis in range(POSE_AXES):
        moved = _moved(tool, state.velocity, axis)
        if axis < 3:
            linear += moved * moved
        else:
            angular += moved * moved
    linear, angular = math.sqrt(linear), math.sqrt(angular)
    scale = 1.0
    if linear > n.wanted_tool_speed:
        scale = n.wanted_tool_speed / linear
    if angular * scale > n.wanted_tool_angular_speed:
        scale = n.wanted_tool_angular_speed / angular
    if scale < 1.0:
        for joint in range(joints):
            state.velocity[joint] *= scale


@inlined
def _set_programme(limits: Limits, state: FilterState, tool: np.ndarray, pairs: int) -> None:
    """Set the quadratic programme: the nearest velocity to `state.velocity`, mostly by the tool's weighted motion."""
    joints, lever = len(state.velocity), limits.numbers.lever
    for row in range(joints):
        for column in range(row + 1):
            total = REGULAR if row == column else 0.0
            for axis in range(POSE_AXES):
                at = 12 + axis * joints
                total += tool[at + row] * _weight(axis, lever) ** 2 * tool[at + column]
            state.hessian[row, column] = state.hessian[column, row] = total
    for row in range(joints):
        total = 0.0
        for column in range(joints):
            total += state.hessian[row, column] * state.velocity[column]
        state.linear[row] = -total
    for row in range(joints + 3):
        state.upper[row], state.lower[row] = state.most[0, row], -state.most[1, row]
    for row in range(pairs):
        state.upper[joints + 3 + row], state.lower[joints + 3 + row] = math.inf, state.least[row]
    for joint in range(joints):
        for axis in range(3):
            state.constraints[axis, joint] = tool[12 + axis * joints + joint]
        for pair in range(pairs):
            state.constraints[3 + pair, joint] = state.rows[pair, joint]


class VelocityProgramme:
    """Solves the quadratic programme of one filter on DAQP."""

    def __init__(self, state: FilterState) -> None:
        self._state = state
        self._inequalities = np.zeros(len(state.upper), dtype=np.intc)  # DAQP's `sense`: all are plain ones

    def solve(self, pairs: int) -> bool:
        """Replace the state's velocity by the nearest one that the programme allows; by zero if it finds none.

        If close capsules cannot all move apart, they need only not come closer.

        Returns
        -------
        bool
            Whether it was found.
        """
        state = self._state
        rows = len(state.velocity) + 3 + pairs
        velocity, solved = self._nearest(rows, pairs)
        least = state.lower[rows - pairs : rows]
        if not solved and (least > 0.0).any():
            np.minimum(least, 0.0, out=least)
            velocity, solved = self._nearest(rows, pairs)
        state.velocity[:] = velocity if solved else 0.0
        return solved

    def _nearest(self, rows: int, pairs: int) -> tuple[np.ndarray, bool]:
        state = self._state
        velocity, _, flag, _ = daqp.solve(
            state.hessian,
            state.linear,
            state.constraints[: 3 + pairs],
            state.upper[:rows],
            state.lower[:rows],
            self._inequalities[:rows],
        )
        return velocity, flag == DAQP_OPTIMAL
