"""The residual controller: sends base controller + gain * residual through the safety filter.

ROS-free and deterministic: the node and the training environment call the same class. Time comes in as integers,
`stamp_ns` from the senders' clock and `now_ns` from the steady clock (in lock step the same numbers); only their
differences matter.
"""

from __future__ import annotations

import traceback

import numpy as np

from rlfp_ros.contract import Contract
from rlfp_ros.control.action_and_base import ActionAndBase, check_arm
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.base_controllers.base_controller import (
    Situation,
    check_follows,
    choose_base_controller,
    make_base_controller,
)
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.gripper_motion import GripperMotion
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.admission import JointStateAdmission, ResidualAdmission, near_enough
from rlfp_ros.control.safety.filter import SafetyFilter
from rlfp_ros.control.safety.motion import Located
from rlfp_ros.control.safety.percept_inputs import PerceptInputs
from rlfp_ros.control.safety.robot_watch import RobotWatch
from rlfp_ros.control.safety.sent_motion import SentMotion
from rlfp_ros.control.safety.supervisor import Supervisor
from rlfp_ros.control.safety.takeover import Jog, JogAdmission
from rlfp_ros.control.safety.tick_clock import NEVER, TickClock
from rlfp_ros.control.safety.verdict import Answer, Reason, State, Verdict
from rlfp_ros.control.trajectory import NOTHING, Command, Residual
from rlfp_ros.control.wanted_motion import WantedMotion

__all__ = ["Command", "ControllerSettings", "Reason", "ResidualController", "State"]


