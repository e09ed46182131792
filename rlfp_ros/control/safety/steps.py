"""The steps of the safety filter that Python calls, compiled. `filter.py` describes the filter.

All take the array of `limits.pack`, the memory of `promise.state_in` and the counters.
"""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.capsules import closest, place
from rlfp_ros.control.chain import find_tool
from rlfp_ros.control.compiled import compiled, entry_point, inlined, shaped
from rlfp_ros.control.safety.checks import EXACT_BELOW_M, NOT_FINITE, PASSED, check_step
from rlfp_ros.control.safety.limits import Limits, plan_step, unpack
from rlfp_ros.control.safety.motion import AHEAD, all_finite, copy_rows, copy_vector
from rlfp_ros.control.safety.promise import (
    BRAKED,
    COUNT,
    LIMITED,
    LOCATED,
    PLANNED,
    PROMISED,
    REFUSED,
    RESTS,
    SETTLING,
    STEPS,
    STOP,
    STOP_FOLLOWED,
    STOP_LEFT,
    TICKS,
    UNSOLVED,
    FilterState,
    advance_one,
    finish,
    promise_stop,
    state_in,
)
from rlfp_ros.control.safety.stop import NO_STOP, STOP_POINTS, plan_stop
from rlfp_ros.control.safety.velocity import find_velocity, slow_down

SETTLED_RAD_S = 2e-3  # rad/s; below this speed, if no motion is wanted, the sent stop brings the arm to exact rest
ARRAYS = "f8[::1], f8[::1], i8[::1]"


@inlined
def _unpacked(packed: np.ndarray, memory: np.ndarray) -> tuple[Limits, FilterState]:
    limits = unpack(packed)
    return limits, state_in(memory, len(limits.joints.lower), len(limits.body.capsules), len(limits.body.pairs))


@entry_point(f"void({ARRAYS}, i8)")
def start(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray, settle_ticks: int) -> None:
    """Begin at the motion `state.points[0]`, whose acceleration is zero; moving joints come to rest along a stop."""
    limits, state = _unpacked(packed, memory)
    now = state.points[0]
    at_rest = not (_any(now[1]) or _any(now[2]))
    copy_rows(now, state.points[1])
    counters[COUNT], counters[STOP_LEFT] = 1, 0
    counters[PROMISED] += 1
    counters[RESTS] = counters[RESTS + 1] = 1 if at_rest else 0
    if not at_rest:
        points = plan_stop(limits, now, state.step_points, counters[TICKS : TICKS + STOP_POINTS])
        if points != NO_STOP:
            for point in range(points):
                copy_rows(state.step_points[point], state.points[STOP + point])
            counters[STOP_LEFT] = points
    promise_stop(limits, state, counters)
    promise_stop(limits, state, counters)
    for index in range(1, AHEAD):
        copy_rows(state.points[index + 1], state.points[index])
        counters[RESTS + index] = counters[RESTS + index + 1]
    counters[COUNT] = AHEAD - 1
    # The arm's controller holds its last command, not the measured position. This is time for a gentle transition.
    counters[SETTLING] = settle_ticks if at_rest else 0
    finish(limits, state, counters)


@entry_point(f"void({ARRAYS}, i8)")
def advance(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray, ticks: int) -> None:
    """Advance by whole ticks along the motion that was sent."""
    limits, state = _unpacked(packed, memory)
    for _ in range(ticks):
        advance_one(limits, state, counters)
    counters[SETTLING] = max(0, counters[SETTLING] - ticks)
    finish(limits, state, counters)


@entry_point(f"void({ARRAYS})")
def follow_stop(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray) -> None:
    """Promise one more tick along the stop that was sent."""
    limits, state = _unpacked(packed, memory)
    counters[STEPS] += 1
    promise_stop(limits, state, counters)
    finish(limits, state, counters)


