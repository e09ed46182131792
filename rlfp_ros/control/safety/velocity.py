"""The velocity programme: finds the joint velocities inside all limits that are nearest to a wanted tool twist.

Damped inverse kinematics, whose damping grows as the smallest singular value falls. If that breaks a limit, a quadratic
programme on DAQP finds the nearest velocity that does not. Standing still is always among its answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import daqp
import eigenpy
import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import JointLimits
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import Distances
from rlfp_ros.control.safety.limits import Box
from rlfp_ros.control.safety.motion import ROUNDING, Located, everywhere, finite

DAQP_OPTIMAL = 1  # exit flag of a solved programme
CLOSEST_PAIRS = 4  # nearest capsule pairs in the quadratic programme; the checks use all pairs
# The wanted motion keeps this much more distance from walls and from the arm's own links than the checks demand.
# Without it the tool would reach the limit itself. There the curvature of every step exceeds it, and no step passes.
SLIDING_ROOM_M = 0.003
POSE_AXES = 6  # a tool pose needs six joints; any more are spare


@dataclass(frozen=True)
class ProgrammeLimits:
    """Limits of the wanted motion. Rows are the joints, then the tool's three axes; upwards and downwards.

    Attributes
    ----------
    velocity
        [J] rad/s.
    near_ends
        The joints' limits if their speed limit falls towards the ends of their range, otherwise None.
    velocity_scale
        Share of `near_ends` that is used.
    barrier_rate_hz
        Speed towards any limit is at most this times the distance to it.
    rate_at_zero, rate_slopes
        [2, J + 3] and [2, 1]: `rate_at_zero - rate_slopes * value` is that speed.
    rate_signs
        [2, 1]: 1 upwards, -1 downwards.
    rate_most
        [J + 3], the speed limits.
    room
        The box for the tool's wanted position, m in the base frame.
    tool_speed, tool_angular_speed
        m/s and rad/s.
    task_weight
        [6, 1], makes m/s and rad/s comparable.
    spare
        Joints beyond what a tool pose needs.
    singularity_threshold, singularity_damping
        m; see the settings.
    """

    velocity: np.ndarray
    near_ends: JointLimits | None
    velocity_scale: float
    barrier_rate_hz: float
    rate_at_zero: np.ndarray
    rate_slopes: np.ndarray
    rate_signs: np.ndarray
    rate_most: np.ndarray
    room: Box
    tool_speed: float
    tool_angular_speed: float
    task_weight: np.ndarray
    spare: int
    singularity_threshold: float
    singularity_damping: float


def programme_limits(arm: Arm, settings: ControllerSettings) -> ProgrammeLimits:
    """Collect the limits of an arm's wanted motion from the settings."""
    limits, tool, joints = arm.limits, arm.tool_limits, len(arm.joint_names)
    box_lower = np.array(tool.lower) + settings.workspace_margin_m + SLIDING_ROOM_M
    box_upper = np.array(tool.upper) - settings.workspace_margin_m - SLIDING_ROOM_M
    lower = np.concatenate((np.array(limits.lower) + settings.position_margin_rad, box_lower))
    upper = np.concatenate((np.array(limits.upper) - settings.position_margin_rad, box_upper))
    velocity = settings.velocity_scale * np.array(limits.velocity)
    lever = settings.rotation_length_m
    room = (*box_lower.tolist(), *box_upper.tolist())
    signs = np.array(((1.0,), (-1.0,)))
    return ProgrammeLimits(
        velocity=velocity,
        near_ends=limits if limits.velocity_near_ends is not None else None,
        velocity_scale=settings.velocity_scale,
        barrier_rate_hz=settings.barrier_rate_hz,
        rate_at_zero=settings.barrier_rate_hz * np.array((upper, -lower)),
        rate_slopes=settings.barrier_rate_hz * signs,
        rate_signs=signs,
        rate_most=np.concatenate((velocity, np.full(3, np.inf))),
        room=(room[0], room[1], room[2], room[3], room[4], room[5]),
        tool_speed=settings.tool_speed_scale * tool.speed,
        tool_angular_speed=settings.tool_speed_scale * tool.angular_speed,
        task_weight=np.array([1.0, 1.0, 1.0, lever, lever, lever])[:, None] ** 2,
        spare=max(joints - POSE_AXES, 0),
        singularity_threshold=settings.singularity_threshold,
        singularity_damping=settings.singularity_damping,
    )


class ProgrammeResult(NamedTuple):
    """Answer of the velocity programme.

    Attributes
    ----------
    velocity
        [J] rad/s; not finite if the wanted motion was not.
    limited
        Whether the quadratic programme had to change the wanted motion.
    unsolved
        Whether it found no answer; the velocity is zero then.
    smallest_singular_value
        Of the weighted Jacobian, m.
    """

    velocity: np.ndarray
    limited: bool
    unsolved: bool
    smallest_singular_value: float


