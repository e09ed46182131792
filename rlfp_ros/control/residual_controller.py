"""The residual controller: base controller + gain * residual, through the safety filter, under the supervisor.

ROS-free and deterministic: the node and the training environment call the same class. Time comes in as integers,
`stamp_ns` from the senders' clock and `now_ns` from the steady clock (in lock step the same numbers); only their
differences matter.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from dataclasses import dataclass
from operator import gt
from typing import Protocol

import numpy as np

from rlfp_ros.contract import ActionContract, BaseController
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.base_controllers.base_controller import Situation, make_base_controller
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.filter import SafetyFilter
from rlfp_ros.control.safety.motion import Located, largest
from rlfp_ros.control.safety.supervisor import NEVER, Reason, State, Supervisor, Verdict
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.schema import ConfigurationError

__all__ = ["Command", "ControllerSettings", "Reason", "ResidualController", "State"]

STANDING_RAD_S = 0.05  # measured speed below this is noise: the arm starts at rest
STANDING_RAD = 0.02  # an arm that is no farther than this from where it began has not moved
FROZEN_MOTION_RAD = 0.02  # commanded motion during which a measurement must change
TRACKING_STRIKES = 3  # consecutive joint states with a tracking error; one may be a glitch
MOST_TICKS = 5000  # of a jump; longer than any stop
FARTHEST_M = 100.0  # no arm reaches so far: a goal or an object beyond is a mistake, and its square may be no number
EFFORT_SLACK = 1.001  # simulators saturate at exactly the limit


class ActionAndBase(Protocol):
    """The part of `Contract` that the controller needs."""

    @property
    def action(self) -> ActionContract:
        """Components and scale of the residual."""

    @property
    def base_controller(self) -> BaseController:
        """What the residual is added to."""


@dataclass(frozen=True)
class Command:
    """What to send at one tick. None: send nothing."""

    trajectory: Trajectory | None
    gripper_width: float | None = None  # m


NOTHING = Command(None, None)


class ResidualController:
    """One arm, one policy. Call the `on_*` methods on inputs and `tick` once every 1 / control_rate_hz.

    Raises ConfigurationError where arm, contract and settings do not go together. After that nothing raises: a fault
    inside is latched as `internal_error`, kept in `last_error`, and the stop that was sent goes on.
    """

    def __init__(self, arm: Arm, contract: ActionAndBase, settings: ControllerSettings | None = None) -> None:
        self.arm = arm
        self.settings = settings = settings or ControllerSettings()
        self._check_arm(contract)
        self.kinematics = Kinematics(arm)
        self.filter = SafetyFilter(arm, self.kinematics, settings)
        self.supervisor = Supervisor(settings)
        self.base = make_base_controller(
            contract.base_controller.name, dict(contract.base_controller.parameters), arm, settings
        )
        scale: dict[str, float] = dict(zip(contract.action.components, contract.action.scale, strict=True))
        self.in_joint_space = contract.action.kind == "joint_velocity"
        axes = contract.action.axes(arm.joint_names)
        self.residual_scale = np.array([scale.get(name, 0.0) for name in axes])  # [6] m/s, rad/s, or [J] rad/s
        self.has_gripper = "gripper" in scale
        if self.has_gripper and arm.gripper is None:
            raise ConfigurationError(
                f"bundle.yaml: action.components has a gripper, but config/arms/{arm.name}.yaml has none; "
                "use another arm or add its gripper"
            )
        self._action_s = 1.0 / contract.action.rate_hz
        self._dt_ns = 1e9 / settings.control_rate_hz
        self._dt = 1.0 / settings.control_rate_hz
        self._speed = np.array(arm.limits.velocity)
        self._effort = (EFFORT_SLACK * np.array(arm.limits.effort)).tolist()
        self._zeros = np.zeros(len(axes))
        self._zeros.setflags(write=False)
        # A forward controller keeps what it was told last, so it is told a step on every tick, whatever the clocks say.
        self._forward = settings.output != "joint_trajectory"
        self._stamp_ns = self._now_ns = NEVER  # of the last tick, on both clocks
        self._moved_ns = NEVER  # when the stamps last went on
        self.clock_ns = NEVER  # the senders' clock when an input comes, where the node can tell: ticks may be late
        self.last_error = ""
        self.internal_errors = 0
        self.goal: np.ndarray | None = None
        self._window: deque[np.ndarray] = deque(
            maxlen=max(2, round(settings.tracking_window_s * settings.control_rate_hz))
        )
        self._verdict = Verdict(State.DISABLED, (Reason.NOT_ENABLED,), 0.0, 0.0)
        self._forget(NEVER)

    def _check_arm(self, contract: ActionAndBase) -> None:
        wanted = getattr(contract, "arm", None)
        if wanted is not None and tuple(wanted.joint_names) != self.arm.joint_names:
            raise ConfigurationError(
                f"bundle.yaml: arm.joint_names is {list(wanted.joint_names)}, but config/arms/{self.arm.name}.yaml "
                f"has {list(self.arm.joint_names)}; use the arm that the policy was trained with"
            )

    def _forget(self, reset_stamp_ns: int) -> None:
        self.supervisor.forget()
        self._reset_stamp_ns = reset_stamp_ns
        self._joint_state: JointState | None = None
        self._confirmed = False  # by the joint state before it, which was near in place and time
        self._began_at = np.zeros(len(self.arm.joint_names))  # measured positions [J] rad
        self._residual = self._zeros
        self._residual_stamp_ns = NEVER
        self._asked: np.ndarray | None = None  # the last finite twist in range, before clipping, admitted or not
        self._gripper_target: float | None = None
        self._gripper_width: float | None = None
        self.object_position: np.ndarray | None = None
        self._object_stamp_ns = NEVER
        self._strikes = 0
        self._frozen_since: tuple[int, np.ndarray] | None = None
        self._effort_since = NEVER
        self._window.clear()
        self._running = False  # the filter carries a motion that was sent
        self._sent = False

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """As of the last tick or command."""
        return self._verdict.state

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not fully active; empty when all is well."""
        return self._verdict.reasons

    @property
    def gain(self) -> float:
        """Share of the residual that acts, 0..1."""
        return self._verdict.gain

    @property
    def commanded(self) -> np.ndarray:
        """Joint positions [J] rad commanded for the last tick's stamp."""
        return self.filter.now.position

    @property
    def at_rest(self) -> bool:
        """Does nothing that was sent move the arm any more?"""
        return not self._running or self.filter.resting

    @property
    def stands_still(self) -> bool:
        """Has the arm stayed where its motion began? With a tracking error: nobody carries out what it is told."""
        return self._joint_state is not None and largest(self._joint_state.positions - self._began_at) < STANDING_RAD

    def diagnostics(self) -> dict[str, str | int | float]:
        """Names and values for /diagnostics."""
        counts = self.filter.counts
        values: dict[str, str | int | float] = {
            "state": self.state.value,
            "reasons": ",".join(reason.value for reason in self.reasons),
            "gain": self.gain,
            "base_scale": self._verdict.base_scale,
            "steps": counts.steps,
            "steps_limited": counts.limited,
            "steps_braked": counts.braked,
            "steps_stop_followed": counts.stop_followed,
            "smallest_singular_value_m": self.filter.smallest_singular_value,
            "internal_errors": self.internal_errors,
            "dry_run": int(self.settings.dry_run),
        }
        values.update({f"refused_{name}": count for name, count in sorted(counts.refused.items())})
        values.update({f"fault_{reason.value}": n for reason, n in self.supervisor.counts.items()})
        return values

    # --- inputs ------------------------------------------------------------------------------------------------

    def _future(self, stamp_ns: int, now_ns: int) -> bool:
        """Is a stamp ahead of the tick timeline, carried on to `now_ns` by the steady clock, and of `clock_ns`?"""
        if self._stamp_ns == NEVER:
            return False
        reached = max(self._stamp_ns + max(0, now_ns - self._now_ns), self.clock_ns)
        return stamp_ns - reached > (self.settings.future_tolerance_s + self._dt) * 1e9

    def on_joint_state(self, joint_state: JointState, now_ns: int) -> None:
        """Measured joints. Checks them against the command; a robot fault latches a stop."""
        supervisor, previous = self.supervisor, self._joint_state
        joints = (len(self.arm.joint_names),)
        positions, velocities, efforts = joint_state.positions, joint_state.velocities, joint_state.efforts
        finite = (
            positions.shape == velocities.shape == efforts.shape == joints
            and math.isfinite(positions @ velocities)  # 0 * inf is NaN: one look at both
        )
        if not finite:
            supervisor.count(Reason.JOINT_STATE_NOT_FINITE)
            if self._running:
                supervisor.stop(Reason.JOINT_STATE_NOT_FINITE, now_ns)
            return
        if joint_state.stamp_ns <= self._reset_stamp_ns:
            return  # of the episode before
        if self._future(joint_state.stamp_ns, now_ns):
            supervisor.count(Reason.JOINT_STATE_FUTURE)
            return  # not taken as news: it goes stale where it goes on
        if previous is not None and joint_state.stamp_ns <= previous.stamp_ns:
            supervisor.count(Reason.JOINT_STATE_REPEATED)
            return
        self._joint_state, self._confirmed = joint_state, False
        supervisor.saw_joint_state(joint_state.stamp_ns, now_ns)
        if previous is None:
            return
        elapsed = (joint_state.stamp_ns - previous.stamp_ns) * 1e-9
        moved = positions - previous.positions
        furthest = largest(moved)
        jump = self.settings.joint_jump_rad
        jumped = furthest > jump and bool((np.abs(moved) > jump + self._speed * elapsed).any())
        self._confirmed = not jumped and elapsed <= self.settings.joint_state_max_age_s
        if not self._running or self.settings.dry_run:
            return
        if jumped:
            supervisor.stop(Reason.JOINT_STATE_JUMP, now_ns)
        self._check_tracking(positions, now_ns)
        self._check_frozen(furthest, now_ns)
        if any(map(gt, map(abs, efforts.tolist()), self._effort)):
            if self._effort_since == NEVER:
                self._effort_since = now_ns
            if (now_ns - self._effort_since) * 1e-9 >= self.settings.effort_time_s:
                supervisor.stop(Reason.EFFORT, now_ns)
        else:
            self._effort_since = NEVER

    def on_joint_missing(self) -> None:
        """A joint_states message without all of the arm's joints: ignored (a gripper's own, perhaps), but counted."""
        self.supervisor.count(Reason.JOINT_STATE_MISSING)

    def _check_tracking(self, positions: np.ndarray, now_ns: int) -> None:
        allowed = self.settings.tracking_error_rad
        if largest(positions - self.filter.now.position) <= allowed or not self._window:
            self._strikes = 0
            return
        # An arm lags: only what is far from every command of the window is an error.
        commanded = np.array(self._window)
        low, high = commanded.min(axis=0) - allowed, commanded.max(axis=0) + allowed
        if ((positions >= low) & (positions <= high)).all():
            self._strikes = 0
            return
        self._strikes += 1
        if self._strikes >= TRACKING_STRIKES:
            self.supervisor.stop(Reason.TRACKING_ERROR, now_ns)

    def _check_frozen(self, furthest: float, now_ns: int) -> None:
        if furthest > 0.0:
            self._frozen_since = None
            return
        if self._frozen_since is None:
            self._frozen_since = (now_ns, self.filter.now.position)
            return
        since, commanded = self._frozen_since
        moved = largest(self.filter.now.position - commanded)
        if moved > FROZEN_MOTION_RAD and (now_ns - since) * 1e-9 > self.settings.joint_frozen_s:
            self.supervisor.stop(Reason.JOINT_STATE_FROZEN, now_ns)

    def on_residual(self, residual: Residual, now_ns: int) -> np.ndarray:
        """A residual came: what is admitted of its twist, after validation, gain and bounds; zeros if rejected."""
        fault = self._residual_fault(residual, now_ns)
        if fault is Reason.RESIDUAL_REPEATED:
            self.supervisor.count(fault)  # old news: neither a fault nor a sign of life
            return self._zeros.copy()
        if fault is not None:
            self.reject_residual(fault, now_ns)
            return self._zeros.copy()
        self.supervisor.saw_residual(residual.stamp_ns, now_ns, None)
        twist = np.minimum(np.maximum(residual.twist, -self.residual_scale), self.residual_scale)
        self._residual, self._residual_stamp_ns = twist, residual.stamp_ns
        if self.has_gripper and residual.gripper_width is not None and self.arm.gripper is not None:
            gripper = self.arm.gripper
            self._gripper_target = min(max(float(residual.gripper_width), gripper.closed_width), gripper.open_width)
        return self.supervisor.gain * twist

    def as_twist(self, admitted: np.ndarray) -> np.ndarray:
        """What `on_residual` admitted as a twist [6] of the tool; joint velocities through the Jacobian."""
        return self.filter.locate().jacobian @ admitted if self.in_joint_space else admitted

    def reject_residual(self, reason: Reason, now_ns: int) -> None:
        """A residual that could not even be read (wrong frame or type) came: gain to 0."""
        self.supervisor.saw_residual(NEVER, now_ns, reason)
        self._residual = self._zeros
        if reason is not Reason.RESIDUAL_JUMP:
            self._asked = None

    def _residual_fault(self, residual: Residual, now_ns: int) -> Reason | None:
        twist = residual.twist
        if getattr(twist, "shape", None) != self._zeros.shape:
            return Reason.RESIDUAL_SHAPE
        width = residual.gripper_width
        if not np.isfinite(twist).all() or (width is not None and not np.isfinite(width)):
            return Reason.RESIDUAL_NOT_FINITE
        if residual.stamp_ns <= max(self._residual_stamp_ns, self._reset_stamp_ns):
            return Reason.RESIDUAL_REPEATED
        if self._future(residual.stamp_ns, now_ns):
            return Reason.RESIDUAL_FUTURE
        if (np.abs(twist) > self.settings.residual_range * self.residual_scale).any():
            return Reason.RESIDUAL_RANGE
        # Against what was asked for last, even if that was refused: a policy that keeps jumping stays refused.
        before, self._asked = self._asked, np.array(twist, dtype=float)
        if before is not None and (np.abs(twist - before) > self.settings.residual_jump * self.residual_scale).any():
            return Reason.RESIDUAL_JUMP
        return None

    def on_object_pose(self, xyz: np.ndarray, covariance: np.ndarray | None, stamp_ns: int, now_ns: int) -> None:
        """The perceived object [3] m in the base frame, with its covariance [6, 6] where known."""
        if self._percept_rejected(np.asarray(xyz), (3,), stamp_ns, now_ns):
            return
        if stamp_ns <= self._object_stamp_ns:
            self.supervisor.count(Reason.PERCEPT_REPEATED)  # a frozen camera's: no sign of life
            return
        self.object_position, self._object_stamp_ns = np.array(xyz, dtype=float), stamp_ns
        self.supervisor.saw_percept(stamp_ns, now_ns)

    def on_domain_shift(self, shift: float, stamp_ns: int, now_ns: int) -> None:
        """How unlike training the scene is, 0..1.

        Its message has no stamp of its own: where object poses come, they alone say that the camera is alive.
        """
        if self._percept_rejected(np.asarray(shift), (), stamp_ns, now_ns):
            return
        alive = self._object_stamp_ns == NEVER
        self.supervisor.saw_percept(stamp_ns, now_ns, shift=float(shift), alive=alive)

    def _percept_rejected(self, value: np.ndarray, shape: tuple[int, ...], stamp_ns: int, now_ns: int) -> bool:
        if stamp_ns <= self._reset_stamp_ns:
            return True
        if value.shape != shape or not (np.abs(value) <= FARTHEST_M).all():
            self.supervisor.saw_percept(stamp_ns, now_ns, fault=Reason.PERCEPT_BAD)
            return True
        if self._future(stamp_ns, now_ns):
            self.supervisor.count(Reason.PERCEPT_BAD)
            return True
        return False

    def on_goal(self, xyz: np.ndarray) -> None:
        """Where to go [3] m in the base frame; one that is not finite, or far from every arm, is ignored."""
        goal = np.array(xyz, dtype=float)
        if goal.shape == (3,) and (np.abs(goal) <= FARTHEST_M).all():
            self.goal = goal

    def on_heartbeat(self, now_ns: int) -> None:
        """The operator is there."""
        self.supervisor.saw_heartbeat(now_ns)

    def on_episode_reset(self, stamp_ns: int) -> None:
        """A new episode: forget command, residual and percepts; start from the joint states after `stamp_ns`.

        An arm under a forward controller comes to rest first, because nothing else would end what it was told last.
        """
        if self.settings.episode_reset_clears_stop:
            latched = self.supervisor.latched
            for reason in [reason for reason in latched if reason is not Reason.ESTOP]:
                del latched[reason]
        stopping = self._forward and self._running
        self._forget(stamp_ns)
        self._running = stopping

    # --- commands of the operator ------------------------------------------------------------------------------

    def set_residual_gain(self, gain: float) -> None:
        """Change the live parameter `residual_gain` (0..1); the gain follows it, slew-limited."""
        self.supervisor.target_gain = min(max(float(gain), 0.0), 1.0)

    def enable(self) -> tuple[bool, str]:
        """Start from the measured state with residual gain 0."""
        supervisor = self.supervisor
        if supervisor.latched:
            names = ", ".join(reason.value for reason in supervisor.latched)
            return False, f"stopped by {names}; remove the cause and call reset first"
        if supervisor.enabled:
            supervisor.stepping = self.settings.step_by_step
            return True, "enabled already"
        if self._running:
            return False, "still coming to rest; try again"
        supervisor.enabled = True
        supervisor.stepping = self.settings.step_by_step
        supervisor.initialised = False
        return True, "enabled; call step for each action" if supervisor.stepping else "enabled"

    def disable(self) -> tuple[bool, str]:
        """Come to rest, then send nothing."""
        self.supervisor.enabled = False
        self.supervisor.gain = 0.0
        return True, "disabled"

    def estop(self) -> tuple[bool, str]:
        """Decelerated stop, latched until `reset`."""
        self.supervisor.stop(Reason.ESTOP, self._now_ns)
        return True, "stopped; call reset to release"

    def reset(self) -> tuple[bool, str]:
        """Release a latched stop; the controller is DISABLED then."""
        supervisor = self.supervisor
        if not supervisor.latched:
            return True, "not stopped"
        if self._running and not self.filter.resting:
            return False, "still coming to rest; try again"
        supervisor.latched.clear()
        supervisor.enabled = False
        supervisor.initialised = False
        self._running = False
        self._joint_state = None
        # The clock may have gone back: what is stamped before the stop is no measure for what comes after it.
        self._residual_stamp_ns = self._object_stamp_ns = NEVER
        self._residual, self._asked = self._zeros, None
        return True, "released; call enable to go on"

    def step(self) -> tuple[bool, str]:
        """Let the policy act for one action period, then wait for the next `step`; `enable` leaves this mode."""
        if not self.supervisor.enabled or self.supervisor.latched:
            ok, message = self.enable()
            if not ok:
                return ok, message
        self.supervisor.stepping = True
        self.supervisor.allow_one_action(self._now_ns, self._action_s)
        return True, "one action"

    # --- the tick ----------------------------------------------------------------------------------------------

    def tick(self, stamp_ns: int, now_ns: int) -> Command:
        """The command for `stamp_ns`. Never raises; every number in it is finite and inside the limits."""
        try:
            return self._tick(stamp_ns, now_ns)
        except Exception:  # whatever it was, the arm must get its stop; the node logs `last_error`
            self.last_error = traceback.format_exc()
            self.internal_errors += 1
            self.supervisor.stop(Reason.INTERNAL_ERROR, now_ns)
            self._verdict = Verdict(State.STOPPED, tuple(self.supervisor.latched), 0.0, 0.0)
            self._stamp_ns, self._now_ns = stamp_ns, now_ns
            if self._forward and self._running and not self.settings.dry_run:
                self.filter.follow_stop()
                return Command(self.filter.trajectory(stamp_ns))
            return NOTHING  # the trajectory that was sent last ends at rest by itself

    def _tick(self, stamp_ns: int, now_ns: int) -> Command:
        supervisor, safety = self.supervisor, self.filter
        if self._running and self._forward:
            self._advance_one(stamp_ns, now_ns)
        elif self._running and self._advance(stamp_ns, now_ns) == 0 and self._sent:
            # The sender's clock stands still: what was sent goes on, only the watchdogs run.
            if (now_ns - self._now_ns) * 1e-9 > self.settings.clock_jump_s:
                supervisor.stop(Reason.CLOCK_JUMP, now_ns)
                # The arm went on along the stop that it has, whatever our clock says. Were it taken up again from
                # where the clock stood, an arm at rest would be told to jump back into it.
                safety.advance(self._steady_ticks(now_ns))
                self._now_ns = now_ns
            self._verdict = supervisor.tick(stamp_ns, now_ns)
            return NOTHING
        self._stamp_ns, self._now_ns = stamp_ns, now_ns
        waiting = supervisor.enabled and not supervisor.latched and not supervisor.initialised
        if waiting and (not self._running or safety.resting):
            self._initialise(stamp_ns, now_ns)
        self._verdict = verdict = supervisor.tick(stamp_ns, now_ns)
        if not self._running:
            return NOTHING
        if verdict.state is State.STOPPED or verdict.state is State.DISABLED or not supervisor.initialised:
            if safety.resting:
                if verdict.state is State.DISABLED:
                    self._running, supervisor.initialised = False, False
                return NOTHING
            safety.follow_stop()
        elif verdict.state is State.HOLDING:
            safety.follow_stop()
        else:
            here = safety.locate()
            safety.extend(here, self._wanted(here, verdict))
        self._window.append(safety.now.position)
        trajectory = safety.trajectory(stamp_ns)
        self._sent = True
        width = self._gripper(verdict)
        if self.settings.dry_run:
            return NOTHING
        return Command(trajectory, width)

    def _advance_one(self, stamp_ns: int, now_ns: int) -> None:
        """The next step of what was sent; late or missing ticks do not make it longer."""
        self.filter.advance()
        elapsed = stamp_ns - self._stamp_ns
        if elapsed:
            self._moved_ns = now_ns
        if elapsed < 0 or max(elapsed, now_ns - self._moved_ns) > self.settings.clock_jump_s * 1e9:
            self.supervisor.stop(Reason.CLOCK_JUMP, now_ns)

    def _advance(self, stamp_ns: int, now_ns: int) -> int:
        """Follow what was sent up to this tick, late ticks having let the sent stop run; how many ticks that was."""
        elapsed = stamp_ns - self._stamp_ns
        ticks = round(elapsed / self._dt_ns)
        if ticks < 0 or elapsed > self.settings.clock_jump_s * 1e9:
            self.supervisor.stop(Reason.CLOCK_JUMP, now_ns)
            # A clock that went back tells nothing: the arm went on by the steady clock.
            ticks = min(max(ticks, self._steady_ticks(now_ns), 1), MOST_TICKS)
        self.filter.advance(ticks)
        return ticks

    def _steady_ticks(self, now_ns: int) -> int:
        """Ticks since the last one by the steady clock."""
        return min(max(round((now_ns - self._now_ns) / self._dt_ns), 0), MOST_TICKS)

    def _initialise(self, stamp_ns: int, now_ns: int) -> None:
        joint_state = self._joint_state
        # One joint state alone may be anything: a driver's that mixes its joints up once would become a command.
        if joint_state is None or not self._confirmed or max(self.supervisor.joint_state_ages(stamp_ns, now_ns)) > 1.0:
            return
        moving = float(np.max(np.abs(joint_state.velocities))) > STANDING_RAD_S
        self._began_at = joint_state.positions
        self.filter.start(joint_state.positions, joint_state.velocities if moving else None)
        self.base.start(self._situation(self.filter.locate()))
        if self.arm.gripper is not None and np.isfinite(joint_state.gripper_width):
            gripper = self.arm.gripper
            width = min(max(float(joint_state.gripper_width), gripper.closed_width), gripper.open_width)
            self._gripper_width = width
        self.supervisor.initialised = True
        self.supervisor.gain = 0.0
        self._running, self._sent = True, False
        self._moved_ns = self._now_ns
        self._strikes, self._frozen_since, self._effort_since = 0, None, NEVER
        self._window.clear()
        self._window.append(joint_state.positions)

    def _situation(self, here: Located) -> Situation:
        return Situation(
            joints=here.rows[0],
            jacobian=here.jacobian,
            position=here.position,
            rotation=here.rotation,
            object_position=self.object_position,
            goal=self.goal,
            dt=self._dt,
        )

    def _wanted(self, here: Located, verdict: Verdict) -> np.ndarray:
        """Joint velocities [J] rad/s that base controller and residual ask for, inside the limits."""
        situation = self._situation(here)
        residual = verdict.gain * self._residual
        if self.in_joint_space:
            motion = self.base.wanted(situation, situation.jacobian @ residual)
            velocity = self.filter.joint_velocity(here, motion.twist, motion.posture, residual)
        else:
            motion = self.base.wanted(situation, residual)
            velocity = self.filter.joint_velocity(here, motion.twist + residual, motion.posture)
        return verdict.base_scale * velocity

    def _gripper(self, verdict: Verdict) -> float | None:
        """The width to command, moving at most at the gripper's speed; None until the policy asked for one."""
        target, gripper = self._gripper_target, self.arm.gripper
        if target is None or gripper is None or verdict.state is not State.ACTIVE:
            return None
        change = gripper.velocity * self._dt
        width = target if self._gripper_width is None else self._gripper_width
        self._gripper_width = min(max(target, width - change), width + change)
        return self._gripper_width