@entry_point(f"void({ARRAYS})")
def locate_end(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray) -> None:
    """Locate the tool at the last promised motion, if that has changed."""
    limits, state = _unpacked(packed, memory)
    if counters[LOCATED] == counters[PROMISED]:
        return
    count = len(limits.joints.lower)
    copy_rows(state.points[counters[COUNT]], shaped(state.end[: 3 * count], (3, count)))
    place(limits.body, state.end[:count], state.poses, state.placed)
    find_tool(limits.body.chain, state.poses, state.end[3 * count :])
    state.closest[0] = closest(limits.body, state.placed, EXACT_BELOW_M)
    counters[LOCATED] = counters[PROMISED]


@entry_point(f"i8({ARRAYS})")
def propose_velocity(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray) -> int:
    """`velocity.find_velocity` for Python."""
    limits, state = _unpacked(packed, memory)
    return find_velocity(limits, state, counters)


@entry_point(f"void({ARRAYS}, b1)")
def limit_velocity(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray, solved: bool) -> None:
    """Count an answer of the quadratic programme and slow it down.

    Scaling down keeps the programme's limits, so the tool's speed can be limited last.
    """
    limits, state = _unpacked(packed, memory)
    counters[LIMITED] += 1
    if not solved:
        counters[UNSOLVED] += 1
    slow_down(limits, state)


@entry_point(f"b1({ARRAYS})")
def extend(packed: np.ndarray, memory: np.ndarray, counters: np.ndarray) -> bool:
    """Promise one more step towards `state.velocity`; see `SafetyFilter.extend`."""
    limits, state = _unpacked(packed, memory)
    counters[STEPS] += 1
    wanted = _take_step(limits, state, counters)
    if not wanted:
        counters[STOP_FOLLOWED] += 1
        promise_stop(limits, state, counters)
    finish(limits, state, counters)
    return wanted


@compiled
def _take_step(limits: Limits, state: FilterState, counters: np.ndarray) -> bool:
    if counters[SETTLING]:
        promise_stop(limits, state, counters)
        return True
    if not all_finite(state.velocity):
        counters[REFUSED + NOT_FINITE] += 1
        return False
    moves = _any(state.velocity)
    settled = _settled(state, counters)
    if not moves and settled:
        promise_stop(limits, state, counters)
        return True
    if _try_step(limits, state, counters, False):
        return True
    if moves and _try_step(limits, state, counters, True):  # beside a wall the tool may have no room for a detour
        return True
    if moves and not settled:
        state.velocity[:] = 0.0
        if _try_step(limits, state, counters, False):
            counters[BRAKED] += 1
            return True
    return False


@compiled
def _any(vector: np.ndarray) -> bool:
    largest = 0.0
    for value in vector:
        largest = max(largest, abs(value))
    return largest > 0.0


@compiled
def _settled(state: FilterState, counters: np.ndarray) -> bool:
    """Return whether the arm is slow enough for the sent stop to bring it to exact rest. Braking only approaches it."""
    if counters[RESTS + counters[COUNT]]:
        return True
    fastest = 0.0
    for speed in state.points[counters[COUNT], 1]:
        fastest = max(fastest, abs(speed))
    return fastest < SETTLED_RAD_S


@compiled
def _try_step(limits: Limits, state: FilterState, counters: np.ndarray, together: bool) -> bool:
    """Promise a step towards `state.velocity` if it and its stop pass their checks; see `plan_step`."""
    count, ticks = len(state.velocity), counters[PLANNED : PLANNED + STOP_POINTS]
    plan_step(limits, shaped(state.end[: 3 * count], (3, count)), state.velocity, together, state.step)
    points = plan_stop(limits, state.step, state.step_points, ticks)
    refusal = NOT_FINITE if points == NO_STOP else check_step(limits, state, ticks, points)
    if refusal != PASSED:
        counters[REFUSED + refusal] += 1
        return False
    counters[COUNT] += 1
    counters[PROMISED] += 1
    copy_rows(state.step, state.points[counters[COUNT]])
    for point in range(points):
        copy_rows(state.step_points[point], state.points[STOP + point])
        counters[TICKS + point] = ticks[point]
    counters[RESTS + counters[COUNT]] = 0
    counters[STOP_LEFT] = points
    copy_vector(state.next_end, state.end)
    state.closest[0] = state.closest[1]
    counters[LOCATED] = counters[PROMISED]
    return True
