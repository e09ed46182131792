"""The limits of one arm with the settings' margins, as values that Python and compiled functions take.

`pack` makes one array of them, because a compiled function takes one array faster than many values; `unpack` is its
inverse.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.capsules import Body
from rlfp_ros.control.compiled import compiled, inlined, shaped
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.safety.motion import ROUNDING, propagate

SPEED_MARGIN = 0.97  # share of the published tool speeds that the checked samples may reach
BETWEEN_TICKS_RAD_S = 2e-3  # rad/s; how far a speed limit that falls near a joint's end may be exceeded between ticks
# The wanted motion keeps this much more distance from walls and from the arm's own links than the checks demand.
# Without it the tool would reach the limit itself. There the curvature of every step exceeds it, and no step passes.
SLIDING_ROOM_M = 0.003


class JointBounds(NamedTuple):
    """Limits of the joints, each [J].

    Attributes
    ----------
    lower, upper
        rad, inside the published limits by the settings' margin.
    velocity
        rad/s, as published.
    acceleration, jerk_dt
        rad/s^2 of a step, and the change of acceleration in one tick, scaled by the settings.
    per_deceleration
        s^2/rad, one over the deceleration of a stop.
    wanted_velocity
        rad/s, of the wanted motion, scaled by the settings.
    near_lower, near_upper, near_deceleration, near_offset
        `VelocityNearEnds` of the arm; infinite ranges if it has none.
    reach
        m/rad; see `Distances`.
    """

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk_dt: np.ndarray
    per_deceleration: np.ndarray
    wanted_velocity: np.ndarray
    near_lower: np.ndarray
    near_upper: np.ndarray
    near_deceleration: np.ndarray
    near_offset: np.ndarray
    reach: np.ndarray


class Numbers(NamedTuple):
    """Everything that is one number. Lengths in m, times in s, in the base frame.

    Attributes
    ----------
    dt
        s per tick.
    ramp
        Length of both ramps of a stop in ticks, from full acceleration of a step to full deceleration.
    x0, y0, z0, x1, y1, z1
        Corners of the box in which the tool may be.
    tool_speed, tool_angular_speed
        As published, m/s and rad/s.
    wanted_tool_speed, wanted_tool_angular_speed
        Of the wanted motion, scaled by the settings.
    near_ends
        1 if the joints' speed limits fall towards the ends of their ranges, otherwise 0.
    velocity_scale
        Share of that limit which the wanted motion uses.
    barrier_rate_hz
        Speed of the wanted motion towards any limit is at most this times the distance to it.
    lever
        m, makes rad/s and m/s comparable.
    singularity_threshold, singularity_damping
        m; see the settings.
    influence
        m, distance beyond the margin at which an approach begins to slow down.
    table
        m, height of the table.
    """

    dt: float
    ramp: float
    x0: float
    y0: float
    z0: float
    x1: float
    y1: float
    z1: float
    tool_speed: float
    tool_angular_speed: float
    wanted_tool_speed: float
    wanted_tool_angular_speed: float
    near_ends: float
    velocity_scale: float
    barrier_rate_hz: float
    lever: float
    singularity_threshold: float
    singularity_damping: float
    influence: float
    table: float


class Limits(NamedTuple):
    """All limits of one arm, and its shapes."""

    joints: JointBounds
    numbers: Numbers
    body: Body


def find_limits(arm: Arm, settings: ControllerSettings, distances: Distances) -> Limits:
    """Collect the limits of an arm, less the settings' margins and times their scales."""
    limits, tool, joints = arm.limits, arm.tool_limits, len(arm.joint_names)
    dt = 1.0 / settings.control_rate_hz
    acceleration = settings.acceleration_scale * np.array(limits.acceleration)
    per_deceleration = 1.0 / (settings.stop_acceleration_scale * np.array(limits.acceleration))
    stop_jerk_dt = settings.stop_jerk_scale * np.array(limits.jerk) * dt
    ramp = max(2, math.ceil(np.max((acceleration + 1.0 / per_deceleration) / stop_jerk_dt) - ROUNDING))
    near, nowhere = limits.velocity_near_ends, np.full(joints, np.inf)
    lower = [value + settings.workspace_margin_m for value in tool.lower]
    upper = [value - settings.workspace_margin_m for value in tool.upper]
    return Limits(
        joints=JointBounds(
            lower=np.array(limits.lower) + settings.position_margin_rad,
            upper=np.array(limits.upper) - settings.position_margin_rad,
            velocity=np.array(limits.velocity),
            acceleration=acceleration,
            jerk_dt=settings.jerk_scale * np.array(limits.jerk) * dt,
            per_deceleration=per_deceleration,
            wanted_velocity=settings.velocity_scale * np.array(limits.velocity),
            near_lower=-nowhere if near is None else np.array(near.lower),
            near_upper=nowhere if near is None else np.array(near.upper),
            near_deceleration=nowhere if near is None else np.array(near.deceleration),
            near_offset=np.zeros(joints) if near is None else np.array(near.offset),
            reach=distances.reach,
        ),
        numbers=Numbers(
            dt=dt,
            ramp=ramp,
            x0=lower[0],
            y0=lower[1],
            z0=lower[2],
            x1=upper[0],
            y1=upper[1],
            z1=upper[2],
            tool_speed=tool.speed,
            tool_angular_speed=tool.angular_speed,
            wanted_tool_speed=settings.tool_speed_scale * tool.speed,
            wanted_tool_angular_speed=settings.tool_speed_scale * tool.angular_speed,
            near_ends=0.0 if near is None else 1.0,
            velocity_scale=settings.velocity_scale,
            barrier_rate_hz=settings.barrier_rate_hz,
            lever=settings.rotation_length_m,
            singularity_threshold=settings.singularity_threshold,
            singularity_damping=settings.singularity_damping,
            influence=settings.collision_influence_m,
            table=distances.body.table,
        ),
        body=distances.body,
    )


