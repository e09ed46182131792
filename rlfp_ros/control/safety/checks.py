"""Checks one step together with the complete stop after it: joints, tool speed, workspace, distances.

Only the points of a stop are checked. If a joint reverses within a ramp, the path between the points exceeds them by
less than 0.001 rad, and `position_margin_rad` is larger. Comparisons are written so that NaN fails them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rlfp_ros.control.kinematics import Distances, Kinematics
from rlfp_ros.control.safety.limits import CheckedLimits, inside_box, inside_joint_limits, slow_near_ends
from rlfp_ros.control.safety.motion import ROUNDING, Located, everywhere
from rlfp_ros.control.safety.stop import StopPlan, StopShapes

# Ticks between checked points of a stop, if the Jacobian changes too much for its ends to bound the speed.
CHECK_EVERY = 4
LINEAR_AND_ANGULAR = np.kron(np.eye(2), np.ones((3, 1)))  # [6, 2]


class Refusal(StrEnum):
    """The reason why a step was refused."""

    NOT_FINITE = "not_finite"
    POSITION = "position"
    VELOCITY = "velocity"
    TOOL_SPEED = "tool_speed"
    TOOL_ANGULAR_SPEED = "tool_angular_speed"
    WORKSPACE = "workspace"
    DISTANCE = "distance"


def fastest_tool_speed(jacobian: np.ndarray, velocities: np.ndarray) -> list[float]:
    """Return the highest tool speeds squared, (m/s)^2 and (rad/s)^2, among joint velocities [N, J] rad/s.

    `jacobian` [6, J] is that of the posture.
    """
    along = velocities.dot(jacobian.T)
    fastest: list[float] = np.maximum.reduce((along * along).dot(LINEAR_AND_ANGULAR)).tolist()
    return fastest


def too_fast(limits: CheckedLimits, linear: float, angular: float) -> Refusal | None:
    """Return which of the tool's speeds squared is beyond its limit, or None."""
    if not linear <= limits.tool_speed_squared:
        return Refusal.TOOL_SPEED
    if not angular <= limits.tool_angular_speed_squared:
        return Refusal.TOOL_ANGULAR_SPEED
    return None


def check_joints(
    limits: CheckedLimits,
    shapes: StopShapes,
    here: np.ndarray,
    step: np.ndarray,
    stop: StopPlan,
    fastest: np.ndarray,
) -> Refusal | None:
    """Return why the joints may not make this step and its stop, or None if they may.

    Parameters
    ----------
    here
        [3, J], the motion from which the step begins.
    step
        [3, J], the motion at its end.
    fastest
        [J] rad/s, a bound on the speed of each joint during the step and its stop.
    """
    if not inside_joint_limits(limits, stop.points[:, 0], here[0]):
        return Refusal.POSITION
    if not everywhere(fastest <= limits.velocity):
        return Refusal.VELOCITY
    if limits.near_ends is not None:
        samples = shapes.samples(stop.plateau)
        positions = np.vstack((step[:1], samples.positions @ step))
        velocities = np.vstack((step[1:2], samples.velocities @ step))
        if not slow_near_ends(limits.near_ends, positions, velocities):
            return Refusal.VELOCITY
    return None


