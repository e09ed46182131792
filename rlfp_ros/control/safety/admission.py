"""Validates inputs: joint states, residuals, percepts and goals are used, ignored, counted or treated as faults.

Each class keeps what it needs to judge the next input of its kind. It only returns decisions; the caller acts on them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.motion import largest
from rlfp_ros.control.safety.tick_clock import NEVER, TickClock
from rlfp_ros.control.safety.verdict import Reason
from rlfp_ros.control.trajectory import Residual

LARGEST_COORDINATE_M = (
    100.0  # farther than any arm reaches; a larger coordinate is an error, and its square may overflow
)


class Decision(NamedTuple):
    """What to do with an input.

    Attributes
    ----------
    take
        Whether to use it.
    counted
        The reason to count in the diagnostics if the input is ignored.
    fault
        The reason to act on if it is a fault.
    """

    take: bool
    counted: Reason | None = None
    fault: Reason | None = None


TAKE = Decision(True)
IGNORE = Decision(False)


def near_enough(value: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether `value` has the shape and all of it is finite and within `LARGEST_COORDINATE_M`."""
    return value.shape == shape and bool((np.abs(value) <= LARGEST_COORDINATE_M).all())


class JointStateNews(NamedTuple):
    """A judged joint state.

    Attributes
    ----------
    decision
        What to do with it.
    furthest
        Largest move of a joint since the joint state before, rad; None for the first.
    jumped
        Whether this move is larger than the joints' speed explains.
    """

    decision: Decision
    furthest: float | None = None
    jumped: bool = False


class JointStateAdmission:
    """Judges measured joints.

    Attributes
    ----------
    newest
        The newest one that was taken.
    confirmed
        Whether the joint state before it was near in position and time. A single joint state is not trusted: if a
        driver once mixes up its joints, that posture would become a command.
    """

    def __init__(self, arm: Arm, settings: ControllerSettings, clock: TickClock) -> None:
        self._settings, self._clock = settings, clock
        self._shape = (len(arm.joint_names),)
        self._speed = np.array(arm.limits.velocity)
        self.begin_episode(NEVER)

    def begin_episode(self, stamp_ns: int) -> None:
        """Ignore inputs with stamps up to `stamp_ns`."""
        self._reset_stamp_ns = stamp_ns
        self.forget()

    def forget(self) -> None:
        """Forget the newest joint state."""
        self.newest: JointState | None = None
        self.confirmed = False

    def judge(self, joint_state: JointState, now_ns: int) -> JointStateNews:
        """Judge one joint state, and keep it if it is taken."""
        positions, velocities, efforts = joint_state.positions, joint_state.velocities, joint_state.efforts
        finite = (
            positions.shape == velocities.shape == efforts.shape == self._shape
            and math.isfinite(positions @ velocities)  # one test for both, because 0 * inf is NaN
        )
        if not finite:
            return JointStateNews(Decision(False, fault=Reason.JOINT_STATE_NOT_FINITE))
        if joint_state.stamp_ns <= self._reset_stamp_ns:
            return JointStateNews(IGNORE)  # of the episode before
        if self._clock.in_future(joint_state.stamp_ns, now_ns):
            return JointStateNews(Decision(False, counted=Reason.JOINT_STATE_FUTURE))  # goes stale if it continues
        previous = self.newest
        if previous is not None and joint_state.stamp_ns <= previous.stamp_ns:
            return JointStateNews(Decision(False, counted=Reason.JOINT_STATE_REPEATED))
        self.newest, self.confirmed = joint_state, False
        if previous is None:
            return JointStateNews(TAKE)
        elapsed = (joint_state.stamp_ns - previous.stamp_ns) * 1e-9
        moved = positions - previous.positions
        furthest = largest(moved)
        jump = self._settings.joint_jump_rad
        jumped = furthest > jump and bool((np.abs(moved) > jump + self._speed * elapsed).any())
        self.confirmed = not jumped and elapsed <= self._settings.joint_state_max_age_s
        return JointStateNews(TAKE, furthest, jumped)