class ResidualController:
    """The controller of one arm under one policy.

    Call the `on_*` methods on inputs, and `tick` once every 1 / control_rate_hz. Only the constructor raises. Later
    errors are latched as `internal_error` and kept in `last_error`, and the arm follows the stop that was sent.

    Attributes
    ----------
    residual_scale
        Bounds of the residual: [6] m/s and rad/s, or [J] rad/s if the policy acts `in_joint_space`.
    goal
        [3] m in the base frame, or None.

    Raises
    ------
    ConfigurationError
        If arm, contract and settings do not fit together.
    """

    def __init__(self, arm: Arm, contract: ActionAndBase, settings: ControllerSettings | None = None) -> None:
        self.arm = arm
        self.settings = settings = settings or ControllerSettings()
        check_arm(contract, arm)
        base = choose_base_controller(contract.base_controller, settings)
        if isinstance(contract, Contract):
            check_follows(contract.model_copy(update={"base_controller": base}), "bundle.yaml")
        self.kinematics = Kinematics(arm)
        self.filter = SafetyFilter(arm, self.kinematics, settings)
        self.supervisor = Supervisor(settings)
        self.base = make_base_controller(base.name, dict(base.parameters), arm, settings)
        self.set_residual_gain(settings.residual_gain)
        scale: dict[str, float] = dict(zip(contract.action.components, contract.action.scale, strict=True))
        self.in_joint_space = contract.action.kind == "joint_velocity"
        self._motion_wanted = WantedMotion(self.base, base.name, arm, settings, self.filter, self.in_joint_space)
        axes = contract.action.axes(arm.joint_names)
        self.residual_scale = np.array([scale.get(name, 0.0) for name in axes])
        self.has_gripper = "gripper" in scale
        self._action_s = 1.0 / contract.action.rate_hz
        self._dt = 1.0 / settings.control_rate_hz
        self._zeros = np.zeros(len(axes))
        self._zeros.setflags(write=False)
        self._clock = TickClock(settings)
        self._motion = SentMotion(self.filter, self._clock, forward=settings.output != "joint_trajectory")
        self._joints = JointStateAdmission(arm, settings, self._clock)
        self._residuals = ResidualAdmission(self.residual_scale, settings, self._clock)
        self._percepts = PerceptInputs(self.supervisor, self._clock)
        self._jogs = JogAdmission(arm, settings, self._clock)
        self._watch = RobotWatch(arm, settings)
        self._gripper = GripperMotion(arm.gripper, self._dt) if arm.gripper is not None else None
        self.last_error = ""
        self.internal_errors = 0
        self.goal: np.ndarray | None = None
        self._verdict = Verdict(State.DISABLED, (Reason.NOT_ENABLED,), 0.0, 0.0)
        self._begin_episode(NEVER)

    def _begin_episode(self, stamp_ns: int) -> None:
        self.supervisor.begin_episode()
        for admission in (self._joints, self._residuals, self._percepts, self._jogs):
            admission.begin_episode(stamp_ns)
        self._watch.forget()
        if self._gripper is not None:
            self._gripper.forget()
        self._residual = self._zeros

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state after the last tick or command."""
        return self._verdict.state

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The reasons why the arm is not fully active; empty if it is."""
        return self._verdict.reasons

    @property
    def gain(self) -> float:
        """Share of the residual that acts, 0..1."""
        return self._verdict.gain

    @property
    def commanded(self) -> np.ndarray:
        """Joint positions [J] rad commanded for the last tick's stamp."""
        return self.filter.position

    @property
    def at_rest(self) -> bool:
        """Whether nothing that was sent still moves the arm."""
        return self._motion.at_rest

    @property
    def object_stamp_ns(self) -> int:
        """Stamp of the newest object pose that was taken."""
        return self._percepts.admission.object_stamp_ns

    @property
    def object_position(self) -> np.ndarray | None:
        """[3] m in the base frame, of the last accepted percept; None before there is one."""
        return self._percepts.object_position

    @property
    def stands_still(self) -> bool:
        """Whether the arm has not moved since its motion began: with a tracking error, commands are not executed."""
        newest = self._joints.newest
        return newest is not None and self._watch.stands_still(newest.positions)

    def diagnostics(self) -> dict[str, str | int | float]:
        """Return names and values for /diagnostics."""
        return {
            "state": self.state.value,
            "reasons": ",".join(reason.value for reason in self.reasons),
            "gain": self.gain,
            "base_scale": self._verdict.base_scale,
            "internal_errors": self.internal_errors,
            "dry_run": int(self.settings.dry_run),
            **self.filter.diagnostics(),
            **{f"fault_{reason.value}": count for reason, count in self.supervisor.counts.items()},
        }

    # --- inputs ------------------------------------------------------------------------------------------------

    def on_sender_clock(self, stamp_ns: int) -> None:
        """Record the senders' clock when an input comes. For callers whose ticks may be late."""
        self._clock.sender_ns = stamp_ns

    def on_joint_state(self, joint_state: JointState, now_ns: int) -> None:
        """Accept measured joints and compare them with the command. A robot fault latches a stop."""
        supervisor = self.supervisor
        decision, furthest, jumped = self._joints.judge(joint_state, now_ns)
        reason = decision.fault or decision.counted
        if reason is not None:
            supervisor.count(reason)
        if decision.fault is not None and self._motion.running:
            supervisor.stop(decision.fault, now_ns)
        if not decision.take:
            return
        supervisor.saw_joint_state(joint_state.stamp_ns, now_ns)
        if furthest is None or not self._motion.running or self.settings.dry_run:
            return
        if jumped:
            supervisor.stop(Reason.JOINT_STATE_JUMP, now_ns)
        for reason in self._watch.measured(joint_state, furthest, self.filter.position, now_ns):
            supervisor.stop(reason, now_ns)

    def on_joint_missing(self) -> None:
        """Count a joint_states message without all of the arm's joints; it may be a gripper's own."""
        self.supervisor.count(Reason.JOINT_STATE_MISSING)

    def on_residual(self, residual: Residual, now_ns: int) -> np.ndarray:
        """Accept a residual. Return it after validation, gain and bounds; zeros if it is rejected."""
        return self.admit(residual, now_ns).twist

    def admit(self, residual: Residual, now_ns: int) -> Residual:
        """Accept a residual. Return its admitted part: zeros and no gripper width if it is rejected."""
        decision = self._residuals.judge(residual, now_ns)
        if decision.counted is not None:
            self.supervisor.count(decision.counted)
        if decision.fault is not None:
            self._reject_residual(decision.fault, now_ns)
        if not decision.take:
            return Residual(residual.stamp_ns, self._zeros.copy())
        self.supervisor.saw_residual(residual.stamp_ns, now_ns, None)
        self._residual = np.minimum(np.maximum(residual.twist, -self.residual_scale), self.residual_scale)
        width = residual.gripper_width
        if self.has_gripper and self._gripper is not None and width is not None:
            if self.supervisor.person_has_arm:
                width = self._gripper.target
            else:
                self._gripper.ask(width)
        person = self.supervisor.person_acts
        acts = self._motion_wanted.as_residual(self._jogs.twist) if person else self._residual
        return Residual(residual.stamp_ns, self.supervisor.gain * acts, width)

    def as_twist(self, admitted: np.ndarray) -> np.ndarray:
        """Convert the result of `on_residual` to a tool twist [6]; joint velocities go through the Jacobian."""
        return self.filter.locate().jacobian @ admitted if self.in_joint_space else admitted

    def on_unreadable_residual(self, now_ns: int) -> None:
        """Handle a residual that could not be decoded (wrong frame or width): the gain goes to 0."""
        self._residuals.unreadable()
        self._reject_residual(Reason.RESIDUAL_SHAPE, now_ns)

    def _reject_residual(self, reason: Reason, now_ns: int) -> None:
        self.supervisor.saw_residual(NEVER, now_ns, reason)
        self._residual = self._zeros

    def on_object_pose(self, xyz: np.ndarray, covariance: np.ndarray | None, stamp_ns: int, now_ns: int) -> None:
        """Accept the perceived object position [3] m in the base frame, with its covariance [6, 6] if known."""
        self._percepts.on_object(xyz, stamp_ns, now_ns)

    def on_domain_shift(self, shift: float, stamp_ns: int, now_ns: int) -> None:
        """Accept the domain shift, 0..1.

        Its message has no stamp of its own: if object poses come, they alone show that the camera is alive.
        """
        self._percepts.on_shift(shift, stamp_ns, now_ns)

    def on_scene(self, shift: float, stamp_ns: int, now_ns: int) -> None:
        """Accept the percept of an image from a perception that does not find the object: its domain shift, 0..1.

        Its stamp is the image's, so it shows that the camera is alive, as an object pose does.
        """
        self._percepts.on_scene(shift, stamp_ns, now_ns)

    def on_goal(self, xyz: np.ndarray) -> None:
        """Accept a goal [3] m in the base frame. A goal that is not finite, or out of any arm's reach, is ignored."""
        goal = np.array(xyz, dtype=float)
        if near_enough(goal, (3,)):
            self.goal = goal

    def on_heartbeat(self, now_ns: int, lease: str = "") -> None:
        """Accept the operator's heartbeat; `lease` names the operator's place that it came from."""
        self.supervisor.saw_heartbeat(now_ns, lease)

    def on_jog(self, jog: Jog | None, now_ns: int) -> None:
        """Accept a person's velocity for the tool; None if it could not be read. Nothing but a fresh one acts."""
        refusal: Reason | None = Reason.JOG_BAD
        if jog is not None:
            refusal = self._jogs.refusal(jog, *self.supervisor.allows_jog(jog.lease, now_ns), now_ns)
        self.supervisor.saw_jog(refusal, now_ns)

    def on_additional_publisher(self, now_ns: int) -> None:
        """Stop the arm, because another node began to send what moves it."""
        self.supervisor.stop(Reason.ADDITIONAL_PUBLISHER, now_ns)

    def on_episode_reset(self, stamp_ns: int) -> None:
        """Begin a new episode: forget command, residual and percepts; start from the joint states after `stamp_ns`.

        An arm under a forward controller comes to rest first, because such a controller keeps the last command.
        """
        if not self._motion.forward:
            self._motion.end()
        self._begin_episode(stamp_ns)

    # --- commands of the operator ------------------------------------------------------------------------------

    def set_residual_gain(self, gain: float) -> None:
        """Change the live parameter `residual_gain` (0..1); the gain follows it, slew-limited.

        It stays 0 if the settings name a base controller that moves the arm alone.
        """
        self.supervisor.set_target_gain(0.0 if self.settings.base_controller else gain)

    def enable(self) -> Answer:
        """Start from the measured state with residual gain 0."""
        return self.supervisor.enable(not self._motion.running, self._clock.now_ns)

    def disable(self) -> Answer:
        """Come to rest, then send nothing."""
        return self.supervisor.disable()

    def estop(self) -> Answer:
        """Decelerated stop, latched until `reset`."""
        return self.supervisor.estop(self._clock.now_ns)

    def reset(self) -> Answer:
        """Release a latched stop; the controller is DISABLED then."""
        stopped = bool(self.supervisor.latched)
        answer = self.supervisor.reset(self.at_rest)
        if stopped and answer.ok:
            self._motion.end()
            # The clock may have jumped back, so earlier stamps cannot be compared with those after the stop.
            for admission in (self._joints, self._residuals, self._percepts.admission, self._jogs):
                admission.forget()
            self._residual = self._zeros
        return answer

    def step(self) -> Answer:
        """Let the policy act for one action period, then wait for the next `step`; `enable` leaves this mode."""
        return self.supervisor.step(not self._motion.running, self._clock.now_ns, self._action_s)

    # --- the tick ----------------------------------------------------------------------------------------------

    def tick(self, stamp_ns: int, now_ns: int) -> Command:
        """Return the command for `stamp_ns`. Never raises; every number in it is finite and inside the limits."""
        try:
            return self._tick(stamp_ns, now_ns)
        except Exception:  # the arm must stop after any error; the node logs `last_error`
            self.last_error = traceback.format_exc()
            self.internal_errors += 1
            self._verdict = self.supervisor.fail(now_ns)
            self._clock.ticked(stamp_ns, now_ns)
            if self._motion.forward and self._motion.running and not self.settings.dry_run:
                self.filter.follow_stop()
                return Command(self._motion.trajectory(stamp_ns))
            return NOTHING  # the last trajectory sent ends at rest

    def _tick(self, stamp_ns: int, now_ns: int) -> Command:
        supervisor, safety, motion = self.supervisor, self.filter, self._motion
        if motion.running:
            paused, jumped = motion.advance(stamp_ns, now_ns)
            if jumped:
                supervisor.stop(Reason.CLOCK_JUMP, now_ns)
            if paused:
                self._verdict = supervisor.tick(stamp_ns, now_ns)
                return NOTHING
        self._clock.ticked(stamp_ns, now_ns)
        if supervisor.waits_for_start and motion.at_rest:
            self._start(stamp_ns, now_ns)
        self._verdict = verdict = supervisor.tick(stamp_ns, now_ns)
        if not motion.running:
            return NOTHING
        if verdict.state is State.STOPPED or verdict.state is State.DISABLED or not supervisor.initialised:
            if safety.resting:
                if verdict.state is State.DISABLED:
                    motion.end()
                    supervisor.end_motion()
                return NOTHING
            safety.follow_stop()
        elif verdict.state is State.HOLDING:
            safety.follow_stop()
        else:
            here = safety.locate()
            safety.extend(here, self._wanted(here, verdict))
        self._watch.commanded(safety.position)
        trajectory = motion.trajectory(stamp_ns)
        width = self._gripper.tick() if self._gripper is not None and verdict.state is State.ACTIVE else None
        if self.settings.dry_run:
            return NOTHING
        return Command(trajectory, width)

    def _start(self, stamp_ns: int, now_ns: int) -> None:
        """Begin a motion at the measured joints, if they are confirmed and fresh."""
        joint_state = self._joints.newest
        if joint_state is None or not self._joints.confirmed:
            return
        if max(self.supervisor.joint_state_ages(stamp_ns, now_ns)) > 1.0:
            return
        self._motion.begin(joint_state)
        self.base.start(self._situation(self.filter.locate()))
        if self._gripper is not None:
            self._gripper.start(joint_state.gripper_width)
        self.supervisor.begin_motion()
        self._watch.start(joint_state.positions)

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
        """Return the wanted joint velocities [J] rad/s, inside the limits."""
        person = self.supervisor.person_acts
        residual = verdict.gain * (self._jogs.twist if person else self._residual)
        return verdict.base_scale * self._motion_wanted.velocity(here, self._situation(here), residual, person)