@dataclass(frozen=True)
class Checks:
    """The checks of a step. Holds no results: each method returns its findings."""

    limits: CheckedLimits
    shapes: StopShapes
    kinematics: Kinematics
    distances: Distances

    def locate(self, rows: np.ndarray) -> Located:
        """Evaluate the kinematics at a motion [3, J]."""
        position, rotation, jacobian = self.kinematics.evaluate(rows[0])
        return Located(rows, position, rotation, jacobian)

    def step(self, here: Located, step: np.ndarray, stop: StopPlan | None) -> tuple[Refusal | None, Located | None]:
        """Check the step from `here` to the motion `step` [3, J], with the stop planned from there.

        Returns
        -------
        refusal
            Why it may not be made, or None if it may.
        located
            The tool at the end of the step, if the checks got so far.
        """
        if stop is None:
            return Refusal.NOT_FINITE, None
        # While the first ramp reverses an acceleration, velocity still grows by at most half of it.
        fastest = self.shapes.growth.dot(np.abs(step))
        refusal = check_joints(self.limits, self.shapes, here.rows, step, stop, fastest)
        if refusal is not None:
            return refusal, None
        located = self.locate(step)
        return self._tool(here, located, stop, fastest), located

    def _tool(self, here: Located, located: Located, stop: StopPlan, fastest: np.ndarray) -> Refusal | None:
        """Return why the tool and the links may not make this step and its stop, or None if they may."""
        limits, reach, step = self.limits, self.distances.reach, located.rows
        ramped, last = stop.points[0], stop.points[-1]
        # Speed can still grow while the first ramp reverses the acceleration; then all joints slow down together.
        refusal = self._place(here, step[0], located.position)
        if refusal is not None:
            return refusal
        linear, angular = fastest_tool_speed(located.jacobian, stop.matrices.ramp_velocities.dot(step))
        refusal = too_fast(limits, linear, angular)
        if refusal is not None:
            return refusal
        # Bounds on how far any point of the arm can move, and on how much the changing Jacobian can add to the tool's
        # speed. In most cases they are sufficient.
        travel = np.abs(last[0] - here.rows[0])
        swept, turn = float(fastest.dot(reach)), sum(travel.tolist())
        far = float(travel.dot(reach)) + self.shapes.ramp_time * swept
        fast = math.sqrt(linear) + turn * swept > limits.tool_speed
        fast = fast or math.sqrt(angular) + turn * sum(fastest.tolist()) > limits.tool_angular_speed
        x0, y0, z0, x1, y1, z1 = limits.box
        x, y, z = here.position.tolist()
        near_wall = min(x - x0, y - y0, z - z0, x1 - x, y1 - y, z1 - z) <= far
        if near_wall or fast or not self.distances.clear(last[0]):
            for rows in (ramped, last):
                place, _, jacobian = self.kinematics.evaluate(rows[0])
                refusal = self._place(here, rows[0], place) or too_fast(
                    limits, *fastest_tool_speed(jacobian, self.shapes.constant_samples.dot(rows))
                )
                if refusal is not None:
                    return refusal
            if fast or self.shapes.ramp > CHECK_EVERY:
                return self._path(here, step, stop)
        return None

    def _path(self, here: Located, step: np.ndarray, stop: StopPlan) -> Refusal | None:
        """Return why the tool may not follow the stop of `step`, or None. Checks until the tool stays slow.

        Fast joints whose motions cancel each other leave the tool slow only while the Jacobian does not change.
        """
        limits, reach, last = self.limits, self.distances.reach, stop.points[-1]
        to_position, to_velocity = self.shapes.samples(stop.plateau)
        for tick in range(CHECK_EVERY, len(to_position), CHECK_EVERY):
            position, velocity = to_position[tick - 1].dot(step), to_velocity[tick - 1].dot(step)
            place, _, jacobian = self.kinematics.evaluate(position)
            vx, vy, vz, wx, wy, wz = jacobian.dot(velocity).tolist()
            linear, angular = vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz
            refusal = too_fast(limits, linear, angular) or self._place(here, position, place)
            if refusal is not None:
                return refusal
            speeds, left = np.abs(velocity), float(np.abs(last[0] - position).sum())
            if (
                tick >= self.shapes.ramp
                and math.sqrt(linear) + left * float(speeds.dot(reach)) <= limits.tool_speed
                and math.sqrt(angular) + left * float(speeds.sum()) <= limits.tool_angular_speed
            ):
                break
        return None

    def _place(self, here: Located, position: np.ndarray, place: np.ndarray) -> Refusal | None:
        """Return why the arm may not be at joints `position` [J] rad, with its tool at `place` [3] m, or None.

        An arm that is already outside may stay or go inwards, never farther out.
        """
        if not inside_box(self.limits.box, place, here.position):
            return Refusal.WORKSPACE
        if not self.distances.clear(position):
            before = np.minimum(self.distances.spare(here.rows[0]), 0.0)
            if not (self.distances.spare(position) >= before - ROUNDING).all():
                return Refusal.DISTANCE
        return None
