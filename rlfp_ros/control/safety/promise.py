"""The motion that an arm was promised, in arrays that compiled functions change: no tick allocates memory.

`FilterState` and `COUNTERS` are the memory of one filter. The motions `points` [1 + `AHEAD` + 3, 3, J] are the one of
now, those of the next ticks, and the stop after the last of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlfp_ros.control.chain import POSE
from rlfp_ros.control.compiled import as_python, compiled, inlined, shaped
from rlfp_ros.control.safety.limits import Limits
from rlfp_ros.control.safety.motion import AHEAD, copy_rows, propagate
from rlfp_ros.control.safety.stop import STOP_POINTS

CLOSEST_PAIRS = 4  # nearest capsule pairs in the quadratic programme; the checks use all pairs
STOP = 1 + AHEAD  # index in `points` of the stop's first point

# Counters, an array of integers. First the promised motion:
PROMISED = 0  # how many motions differed from the one before; numbers the end
COUNT = 1  # motions promised for the ticks after now, at most AHEAD
STOP_LEFT = 2  # points of the stop that are left
TICKS = 3  # [3] ticks of the stop's pieces
SETTLING = 6  # ticks left of standing still after a start
RESTS = 7  # [1 + AHEAD] whether now and the next motions are at rest
LOCATED = 11  # PROMISED when the tool was located at the end
RESTING = 12  # whether the motion that was sent has come to rest
# then what the filter decided:
STEPS, BRAKED, STOP_FOLLOWED, LIMITED, UNSOLVED = 13, 14, 15, 16, 17
REFUSED = 18  # [8] by the number of the refusal
PAIRS = 26  # how many pairs the wanted motion approaches
NEAREST = 27  # [CLOSEST_PAIRS] their numbers
PLANNED = 31  # [3] ticks of the pieces of the stop of a step that is checked
COUNTERS = 34


class FilterState(NamedTuple):
    """The memory of one filter.

    Attributes
    ----------
    points
        [1 + AHEAD + 3, 3, J], the promised motions and the stop after them.
    end
        [3 J + 12 + 6 J], the last promised motion and the tool there: rows, position, rotation, Jacobian.
    closest
        [2] m, lower bounds on the smallest spare distance at the end, and at the end of the step that is checked.
    times
        [AHEAD + 3] s, of the points of a command.
    asked
        [6 + 2 J] the wanted motion: tool twist, posture velocities, joint velocities that are added.
    velocity
        [J] rad/s, the wanted joint velocities inside the limits.
    most
        [2, J + 3], highest speeds upwards and downwards, of the joints and of the tool along each axis.
    rows, least
        [CLOSEST_PAIRS, J] and [CLOSEST_PAIRS]: the speed at which each near pair separates is at least `least`.
    hessian, linear, constraints, upper, lower
        [J, J], [J], [3 + CLOSEST_PAIRS, J] and twice [J + 3 + CLOSEST_PAIRS]: the quadratic programme.
    step, step_points, next_end
        A step, the points of its stop, and as `end` the tool at its end.
    tool, sample, ramp
        Scratch memory: a located tool, a sample of the stop [2, J], velocities.
    poses, placed, spares
        Scratch memory of the distances.
    gram, factor, column, twist
        [6, 6], [6, 6], [J + 1] and [6]: scratch memory of the inverse kinematics.
    """

    points: np.ndarray
    end: np.ndarray
    closest: np.ndarray
    times: np.ndarray
    asked: np.ndarray
    velocity: np.ndarray
    most: np.ndarray
    rows: np.ndarray
    least: np.ndarray
    hessian: np.ndarray
    linear: np.ndarray
    constraints: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    step: np.ndarray
    step_points: np.ndarray
    next_end: np.ndarray
    tool: np.ndarray
    sample: np.ndarray
    ramp: np.ndarray
    poses: np.ndarray
    placed: np.ndarray
    spares: np.ndarray
    gram: np.ndarray
    factor: np.ndarray
    column: np.ndarray
    twist: np.ndarray


def memory_size(joints: int, capsules: int, pairs: int) -> int:
    """Return how many numbers `state_in` needs."""
    state = as_python(state_in)(np.zeros(100_000 + pairs + 10 * capsules), joints, capsules, pairs)
    return sum(part.size for part in state)


@inlined
def state_in(memory: np.ndarray, joints: int, capsules: int, pairs: int) -> FilterState:
    """Return the state as views of one array, which a compiled function takes faster than many."""
    j = joints
    at_points = 0
    at_end = at_points + 3 * j * (STOP + STOP_POINTS)
    at_closest = at_end + 12 + 9 * j
    at_times = at_closest + 2
    at_asked = at_times + AHEAD + STOP_POINTS
    at_velocity = at_asked + 6 + 2 * j
    at_most = at_velocity + j
    at_rows = at_most + 2 * (j + 3)
    at_least = at_rows + CLOSEST_PAIRS * j
    at_hessian = at_least + CLOSEST_PAIRS
    at_linear = at_hessian + j * j
    at_constraints = at_linear + j
    at_upper = at_constraints + (3 + CLOSEST_PAIRS) * j
    at_lower = at_upper + j + 3 + CLOSEST_PAIRS
    at_step = at_lower + j + 3 + CLOSEST_PAIRS
    at_step_points = at_step + 3 * j
    at_next_end = at_step_points + 3 * j * STOP_POINTS
    at_tool = at_next_end + 12 + 9 * j
    at_sample = at_tool + 12 + 6 * j
    at_ramp = at_sample + 2 * j
    at_poses = at_ramp + j
    at_placed = at_poses + POSE * (j + 1)
    at_spares = at_placed + 6 * capsules
    at_gram = at_spares + pairs
    at_factor = at_gram + 36
    at_column = at_factor + 36
    at_twist = at_column + j + 1
    total = at_twist + 6
    return FilterState(
        points=shaped(memory[at_points:at_end], (STOP + STOP_POINTS, 3, j)),
        end=memory[at_end:at_closest],
        closest=memory[at_closest:at_times],
        times=memory[at_times:at_asked],
        asked=memory[at_asked:at_velocity],
        velocity=memory[at_velocity:at_most],
        most=shaped(memory[at_most:at_rows], (2, j + 3)),
        rows=shaped(memory[at_rows:at_least], (CLOSEST_PAIRS, j)),
        least=memory[at_least:at_hessian],
        hessian=shaped(memory[at_hessian:at_linear], (j, j)),
        linear=memory[at_linear:at_constraints],
        constraints=shaped(memory[at_constraints:at_upper], (3 + CLOSEST_PAIRS, j)),
        upper=memory[at_upper:at_lower],
        lower=memory[at_lower:at_step],
        step=shaped(memory[at_step:at_step_points], (3, j)),
        step_points=shaped(memory[at_step_points:at_next_end], (STOP_POINTS, 3, j)),
        next_end=memory[at_next_end:at_tool],
        tool=memory[at_tool:at_sample],
        sample=shaped(memory[at_sample:at_ramp], (2, j)),
        ramp=memory[at_ramp:at_poses],
        poses=shaped(memory[at_poses:at_placed], (j + 1, POSE)),
        placed=shaped(memory[at_placed:at_spares], (capsules, 6)),
        spares=memory[at_spares:at_gram],
        gram=shaped(memory[at_gram:at_factor], (6, 6)),
        factor=shaped(memory[at_factor:at_column], (6, 6)),
        column=memory[at_column:at_twist],
        twist=memory[at_twist:total],
    )


@compiled
def promise_stop(limits: Limits, state: FilterState, counters: np.ndarray) -> None:
    """Promise one more tick along the stop."""
    points, new = state.points, 1 + counters[COUNT]
    counters[COUNT] += 1
    if not counters[STOP_LEFT]:  # at rest, as every stop ends and every motion starts
        copy_rows(points[new - 1], points[new])
        counters[RESTS + new] = counters[RESTS + new - 1]
        return
    counters[PROMISED] += 1
    if counters[TICKS] > 1:
        for joint in range(points.shape[2]):
            acceleration = points[new - 1, 2, joint]
            acceleration += (points[STOP, 2, joint] - acceleration) / counters[TICKS]
            propagate(points[new - 1], joint, acceleration, limits.numbers.dt, points[new])
        counters[TICKS] -= 1
        counters[RESTS + new] = 0
        return
    copy_rows(points[STOP], points[new])
    counters[STOP_LEFT] -= 1
    counters[RESTS + new] = 1 if counters[STOP_LEFT] == 0 else 0
    for point in range(counters[STOP_LEFT]):
        copy_rows(points[STOP + point + 1], points[STOP + point])
        counters[TICKS + point] = counters[TICKS + point + 1]


@compiled
def advance_one(limits: Limits, state: FilterState, counters: np.ndarray) -> None:
    """Advance by one tick along the motion that was sent."""
    while counters[COUNT] < AHEAD:
        promise_stop(limits, state, counters)
    for index in range(AHEAD):
        copy_rows(state.points[index + 1], state.points[index])
        counters[RESTS + index] = counters[RESTS + index + 1]
    counters[COUNT] = AHEAD - 1


@compiled
def finish(limits: Limits, state: FilterState, counters: np.ndarray) -> None:
    """Update what follows from the promised motion: the times of the command, and whether it has come to rest."""
    count, tick = counters[COUNT], 0
    for index in range(count):
        tick += 1
        state.times[index] = limits.numbers.dt * tick
    for index in range(counters[STOP_LEFT]):
        tick += counters[TICKS + index]
        state.times[count + index] = limits.numbers.dt * tick
    rests = counters[RESTS] and counters[RESTS + 1] and counters[RESTS + count] and not counters[STOP_LEFT]
    counters[RESTING] = 1 if rests else 0