def pack(limits: Limits) -> np.ndarray:
    """Return the limits as one array of numbers."""
    body, joints = limits.body, limits.joints
    sizes = len(joints.lower), len(body.capsules), len(body.pairs), len(body.boxes)
    parts = (sizes, *joints, limits.numbers, body.chain, body.capsules, body.pairs, body.boxes)
    return np.concatenate([np.ravel(np.array(part, dtype=float)) for part in parts])


@inlined
def unpack(packed: np.ndarray) -> Limits:
    """Return the limits that `pack` packed."""
    j, capsules, pairs, boxes = int(packed[0]), int(packed[1]), int(packed[2]), int(packed[3])
    at_numbers = 4 + 12 * j
    at_chain = at_numbers + 20
    at_capsules = at_chain + 18 * (j + 1)
    at_pairs = at_capsules + 8 * capsules
    at_boxes = at_pairs + 5 * pairs
    end = at_boxes + 15 * boxes
    r, n = shaped(packed[4:at_numbers], (12, j)), packed[at_numbers:at_chain]
    joints = JointBounds(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11])
    first = n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9]
    last = n[10], n[11], n[12], n[13], n[14], n[15], n[16], n[17], n[18], n[19]
    body = Body(
        chain=shaped(packed[at_chain:at_capsules], (j + 1, 18)),
        capsules=shaped(packed[at_capsules:at_pairs], (capsules, 8)),
        pairs=shaped(packed[at_pairs:at_boxes], (pairs, 5)),
        boxes=shaped(packed[at_boxes:end], (boxes, 15)),
        table=n[19],
    )
    return Limits(joints, Numbers(*first, *last), body)


