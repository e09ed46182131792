"""Decides whether the arm may move and how much of the residual is applied, from input ages and faults.

There are two clocks on purpose. By `now_ns` (the steady clock; in lock step the tick's stamp) every input has an age
since receipt, so a frozen or jumping ROS clock disables no watchdog. By the stamps every input has the age that its
sender gave it, so old messages that were delayed in a queue count as old.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.ages import LATE, age_s, fade
from rlfp_ros.control.safety.percept_trust import PerceptTrust
from rlfp_ros.control.safety.takeover import Takeover
from rlfp_ros.control.safety.tick_clock import NEVER
from rlfp_ros.control.safety.verdict import Answer, Reason, State, Verdict


class Supervisor:
    """Owns the state machine: enabled, latched, the trust in the policy, and whether a person has taken over.

    Call the `saw_*` methods on inputs, `tick` once per tick, and a transition method for everything else. No other code
    writes its fields.
    """

    def __init__(self, settings: ControllerSettings) -> None:
        self.settings = settings
        self._dt = 1.0 / settings.control_rate_hz
        self._enabled = settings.start_enabled
        self._latched: dict[Reason, int] = {}  # why it is STOPPED, and since when (now_ns)
        self._target_gain = settings.residual_gain  # live; the gain follows it, slew-limited
        self._stepping = False  # one policy action at a time
        self._counts: dict[Reason, int] = {}
        self._heartbeat_ns = NEVER
        self._lease = ""  # of the newest heartbeat
        self._percepts = PerceptTrust(settings)
        self._takeover = Takeover(settings)
        self._forget()

    def _forget(self) -> None:
        self._base_scale = 1.0
        self._gain = 0.0
        self._initialised = False  # the controller has a measured start
        self._joint_state_ns = self._joint_stamp_ns = NEVER
        self._residual_ns = self._residual_stamp_ns = NEVER
        self._residual_fault: Reason | None = None
        self._percepts.forget()
        self._takeover.end()
        self._started_ns = NEVER
        self._step_until_ns = NEVER

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the operator (or `start_enabled`) lets the arm move, unless a stop is latched."""
        return self._enabled

    @property
    def latched(self) -> tuple[Reason, ...]:
        """The reasons why the arm is STOPPED until a reset; empty if it is not."""
        return tuple(self._latched)

    @property
    def moves(self) -> bool:
        """Whether the arm may move."""
        return self._enabled and not self._latched

    @property
    def person_acts(self) -> bool:
        """Whether the gain is that of a person's velocity, because a person has taken over and the policy has faded."""
        return self._takeover.acts

    @property
    def person_has_arm(self) -> bool:
        """Whether a person has taken over."""
        return self._takeover.active

    @property
    def initialised(self) -> bool:
        """Whether the motion has begun from measured joints."""
        return self._initialised

    @property
    def waits_for_start(self) -> bool:
        """Whether a motion may begin as soon as measured joints are available."""
        return self._enabled and not self._latched and not self._initialised

    @property
    def gain(self) -> float:
        """Share of the residual that acts, 0..1."""
        return self._gain

    @property
    def counts(self) -> Mapping[Reason, int]:
        """How often each reason occurred."""
        return self._counts

    # --- transitions -------------------------------------------------------------------------------------------

    def enable(self, idle: bool, now_ns: int) -> Answer:
        """Let the arm start from the measured state with gain 0.

        Parameters
        ----------
        idle
            Whether no motion that was sent is still running.
        now_ns
            The present, on the clock of the inputs.
        """
        if self._latched:
            names = ", ".join(reason.value for reason in self._latched)
            return Answer(False, f"stopped by {names}; remove the cause and call reset first")
        if self._takeover.active:
            return self._resume()
        if self._enabled:
            self._stepping = self.settings.step_by_step
            return Answer(True, "enabled already")
        if not idle:
            return Answer(False, "still coming to rest; try again")
        if self.settings.require_heartbeat and not self._has_heartbeat(now_ns):
            return Answer(False, "no heartbeat comes on operator/heartbeat yet; try again when it does")
        self._enabled = True
        self._stepping = self.settings.step_by_step
        self._initialised = False
        return Answer(True, "enabled; call step for each action" if self._stepping else "enabled")

    def _resume(self) -> Answer:
        """Give the arm back to the policy."""
        if not self._takeover.acts or self._base_scale > 0.0:
            return Answer(False, "a person moves the arm; let go of it first")
        self._takeover.end()
        self._stepping = self.settings.step_by_step
        return Answer(True, "resumed")

    def disable(self) -> Answer:
        """Bring the arm to rest, then send nothing."""
        self._enabled = False
        self._takeover.end()
        self._gain = 0.0
        return Answer(True, "disabled")

    def estop(self, now_ns: int) -> Answer:
        """Latch a decelerated stop until `reset`."""
        self.stop(Reason.ESTOP, now_ns)
        return Answer(True, "stopped; call reset to release")

    def stop(self, reason: Reason, now_ns: int) -> None:
        """Latch a stop for any reason."""
        if reason not in self._latched:
            self._latched[reason] = now_ns
            self.count(reason)
        self._gain = 0.0
        self._takeover.end()

    def fail(self, now_ns: int) -> Verdict:
        """Latch an internal error; return the verdict for the tick in which it happened."""
        self.stop(Reason.INTERNAL_ERROR, now_ns)
        return self._stopped()

    def reset(self, at_rest: bool) -> Answer:
        """Release a latched stop; the controller is DISABLED then.

        Parameters
        ----------
        at_rest
            Whether nothing that was sent still moves the arm.
        """
        if not self._latched:
            return Answer(True, "not stopped")
        if not at_rest:
            return Answer(False, "still coming to rest; try again")
        self._latched.clear()
        self._enabled = self._initialised = False
        return Answer(True, "released; call enable to continue")

    def step(self, idle: bool, now_ns: int, action_s: float) -> Answer:
        """Let the policy act for `action_s`, then wait for the next `step`; enables if necessary."""
        if not self._enabled or self._latched or self._takeover.active:
            answer = self.enable(idle, now_ns)
            if not answer.ok:
                return answer
        self._stepping = True
        self._step_until_ns = now_ns + int(action_s * 1e9)
        return Answer(True, "one action")

    def begin_motion(self) -> None:
        """Take note that the motion begins from measured joints, with gain 0."""
        self._initialised = True
        self._gain = 0.0

    def end_motion(self) -> None:
        """Take note that a disabled arm is at rest: the next motion begins from measured joints again."""
        self._initialised = False

    def begin_episode(self) -> None:
        """Forget all ages. Latched stops stay, unless `episode_reset_clears_stop`; an e-stop stays in any case."""
        if self.settings.episode_reset_clears_stop:
            self._latched = {reason: since for reason, since in self._latched.items() if reason is Reason.ESTOP}
        self._forget()

    def set_target_gain(self, gain: float) -> None:
        """Change the gain (0..1) that the residual's gain approaches, slew-limited."""
        self._target_gain = min(max(float(gain), 0.0), 1.0)

    def count(self, reason: Reason) -> None:
        """Count an occurrence for the diagnostics."""
        self._counts[reason] = self._counts.get(reason, 0) + 1

    # --- inputs ------------------------------------------------------------------------------------------------

    def saw_joint_state(self, stamp_ns: int, now_ns: int) -> None:
        """Take note of a joint state that passed its checks."""
        self._joint_state_ns, self._joint_stamp_ns = now_ns, stamp_ns

    def joint_state_ages(self, stamp_ns: int, now_ns: int) -> tuple[float, float]:
        """Return the newest joint state's age since receipt and by stamp, each as a share of the stopping timeout."""
        by_receipt = age_s(now_ns, self._joint_state_ns) / self.settings.joint_state_timeout_s
        return by_receipt, age_s(stamp_ns, self._joint_stamp_ns) / self.settings.joint_state_max_age_s

    def saw_residual(self, stamp_ns: int, now_ns: int, fault: Reason | None) -> None:
        """Record a residual; `fault` is why it was rejected. The first accepted one after a fault starts a new ramp."""
        self._residual_fault = fault
        if fault is None:
            gap = self.settings.residual_gap_s
            if self._residual_stamp_ns != NEVER and age_s(stamp_ns, self._residual_stamp_ns) > gap:
                self.count(Reason.RESIDUAL_GAP)
            self._residual_ns, self._residual_stamp_ns = now_ns, stamp_ns
        else:
            self.count(fault)
            if not self._takeover.acts:
                self._gain = 0.0

    def saw_percept(
        self,
        stamp_ns: int,
        now_ns: int,
        fault: Reason | None = None,
        shift: float | None = None,
        alive: bool = True,
    ) -> None:
        """Take note of an object pose or a domain shift.

        Parameters
        ----------
        fault
            The reason for rejection. A rejected percept refreshes no age and clears no fault.
        shift
            The domain shift, 0..1.
        alive
            Whether it shows that the camera is alive; otherwise it refreshes no age and clears no fault either.
        """
        if fault is not None:
            self._percepts.refuse(fault)
            self.count(fault)
        else:
            self._percepts.saw(stamp_ns, now_ns, shift, alive)

    def saw_heartbeat(self, now_ns: int, lease: str = "") -> None:
        """Take note of the operator's heartbeat, with the operator's place that it came from."""
        self._heartbeat_ns, self._lease = now_ns, lease

    def allows_jog(self, lease: str, now_ns: int) -> tuple[bool, bool]:
        """Return whether the arm may move, and whether fresh heartbeats come from this operator's place."""
        return self.moves and self._initialised, self._has_heartbeat(now_ns) and bool(lease) and lease == self._lease

    def _has_heartbeat(self, now_ns: int) -> bool:
        return self._heartbeat_ns != NEVER and age_s(now_ns, self._heartbeat_ns) <= self.settings.heartbeat_timeout_s

    def saw_jog(self, refusal: Reason | None, now_ns: int) -> None:
        """Take note of a jog: with one that was taken, a person has the arm."""
        if refusal is None:
            if not self._takeover.active:
                self.count(Reason.JOG)
            self._takeover.saw(now_ns)
        else:
            self.count(refusal)

    # --- the verdict -------------------------------------------------------------------------------------------

    def tick(self, stamp_ns: int, now_ns: int) -> Verdict:
        """Return state, reasons and gain for the tick at `stamp_ns`."""
        settings = self.settings
        moving = self._enabled and not self._latched
        punctual = 1.0  # falls to 0 as the age of an input approaches its timeout
        if moving and self._initialised:
            by_receipt, by_stamp = self.joint_state_ages(stamp_ns, now_ns)
            if by_receipt > 1.0:
                self.stop(Reason.JOINT_STATE_STALE, now_ns)
            elif by_stamp > 1.0:
                self.stop(Reason.JOINT_STATE_OLD, now_ns)
            if by_receipt > LATE or by_stamp > LATE:
                punctual = fade(max(by_receipt, by_stamp), LATE, 1.0)
        if moving and settings.require_heartbeat:
            heartbeat = age_s(now_ns, self._heartbeat_ns) / settings.heartbeat_timeout_s
            if heartbeat > 1.0:
                self.stop(Reason.HEARTBEAT_LOST, now_ns)
            punctual = min(punctual, fade(heartbeat, LATE, 1.0))
        percept_ages = self._percepts.ages(stamp_ns, now_ns)
        if percept_ages[0] > LATE or percept_ages[1] > LATE:
            punctual = min(punctual, fade(max(percept_ages), LATE, 1.0))
        if self._latched:
            return self._stopped()
        if not self._enabled:
            self._gain = 0.0
            return Verdict(State.DISABLED, (Reason.NOT_ENABLED,), 0.0, 0.0)
        if not self._initialised:
            self._gain = 0.0
            return Verdict(State.HOLDING, (Reason.WAITING_FOR_JOINT_STATE,), 0.0, 0.0)
        if self._started_ns == NEVER:
            self._started_ns = now_ns

        reasons: list[Reason] = []
        trust = self._percepts.trust(percept_ages, self._started_ns, now_ns, reasons)
        if self._takeover.active:
            return self._taken_over(reasons, punctual, now_ns)
        perception_fault = bool(reasons)
        trust = min(trust, self._residual_trust(stamp_ns, now_ns, reasons)) if not perception_fault else 0.0
        if punctual < 1.0 and not perception_fault:
            reasons.append(Reason.INPUT_LATE)
        self._slew_gain(min(trust, punctual) * self._target_gain)
        # Slow down instead of freezing: first the residual fades, then the base controller, then the arm holds.
        if not perception_fault or self._gain == 0.0:
            self._slew_base(0.0 if perception_fault else punctual)
        state = State.HOLDING if perception_fault and self._base_scale == 0.0 else State.ACTIVE
        return Verdict(state, tuple(reasons), self._gain, self._base_scale)

    def _stopped(self) -> Verdict:
        self._gain = 0.0
        return Verdict(State.STOPPED, self.latched, 0.0, 0.0)

    def _residual_trust(self, stamp_ns: int, now_ns: int, reasons: list[Reason]) -> float:
        settings = self.settings
        if self._residual_fault is not None:
            reasons.append(self._residual_fault)
            return 0.0
        if self._residual_ns == NEVER:
            reasons.append(Reason.WAITING_FOR_RESIDUAL)
            return 0.0
        if self._stepping and now_ns >= self._step_until_ns:
            reasons.append(Reason.WAITING_FOR_STEP)
            return 0.0
        age = age_s(now_ns, self._residual_ns)
        if age >= settings.residual_timeout_s:
            reasons.append(Reason.RESIDUAL_STALE)
            return 0.0
        by_stamp = age_s(stamp_ns, self._residual_stamp_ns)
        if by_stamp >= settings.residual_max_age_s:
            reasons.append(Reason.RESIDUAL_OLD)
            return 0.0
        old = 0.8 * settings.residual_max_age_s
        if age <= settings.residual_fade_s and by_stamp <= old:
            return 1.0
        return min(
            fade(age, settings.residual_fade_s, settings.residual_timeout_s),
            fade(by_stamp, old, settings.residual_max_age_s),
        )

    def _taken_over(self, reasons: list[Reason], punctual: float, now_ns: int) -> Verdict:
        """Return the verdict while a person has the arm, with the faults of perception."""
        takeover = self._takeover
        faults = [reason for reason in reasons if reason is not Reason.DOMAIN_SHIFT]  # it says nothing about a person
        trust = 0.0 if faults else takeover.freshness(now_ns)
        if not takeover.acts and self._gain == 0.0 and self._base_scale == 0.0:
            takeover.hand_over()
        self._slew_gain(min(trust, punctual) if takeover.acts else 0.0)
        if self._gain == 0.0 or trust > 0.0:
            self._slew_base(min(trust, punctual) if takeover.acts else 0.0)
        moves = trust > 0.0 or self._base_scale > 0.0
        late = [Reason.INPUT_LATE] if punctual < 1.0 and not faults else []
        person = Reason.HANDING_OVER
        if takeover.acts:
            person = Reason.JOG if trust > 0.0 else Reason.WAITING_FOR_RESUME
        state = State.ACTIVE if moves else State.HOLDING
        return Verdict(state, (*faults, person, *late), self._gain, self._base_scale)

    def _slew_base(self, target: float) -> None:
        change = self._dt / self.settings.hold_ramp_s
        self._base_scale = min(max(target, self._base_scale - change), self._base_scale + change)

    def _slew_gain(self, target: float) -> None:
        settings = self.settings
        if target > self._gain:
            self._gain = min(target, self._gain + self._dt / settings.gain_ramp_s)
        else:
            self._gain = max(target, self._gain - self._dt / settings.gain_fall_s)