class ResidualAdmission:
    """Judges residuals against the bundle's scale [A] and against the one before."""

    def __init__(self, scale: np.ndarray, settings: ControllerSettings, clock: TickClock) -> None:
        self._scale, self._clock = scale, clock
        self._range, self._jump = settings.residual_range * scale, settings.residual_jump * scale
        self.begin_episode(NEVER)

    def begin_episode(self, stamp_ns: int) -> None:
        """Ignore inputs with stamps up to `stamp_ns`."""
        self._reset_stamp_ns = stamp_ns
        self.forget()

    def forget(self) -> None:
        """Forget the last residual, because after a clock jumps back its stamp has no meaning."""
        self._stamp_ns = NEVER
        self._asked: np.ndarray | None = None  # the last finite twist in range, before clipping, admitted or not

    def judge(self, residual: Residual, now_ns: int) -> Decision:
        """Judge one residual."""
        fault = self._fault(residual, now_ns)
        if fault is Reason.RESIDUAL_REPEATED:
            return Decision(False, counted=fault)  # old news: neither a fault nor a sign of life
        if fault is not None:
            if fault is not Reason.RESIDUAL_JUMP:
                self._asked = None
            return Decision(False, fault=fault)
        self._stamp_ns = residual.stamp_ns
        return TAKE

    def unreadable(self) -> None:
        """Take note of a residual that could not be read: the next one is compared with nothing."""
        self._asked = None

    def _fault(self, residual: Residual, now_ns: int) -> Reason | None:
        twist, width = residual.twist, residual.gripper_width
        if getattr(twist, "shape", None) != self._scale.shape:
            return Reason.RESIDUAL_SHAPE
        if not np.isfinite(twist).all() or (width is not None and not np.isfinite(width)):
            return Reason.RESIDUAL_NOT_FINITE
        if residual.stamp_ns <= max(self._stamp_ns, self._reset_stamp_ns):
            return Reason.RESIDUAL_REPEATED
        if self._clock.in_future(residual.stamp_ns, now_ns):
            return Reason.RESIDUAL_FUTURE
        if (np.abs(twist) > self._range).any():
            return Reason.RESIDUAL_RANGE
        # Compared with the last residual, even if that was refused, so that a policy that keeps jumping stays refused.
        before, self._asked = self._asked, np.array(twist, dtype=float)
        if before is not None and (np.abs(twist - before) > self._jump).any():
            return Reason.RESIDUAL_JUMP
        return None


class PerceptAdmission:
    """Judges object poses and domain shifts."""

    def __init__(self, clock: TickClock) -> None:
        self._clock = clock
        self.begin_episode(NEVER)

    def begin_episode(self, stamp_ns: int) -> None:
        """Ignore inputs with stamps up to `stamp_ns`."""
        self._reset_stamp_ns = stamp_ns
        self.forget()

    def forget(self) -> None:
        """Forget the last percept, because after a clock jumps back its stamp has no meaning."""
        self._object_stamp_ns = NEVER

    @property
    def object_stamp_ns(self) -> int:
        """Stamp of the newest percept that was taken: an object pose, or a domain shift with a stamp."""
        return self._object_stamp_ns

    def judge_object(self, xyz: np.ndarray, stamp_ns: int, now_ns: int) -> Decision:
        """Judge an object's position [3] m in the base frame."""
        return self._judge_once(xyz, (3,), stamp_ns, now_ns)

    def judge_scene(self, shift: np.ndarray, stamp_ns: int, now_ns: int) -> Decision:
        """Judge a domain shift [] (a number) that has its image's stamp, from a perception without object pose."""
        return self._judge_once(shift, (), stamp_ns, now_ns)

    def _judge_once(self, value: np.ndarray, shape: tuple[int, ...], stamp_ns: int, now_ns: int) -> Decision:
        """Judge a percept with its image's stamp, and keep the stamp if it is taken."""
        decision = self._judge(value, shape, stamp_ns, now_ns)
        if decision.take and stamp_ns <= self._object_stamp_ns:
            return Decision(False, counted=Reason.PERCEPT_REPEATED)  # a frozen camera's: no sign of life
        if decision.take:
            self._object_stamp_ns = stamp_ns
        return decision

    def judge_shift(self, shift: np.ndarray, stamp_ns: int, now_ns: int) -> Decision:
        """Judge a domain shift [] (a number)."""
        return self._judge(shift, (), stamp_ns, now_ns)

    def _judge(self, value: np.ndarray, shape: tuple[int, ...], stamp_ns: int, now_ns: int) -> Decision:
        if stamp_ns <= self._reset_stamp_ns:
            return IGNORE
        if not near_enough(value, shape):
            return Decision(False, fault=Reason.PERCEPT_BAD)
        if self._clock.in_future(stamp_ns, now_ns):
            return Decision(False, counted=Reason.PERCEPT_BAD)
        return TAKE
