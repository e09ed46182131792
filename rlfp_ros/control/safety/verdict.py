"""The words of the safety controller: its states, the reasons for them, and what one tick may do."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """State of the controller. DISABLED -> ACTIVE <-> HOLDING -> STOPPED."""

    DISABLED = "DISABLED"  # nothing is sent
    ACTIVE = "ACTIVE"  # base controller, plus gain times the residual
    HOLDING = "HOLDING"  # at rest or coming to rest; clears itself
    STOPPED = "STOPPED"  # decelerated stop, then silence; latched until reset


class Reason(StrEnum):
    """Codes in `safety/state` and /diagnostics."""

    # Waiting, no fault
    NOT_ENABLED = "not_enabled"
    WAITING_FOR_JOINT_STATE = "waiting_for_joint_state"
    WAITING_FOR_RESIDUAL = "waiting_for_residual"
    WAITING_FOR_STEP = "waiting_for_step"
    # A person has taken over
    HANDING_OVER = "handing_over"  # the policy fades
    JOG = "jog"  # the person moves the arm
    WAITING_FOR_RESUME = "waiting_for_resume"
    JOG_BAD = "jog_not_valid"  # only counted, as all below
    JOG_NOT_ENABLED = "jog_not_enabled"
    JOG_LEASE = "jog_wrong_lease"
    JOG_OLD = "jog_old_stamp"  # or repeated
    JOG_FUTURE = "jog_future_stamp"
    # Slower: an input is late; if it stays away, the arm stops
    INPUT_LATE = "input_late"
    # Policy: gain to 0, the base controller continues
    RESIDUAL_STALE = "residual_stale"
    RESIDUAL_OLD = "residual_old"  # by stamp
    RESIDUAL_FUTURE = "residual_future_stamp"
    RESIDUAL_REPEATED = "residual_repeated_stamp"  # or older than the one before
    RESIDUAL_NOT_FINITE = "residual_not_finite"
    RESIDUAL_SHAPE = "residual_wrong_width"
    RESIDUAL_RANGE = "residual_out_of_range"
    RESIDUAL_JUMP = "residual_jump"
    RESIDUAL_GAP = "residual_gap"  # only counted
    # Perception: gain to 0, then HOLDING
    PERCEPT_STALE = "percept_stale"
    PERCEPT_OLD = "percept_old"  # by stamp
    PERCEPT_BAD = "percept_not_finite"
    PERCEPT_REPEATED = "percept_repeated_stamp"  # or older; only counted, becomes stale if it continues
    DOMAIN_SHIFT = "domain_shift"
    # Robot and operator: STOPPED
    JOINT_STATE_STALE = "joint_state_stale"
    JOINT_STATE_OLD = "joint_state_old"  # by stamp
    JOINT_STATE_FUTURE = "joint_state_future_stamp"  # only counted, becomes stale if it continues
    JOINT_STATE_REPEATED = "joint_state_repeated_stamp"  # or older; only counted, becomes stale if it continues
    JOINT_STATE_MISSING = "joint_missing"
    JOINT_STATE_NOT_FINITE = "joint_state_not_finite"
    JOINT_STATE_JUMP = "joint_state_jump"
    JOINT_STATE_FROZEN = "joint_state_frozen"
    TRACKING_ERROR = "tracking_error"
    EFFORT = "effort_limit"
    CLOCK_JUMP = "clock_jump"
    HEARTBEAT_LOST = "heartbeat_lost"
    ADDITIONAL_PUBLISHER = "additional_publisher"  # of an input or of commands, since the arm was enabled
    ESTOP = "estop"
    INTERNAL_ERROR = "internal_error"


POLICY_FAULTS = frozenset(
    {
        Reason.RESIDUAL_STALE,
        Reason.RESIDUAL_OLD,
        Reason.RESIDUAL_FUTURE,
        Reason.RESIDUAL_REPEATED,
        Reason.RESIDUAL_NOT_FINITE,
        Reason.RESIDUAL_SHAPE,
        Reason.RESIDUAL_RANGE,
        Reason.RESIDUAL_JUMP,
    }
)


class Verdict(NamedTuple):
    """The supervisor's decision for one tick.

    Attributes
    ----------
    state, reasons
        The state, and why the arm is not fully active.
    gain
        Share of the residual that acts, 0..1; if a person has taken over, of the person's velocity.
    base_scale
        Share of the wanted motion that is executed, 0..1: the arm slows down before it holds.
    """

    state: State
    reasons: tuple[Reason, ...]
    gain: float
    base_scale: float


class Answer(NamedTuple):
    """Answer to an operator's command."""

    ok: bool
    message: str