@compiled
def plan_step(limits: Limits, here: np.ndarray, wanted: np.ndarray, together: bool, step: np.ndarray) -> None:
    """Set the motion `step` [3, J] one tick after `here` [3, J], towards joint velocities `wanted` [J] rad/s.

    The step has the largest acceleration from which a jerk-limited ramp to zero, in whole ticks, does not overshoot
    `wanted`. Joints that change `together` do so in proportion: the velocity of the tool changes in a straight line.
    Otherwise each changes as fast as it can, and the tool first moves in another direction than at the end.
    """
    dt, share = limits.numbers.dt, math.inf
    if together:
        for joint in range(len(wanted)):
            missing = wanted[joint] - (here[1, joint] + 0.5 * dt * here[2, joint])
            if missing != 0.0:
                share = min(share, _largest_change(limits, joint, missing) / abs(missing))
    for joint in range(len(wanted)):
        acceleration, jerk_dt = here[2, joint], limits.joints.jerk_dt[joint]
        missing = wanted[joint] - (here[1, joint] + 0.5 * dt * acceleration)  # after the jerk ends now
        size = share * abs(missing) if together else _largest_change(limits, joint, missing)
        target = math.copysign(size, missing)
        end = min(max(target, acceleration - jerk_dt), acceleration + jerk_dt)
        propagate(here, joint, end, dt, step)


@compiled
def _largest_change(limits: Limits, joint: int, missing: float) -> float:
    """Return the largest acceleration of a joint, rad/s^2, while a velocity of `missing` rad/s is missing."""
    jerk_dt = limits.joints.jerk_dt[joint]
    size = math.sqrt(jerk_dt * jerk_dt + 2.0 * jerk_dt / limits.numbers.dt * abs(missing)) - jerk_dt
    return min(size, limits.joints.acceleration[joint])


@compiled
def inside_joint_limits(limits: Limits, position: np.ndarray, here: np.ndarray) -> bool:
    """Return whether `position` [J] rad is inside the joints' limits.

    If the arm is already outside at `here` [J] rad (guided there by hand), it may stay or move inwards, but not farther
    out. NaN is never inside.
    """
    for joint in range(len(position)):
        value, lower, upper = position[joint], limits.joints.lower[joint], limits.joints.upper[joint]
        if not (
            lower <= value <= upper or min(lower, here[joint]) - ROUNDING <= value <= max(upper, here[joint]) + ROUNDING
        ):
            return False
    return True


@compiled
def inside_box(limits: Limits, place: np.ndarray, here: np.ndarray) -> bool:
    """Return whether `place` [3] m is inside the box, or not farther outside than `here` [3] m. False for NaN."""
    box = limits.numbers
    return (
        _inside(place[0], here[0], box.x0, box.x1)
        and _inside(place[1], here[1], box.y0, box.y1)
        and _inside(place[2], here[2], box.z0, box.z1)
    )


@compiled
def _inside(value: float, here: float, lower: float, upper: float) -> bool:
    return lower <= value <= upper or min(lower, here) - ROUNDING <= value <= max(upper, here) + ROUNDING


@compiled
def speeds_near_ends(limits: Limits, joint: int, position: float) -> tuple[float, float]:
    """Return the published speeds, rad/s, that a joint may have downwards and upwards at a position, both positive."""
    joints = limits.joints
    most, offset = joints.velocity[joint], joints.near_offset[joint]
    if limits.numbers.near_ends == 0.0:
        return most, most
    twice = 2.0 * joints.near_deceleration[joint]
    downwards = math.sqrt(max(twice * (position - joints.near_lower[joint]), 0.0)) - offset
    upwards = math.sqrt(max(twice * (joints.near_upper[joint] - position), 0.0)) - offset
    return min(most, max(downwards, 0.0)), min(most, max(upwards, 0.0))


@compiled
def slow_near_ends(limits: Limits, joint: int, position: float, velocity: float) -> bool:
    """Return whether a velocity (rad/s) of a joint is below the speed allowed at its position."""
    down, up = speeds_near_ends(limits, joint, position)
    room = BETWEEN_TICKS_RAD_S
    return -max(down - room, ROUNDING) <= velocity <= max(up - room, ROUNDING)
