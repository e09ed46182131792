"""Decides whether the arm may move, and how far the policy is trusted: ages and faults in, state and gain out.

Two clocks on purpose. `now_ns` (the steady clock; in lock step the tick's stamp) ages every input by receipt, so a
frozen or jumping ROS clock disarms nothing. Stamps age inputs by what their sender says, so a queue of old messages
that arrives fresh is still old.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import NamedTuple

from rlfp_ros.control.controller_settings import ControllerSettings

NEVER = -(1 << 62)
LATE = 0.5  # of a timeout that stops the arm: from there on it slows down


class State(StrEnum):
    """What the controller does. DISABLED -> ACTIVE <-> HOLDING -> STOPPED."""

    DISABLED = "DISABLED"  # nothing is sent
    ACTIVE = "ACTIVE"  # base controller, plus the residual as far as its gain goes
    HOLDING = "HOLDING"  # at rest or coming to it; clears itself
    STOPPED = "STOPPED"  # decelerated stop, then silence; latched until reset


class Reason(StrEnum):
    """Codes in `safety/state` and /diagnostics."""

    # Waiting, no fault
    NOT_ENABLED = "not_enabled"
    WAITING_FOR_JOINT_STATE = "waiting_for_joint_state"
    WAITING_FOR_RESIDUAL = "waiting_for_residual"
    WAITING_FOR_STEP = "waiting_for_step"
    # Slower: what would stop the arm is late
    INPUT_LATE = "input_late"
    # Policy: gain to 0, the base controller goes on
    RESIDUAL_STALE = "residual_stale"
    RESIDUAL_OLD = "residual_old"  # by stamp
    RESIDUAL_FUTURE = "residual_future_stamp"
    RESIDUAL_REPEATED = "residual_repeated_stamp"  # or older than the one before
    RESIDUAL_NOT_FINITE = "residual_not_finite"
    RESIDUAL_SHAPE = "residual_wrong_width"
    RESIDUAL_RANGE = "residual_out_of_range"
    RESIDUAL_JUMP = "residual_jump"
    RESIDUAL_GAP = "residual_gap"  # counted
    # Perception: gain to 0, then HOLDING
    PERCEPT_STALE = "percept_stale"
    PERCEPT_OLD = "percept_old"  # by stamp
    PERCEPT_BAD = "percept_not_finite"
    PERCEPT_REPEATED = "percept_repeated_stamp"  # or older; counted, and stale where it goes on
    DOMAIN_SHIFT = "domain_shift"
    # Robot and operator: STOPPED
    JOINT_STATE_STALE = "joint_state_stale"
    JOINT_STATE_OLD = "joint_state_old"  # by stamp
    JOINT_STATE_FUTURE = "joint_state_future_stamp"  # counted, and stale where it goes on
    JOINT_STATE_REPEATED = "joint_state_repeated_stamp"  # or older; the same
    JOINT_STATE_MISSING = "joint_missing"
    JOINT_STATE_NOT_FINITE = "joint_state_not_finite"
    JOINT_STATE_JUMP = "joint_state_jump"
    JOINT_STATE_FROZEN = "joint_state_frozen"
    TRACKING_ERROR = "tracking_error"
    EFFORT = "effort_limit"
    CLOCK_JUMP = "clock_jump"
    HEARTBEAT_LOST = "heartbeat_lost"
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
    """What one tick may do."""

    state: State
    reasons: tuple[Reason, ...]
    gain: float  # of the residual, 0..1
    base_scale: float  # of the whole wanted motion, 0..1: slows down before it holds


class Supervisor:
    """Keeps ages and latches. Call the `saw_*` methods on inputs, then `tick` once a tick."""

    def __init__(self, settings: ControllerSettings) -> None:
        self.settings = settings
        self._dt = 1.0 / settings.control_rate_hz
        self.enabled = settings.start_enabled
        self.latched: dict[Reason, int] = {}  # why it is STOPPED, and since when (now_ns)
        self.gain = 0.0
        self.target_gain = settings.residual_gain  # live; the gain follows it, slew-limited
        self.stepping = False  # one policy action at a time
        self.counts: dict[Reason, int] = {}
        self._heartbeat_ns = NEVER
        self.forget()

    def forget(self) -> None:
        """A new episode: ages start again, latches stay."""
        self.base_scale = 1.0
        self.gain = 0.0
        self.initialised = False  # the controller has a measured start
        self._joint_state_ns = self._joint_stamp_ns = NEVER
        self._residual_ns = self._residual_stamp_ns = NEVER
        self._residual_fault: Reason | None = None
        self._percept_ns = self._percept_stamp_ns = NEVER
        self._percept_fault: Reason | None = None
        self._shifts: deque[tuple[int, float]] = deque()  # (received at, score), while it counts
        self._started_ns = NEVER
        self._step_until_ns = NEVER

    # --- inputs ------------------------------------------------------------------------------------------------

    def saw_joint_state(self, stamp_ns: int, now_ns: int) -> None:
        """A joint state that passed its checks."""
        self._joint_state_ns, self._joint_stamp_ns = now_ns, stamp_ns

    def joint_state_ages(self, stamp_ns: int, now_ns: int) -> tuple[float, float]:
        """Age of the newest joint state by receipt and by stamp, each as a share of what stops the arm."""
        by_receipt = _age(now_ns, self._joint_state_ns) / self.settings.joint_state_timeout_s
        return by_receipt, _age(stamp_ns, self._joint_stamp_ns) / self.settings.joint_state_max_age_s

    def saw_residual(self, stamp_ns: int, now_ns: int, fault: Reason | None) -> None:
        """A residual came; `fault` says why it was rejected. Admission after a fault starts a new ramp."""
        self._residual_fault = fault
        if fault is None:
            gap = self.settings.residual_gap_s
            if self._residual_stamp_ns != NEVER and _age(stamp_ns, self._residual_stamp_ns) > gap:
                self.count(Reason.RESIDUAL_GAP)
            self._residual_ns, self._residual_stamp_ns = now_ns, stamp_ns
        else:
            self.count(fault)
            self.gain = 0.0

    def saw_percept(
        self,
        stamp_ns: int,
        now_ns: int,
        fault: Reason | None = None,
        shift: float | None = None,
        alive: bool = True,
    ) -> None:
        """Object pose or domain shift came; a bad one, or one not `alive`, refreshes no age and clears no fault."""
        if fault is not None:
            self._percept_fault = fault
            self.count(fault)
            return
        if alive:
            self._percept_fault = None
            self._percept_ns, self._percept_stamp_ns = now_ns, stamp_ns
        if shift is not None:
            self._shifts.append((now_ns, shift))
            self._lasting_shift(now_ns)  # forgets those that no longer count

    def saw_heartbeat(self, now_ns: int) -> None:
        """The operator is there."""
        self._heartbeat_ns = now_ns

    def allow_one_action(self, now_ns: int, duration_s: float) -> None:
        """In step mode, the residual counts until then."""
        self._step_until_ns = now_ns + int(duration_s * 1e9)

    # --- commands ----------------------------------------------------------------------------------------------

    def stop(self, reason: Reason, now_ns: int) -> None:
        """Latch a stop."""
        if reason not in self.latched:
            self.latched[reason] = now_ns
            self.count(reason)
        self.gain = 0.0

    def count(self, reason: Reason) -> None:
        """For diagnostics."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    # --- the verdict -------------------------------------------------------------------------------------------

    def tick(self, stamp_ns: int, now_ns: int) -> Verdict:
        """State, reasons and gain for the tick at `stamp_ns`."""
        settings = self.settings
        moving = self.enabled and not self.latched
        punctual = 1.0  # 0 where an input is so late that the arm stops
        if moving and self.initialised:
            by_receipt, by_stamp = self.joint_state_ages(stamp_ns, now_ns)
            if by_receipt > 1.0:
                self.stop(Reason.JOINT_STATE_STALE, now_ns)
            elif by_stamp > 1.0:
                self.stop(Reason.JOINT_STATE_OLD, now_ns)
            punctual = _fade(max(by_receipt, by_stamp), LATE, 1.0)
        if moving and settings.require_heartbeat:
            heartbeat = _age(now_ns, self._heartbeat_ns) / settings.heartbeat_timeout_s
            if heartbeat > 1.0:
                self.stop(Reason.HEARTBEAT_LOST, now_ns)
            punctual = min(punctual, _fade(heartbeat, LATE, 1.0))
        if self._percept_ns != NEVER:
            punctual = min(punctual, _fade(max(self._percept_ages(stamp_ns, now_ns)), LATE, 1.0))
        if self.latched:
            self.gain = 0.0
            return Verdict(State.STOPPED, tuple(self.latched), 0.0, 0.0)
        if not self.enabled:
            self.gain = 0.0
            return Verdict(State.DISABLED, (Reason.NOT_ENABLED,), 0.0, 0.0)
        if not self.initialised:
            self.gain = 0.0
            return Verdict(State.HOLDING, (Reason.WAITING_FOR_JOINT_STATE,), 0.0, 0.0)
        if self._started_ns == NEVER:
            self._started_ns = now_ns

        reasons: list[Reason] = []
        trust = self._perception_trust(stamp_ns, now_ns, reasons)
        perception_fault = bool(reasons)
        trust = min(trust, self._residual_trust(stamp_ns, now_ns, reasons)) if not perception_fault else 0.0
        if punctual < 1.0 and not perception_fault:
            reasons.append(Reason.INPUT_LATE)
        self._slew_gain(min(trust, punctual) * self.target_gain)
        # Slow down rather than freeze: the residual goes first, then the base controller, then it holds.
        change = self._dt / settings.hold_ramp_s
        if not perception_fault or self.gain == 0.0:
            wanted = 0.0 if perception_fault else punctual
            self.base_scale = min(max(wanted, self.base_scale - change), self.base_scale + change)
        state = State.HOLDING if perception_fault and self.base_scale == 0.0 else State.ACTIVE
        return Verdict(state, tuple(reasons), self.gain, self.base_scale)

    def _perception_trust(self, stamp_ns: int, now_ns: int, reasons: list[Reason]) -> float:
        settings = self.settings
        if self._percept_fault is not None:
            reasons.append(self._percept_fault)
        if self._percept_ns != NEVER:
            by_receipt, by_stamp = self._percept_ages(stamp_ns, now_ns)
            if by_receipt > 1.0:
                reasons.append(Reason.PERCEPT_STALE)
            elif by_stamp > 1.0:
                reasons.append(Reason.PERCEPT_OLD)
        elif settings.require_percepts and _age(now_ns, self._started_ns) > settings.percept_timeout_s:
            reasons.append(Reason.PERCEPT_STALE)
        shift = self._lasting_shift(now_ns)
        if shift > settings.shift_hold:
            reasons.append(Reason.DOMAIN_SHIFT)
        return _fade(shift, settings.shift_slow, settings.shift_hold)

    def _percept_ages(self, stamp_ns: int, now_ns: int) -> tuple[float, float]:
        """Age of the newest percept by receipt and by its image's stamp, each as a share of what holds the arm."""
        by_receipt = _age(now_ns, self._percept_ns) / self.settings.percept_timeout_s
        return by_receipt, _age(stamp_ns, self._percept_stamp_ns) / self.settings.percept_max_age_s

    def _lasting_shift(self, now_ns: int) -> float:
        """The lowest domain shift of the last pictures: one that looks odd is no other scene."""
        while len(self._shifts) > 1 and _age(now_ns, self._shifts[0][0]) > self.settings.shift_time_s:
            self._shifts.popleft()
        return min((shift for _, shift in self._shifts), default=0.0)

    def _residual_trust(self, stamp_ns: int, now_ns: int, reasons: list[Reason]) -> float:
        settings = self.settings
        if self._residual_fault is not None:
            reasons.append(self._residual_fault)
            return 0.0
        if self._residual_ns == NEVER:
            reasons.append(Reason.WAITING_FOR_RESIDUAL)
            return 0.0
        if self.stepping and now_ns >= self._step_until_ns:
            reasons.append(Reason.WAITING_FOR_STEP)
            return 0.0
        age = _age(now_ns, self._residual_ns)
        if age >= settings.residual_timeout_s:
            reasons.append(Reason.RESIDUAL_STALE)
            return 0.0
        by_stamp = _age(stamp_ns, self._residual_stamp_ns)
        if by_stamp >= settings.residual_max_age_s:
            reasons.append(Reason.RESIDUAL_OLD)
            return 0.0
        return min(
            _fade(age, settings.residual_fade_s, settings.residual_timeout_s),
            _fade(by_stamp, 0.8 * settings.residual_max_age_s, settings.residual_max_age_s),
        )

    def _slew_gain(self, target: float) -> None:
        settings = self.settings
        if target > self.gain:
            self.gain = min(target, self.gain + self._dt / settings.gain_ramp_s)
        else:
            self.gain = max(target, self.gain - self._dt / settings.gain_fall_s)


def _age(now_ns: int, then_ns: int) -> float:
    return (now_ns - then_ns) * 1e-9


def _fade(value: float, start: float, end: float) -> float:
    """1 up to `start`, falling to 0 at `end`."""
    if value <= start:
        return 1.0
    return 0.0 if value >= end else (end - value) / (end - start)