class VelocityProgramme:
    """Solves the programme for one arm. Keeps buffers, no results."""

    def __init__(self, limits: ProgrammeLimits, distances: Distances) -> None:
        self.limits = limits
        self._distances = distances
        joints = len(limits.velocity)
        self._regular = 1e-4 * np.eye(joints)
        self._eigen = eigenpy.SelfAdjointEigenSolver(joints)
        self._zeros = np.zeros(joints)
        self._zeros.setflags(write=False)
        self._inequalities = np.zeros(joints + 3 + CLOSEST_PAIRS, dtype=np.intc)  # DAQP's `sense`: all are plain ones
        self._unbounded = np.full(CLOSEST_PAIRS, np.inf)

    def solve(
        self, here: Located, twist: np.ndarray, posture: np.ndarray, joints: np.ndarray | None = None
    ) -> ProgrammeResult:
        """Find joint velocities for a wanted motion.

        Parameters
        ----------
        here
            The motion from which the next step begins.
        twist
            [6] m/s and rad/s, of the tool in the base frame.
        posture
            [J] rad/s; only the part that does not move the tool is used.
        joints
            [J] rad/s, added as they are.
        """
        limits, jacobian = self.limits, here.jacobian
        spare = limits.spare
        weighted = limits.task_weight * jacobian
        gram = jacobian.T.dot(weighted)
        solver = self._eigen
        solver.compute(gram)
        values, vectors = solver.eigenvalues(), solver.eigenvectors()
        smallest = math.sqrt(max(float(values[spare]), 0.0))
        damping = 1e-9
        if smallest < limits.singularity_threshold:
            damping += (limits.singularity_damping * (1.0 - (smallest / limits.singularity_threshold) ** 2)) ** 2
        along = _drifted_back(limits, here.position, twist).dot(weighted).dot(vectors) / (values + damping)
        if spare:
            along[:spare] = posture.dot(vectors[:, :spare])
        velocity = vectors.dot(along)
        if joints is not None:
            velocity = velocity + joints
        return self._limit(velocity, gram, here, smallest)

    def _limit(self, velocity: np.ndarray, gram: np.ndarray, here: Located, smallest: float) -> ProgrammeResult:
        # Speed towards a limit is at most barrier_rate_hz times the distance to it. Motion back inside is not limited.
        limits, jacobian, position = self.limits, here.jacobian, here.rows[0]
        joints = len(velocity)
        value = np.concatenate((position, here.position))
        most = np.minimum(np.maximum(limits.rate_at_zero - limits.rate_slopes * value, 0.0), limits.rate_most)
        parting, left = self._distances.closing(position, CLOSEST_PAIRS)
        if limits.near_ends is not None:
            slowest, fastest = limits.near_ends.velocity_bounds(position)
            near_ends = limits.velocity_scale * np.array((fastest, -slowest))
            most[:, :joints] = np.minimum(most[:, :joints], near_ends)
        least_parting = left
        if pairs := len(left):
            least_parting = np.minimum(-limits.barrier_rate_hz * (left - SLIDING_ROOM_M), 0.0)
        # A motion that is too fast is scaled down in the same direction. Only walls and the ends of joint ranges change
        # its direction: the arm slides along them.
        velocity, moved = slowed(limits, velocity, jacobian.dot(velocity))
        rates = np.concatenate((velocity, moved[:3]))
        inside = everywhere(limits.rate_signs * rates <= most)
        if not inside and (excess := float((np.abs(velocity) / limits.velocity).max())) > 1.0:
            velocity, rates = (1.0 - ROUNDING) / excess * velocity, (1.0 - ROUNDING) / excess * rates
            inside = everywhere(limits.rate_signs * rates <= most)
        if inside and not (pairs and not everywhere(parting.dot(velocity) >= least_parting)):
            return ProgrammeResult(velocity, False, False, smallest)
        if not finite(velocity):  # no comparison above holds for it
            return ProgrammeResult(velocity, False, False, smallest)
        hessian = gram + self._regular
        solution, _, flag, _ = daqp.solve(
            hessian,
            -(hessian @ velocity),
            np.vstack((jacobian[:3], parting)),
            np.concatenate((most[0], self._unbounded[:pairs])),
            np.concatenate((-most[1], least_parting)),
            self._inequalities[: joints + 3 + pairs],
        )
        if flag != DAQP_OPTIMAL:
            return ProgrammeResult(self._zeros, True, True, smallest)
        # Scaling down keeps every limit above, so the tool's speed can be limited last.
        return ProgrammeResult(slowed(limits, solution, jacobian.dot(solution))[0], True, False, smallest)


def _drifted_back(limits: ProgrammeLimits, place: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """Return `twist` [6] with the speed that brings a tool outside its room back into it.

    Each step of a slide along a wall drifts a little towards the wall.
    """
    x0, y0, z0, x1, y1, z1 = limits.room
    x, y, z = place.tolist()
    if x0 <= x <= x1 and y0 <= y <= y1 and z0 <= z <= z1:
        return twist
    room_lower, room_upper = limits.room[:3], limits.room[3:]
    inwards = np.maximum(room_lower - place, 0.0) - np.maximum(place - room_upper, 0.0)
    twist = twist.copy()
    twist[:3] += limits.barrier_rate_hz * inwards
    return twist


def slowed(limits: ProgrammeLimits, velocity: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return joint velocities [J] and the tool's twist [6], both scaled so that the tool is inside its speeds."""
    vx, vy, vz, wx, wy, wz = moved.tolist()
    speed, angular = math.sqrt(vx * vx + vy * vy + vz * vz), math.sqrt(wx * wx + wy * wy + wz * wz)
    if speed > limits.tool_speed:
        slower = limits.tool_speed / speed
        velocity, moved = velocity * slower, moved * slower
        angular *= slower
    if angular > limits.tool_angular_speed:
        slower = limits.tool_angular_speed / angular
        velocity, moved = velocity * slower, moved * slower
    return velocity, moved
