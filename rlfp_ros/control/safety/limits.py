"""The limits of one arm with the settings' margins, as arrays: for the checks and for planning a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import JointLimits
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.motion import ROUNDING, everywhere, propagation

SPEED_MARGIN = 0.97  # share of the published tool speeds that the checked samples may reach
BETWEEN_TICKS_RAD_S = 2e-3  # rad/s; how far a speed limit that falls near a joint's end may be exceeded between ticks

Box = tuple[float, float, float, float, float, float]  # x, y, z of the lower corner, then of the upper one


@dataclass(frozen=True)
class CheckedLimits:
    """The limits that every step and its stop are checked against.

    Attributes
    ----------
    lower, upper
        [J] rad.
    velocity
        [J] rad/s, as published.
    near_ends
        The joints' limits if their speed limit falls towards the ends of their range, otherwise None.
    box
        Where the tool may be, m in the base frame.
    tool_speed, tool_angular_speed
        m/s and rad/s, as published.
    tool_speed_squared, tool_angular_speed_squared
        The same less `SPEED_MARGIN`, squared: the Jacobian turns a little between the samples that are checked.
    """

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    near_ends: JointLimits | None
    box: Box
    tool_speed: float
    tool_angular_speed: float
    tool_speed_squared: float
    tool_angular_speed_squared: float


def checked_limits(arm: Arm, settings: ControllerSettings) -> CheckedLimits:
    """Collect the arm's limits, less the settings' margins."""
    limits, tool = arm.limits, arm.tool_limits
    lower = [value + settings.workspace_margin_m for value in tool.lower]
    upper = [value - settings.workspace_margin_m for value in tool.upper]
    return CheckedLimits(
        lower=np.array(limits.lower) + settings.position_margin_rad,
        upper=np.array(limits.upper) - settings.position_margin_rad,
        velocity=np.array(limits.velocity),
        near_ends=limits if limits.velocity_near_ends is not None else None,
        box=(lower[0], lower[1], lower[2], upper[0], upper[1], upper[2]),
        tool_speed=tool.speed,
        tool_angular_speed=tool.angular_speed,
        tool_speed_squared=(SPEED_MARGIN * tool.speed) ** 2,
        tool_angular_speed_squared=(SPEED_MARGIN * tool.angular_speed) ** 2,
    )


@dataclass(frozen=True)
class StepLimits:
    """The limits of one step of one tick.

    Attributes
    ----------
    acceleration
        [J] rad/s^2.
    jerk_dt
        [J] rad/s^2, change of acceleration in one tick.
    jerk_dt_squared, jerk_twice
        `jerk_dt` squared, and twice the jerk in rad/s^3.
    to_step
        [3, 4], from (position, velocity, acceleration, acceleration at the end) to the motion one tick later.
    missing
        [3], of (position, velocity, acceleration): minus the velocity that is reached if jerk ends now.
    """

    acceleration: np.ndarray
    jerk_dt: np.ndarray
    jerk_dt_squared: np.ndarray
    jerk_twice: np.ndarray
    to_step: np.ndarray
    missing: np.ndarray


def step_limits(arm: Arm, settings: ControllerSettings) -> StepLimits:
    """Scale the arm's published acceleration and jerk by the settings for a step."""
    dt = 1.0 / settings.control_rate_hz
    jerk_dt = settings.jerk_scale * np.array(arm.limits.jerk) * dt
    return StepLimits(
        acceleration=settings.acceleration_scale * np.array(arm.limits.acceleration),
        jerk_dt=jerk_dt,
        jerk_dt_squared=jerk_dt**2,
        jerk_twice=2.0 * jerk_dt / dt,
        to_step=propagation(dt),
        missing=np.array((0.0, -1.0, -0.5 * dt)),
    )


def plan_step(limits: StepLimits, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the motion [3, J] one tick after `rows` [3, J], towards joint velocities `wanted` [J] rad/s.

    The step has the largest acceleration from which a jerk-limited ramp to zero, in whole ticks, does not overshoot
    `wanted`.
    """
    missing = wanted + limits.missing.dot(rows)
    size = np.sqrt(limits.jerk_dt_squared + limits.jerk_twice * np.abs(missing)) - limits.jerk_dt
    acceleration = np.copysign(np.minimum(size, limits.acceleration), missing)
    ends = np.empty((4, rows.shape[1]))
    ends[:3] = rows
    ends[3] = np.minimum(np.maximum(acceleration, rows[2] - limits.jerk_dt), rows[2] + limits.jerk_dt)
    return limits.to_step.dot(ends)


def inside_joint_limits(limits: CheckedLimits, positions: np.ndarray, here: np.ndarray) -> bool:
    """Return whether `positions` [N, J] rad are inside the joints' limits.

    If the arm is already outside at `here` [J] rad (guided there by hand), it may stay or move inwards, but not farther
    out. NaN is never inside.
    """
    if everywhere(positions >= limits.lower) and everywhere(positions <= limits.upper):
        return True
    lower = np.minimum(limits.lower, here) - ROUNDING
    upper = np.maximum(limits.upper, here) + ROUNDING
    return bool((positions >= lower).all() and (positions <= upper).all())


def inside_box(box: Box, place: np.ndarray, here: np.ndarray) -> bool:
    """Return whether `place` [3] m is inside the box, or not farther outside than `here` [3] m. False for NaN."""
    x0, y0, z0, x1, y1, z1 = box
    x, y, z = place.tolist()
    if x0 <= x <= x1 and y0 <= y <= y1 and z0 <= z <= z1:
        return True
    hx, hy, hz = here.tolist()
    return (
        min(x0, hx) - ROUNDING <= x <= max(x1, hx) + ROUNDING
        and min(y0, hy) - ROUNDING <= y <= max(y1, hy) + ROUNDING
        and min(z0, hz) - ROUNDING <= z <= max(z1, hz) + ROUNDING
    )


def slow_near_ends(limits: JointLimits, positions: np.ndarray, velocities: np.ndarray) -> bool:
    """Return whether velocities [N, J] rad/s are below the speed allowed at positions [N, J] rad."""
    least, most = limits.velocity_bounds(positions)
    room = BETWEEN_TICKS_RAD_S
    return bool(
        (velocities <= np.maximum(most - room, ROUNDING)).all()
        and (velocities >= np.minimum(least + room, -ROUNDING)).all()
    )
