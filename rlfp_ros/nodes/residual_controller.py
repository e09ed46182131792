"""The safety node: turns residual, joints and percepts into one short trajectory per tick. Does not use images.

There are two modes. `timer`: a steady timer, for arms; the ticks' stamps are on a `TickTimeline` that follows the
node's clock. `joint_states`: one tick per joint state, with its stamp, for simulation and lock step; ages are then
measured by stamps.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, PoseWithCovarianceStamped, TwistStamped
from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float32, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.actions import action_of
from rlfp_ros.control.complete_residual import CompleteResiduals
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.safety.publisher_watch import Publishing
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.takeover import Jog
from rlfp_ros.control.safety.verdict import POLICY_FAULTS, Answer, Reason, State
from rlfp_ros.control.tick_timeline import TickTimeline
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Phase
from rlfp_ros.nodes import messages, spin
from rlfp_ros.nodes.arm_output import ArmOutput
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.checklist_gate import ChecklistGate
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report, Streams
from rlfp_ros.nodes.garbage import Garbage
from rlfp_ros.nodes.parameters import declare
from rlfp_ros.nodes.publisher_guard import PublisherGuard
from rlfp_ros.nodes.subscriptions import DriverSubscription
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError


class ResidualControllerSettings(ControllerSettings):
    """Parameters of this node: those of the controller, and the files to load."""

    bundle: str = Field(description="policy bundle: a folder, or the name of one in models/")
    arm: str = Field(
        default="", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle"
    )
    optical_frame: str = Field(
        default="camera_optical_frame", description="frame in which goals are taken besides the base's"
    )
    extrinsics: str = Field(
        default="", description="YAML file with T_base_camera, for goals in the optical frame; empty: the bundle's"
    )
    require_checklist: bool = Field(
        default=False, description="enable only while safety/checklist is green; the real arm's graph sets it"
    )


class ResidualControllerNode(Node):
    """Messages to arrays and back around `control.residual_controller.ResidualController`."""

    def __init__(self, **options: Any) -> None:
        """`options` go to rclpy's Node (tests give it a context of its own)."""
        super().__init__("residual_controller", **options)
        self.settings = settings = declare(self, ResidualControllerSettings, self._on_parameters)
        bundle = load_bundle(settings.bundle)
        contract = bundle.contract
        self.arm = arm = choose_arm(bundle, settings.arm, self.get_logger().info)
        self.controller = ResidualController(arm, contract, settings)
        self._action = contract.action
        self._finds_object = contract.encoder.finds_object
        self._shift: float | None = None  # domain shift that waits for the stamp of its image
        self._tells_actions = contract.policy.past_actions > 0
        self._T_base_camera = load_extrinsics(settings.extrinsics, contract.camera)
        self._joints = decode.JointMatcher(arm, str(self.resolve_topic_name(arm.topics.joint_states)))
        self._residual_topic = str(self.resolve_topic_name(messages.RESIDUAL.name))
        self._jog_topic = str(self.resolve_topic_name(messages.JOG.name))
        self._heartbeat_topic = str(self.resolve_topic_name(messages.HEARTBEAT.name))
        self._lock_step = settings.tick_on == "joint_states"
        self._stamp_now = 0  # lock step: stamp of the newest joint state
        self._residuals = CompleteResiduals(self.controller.has_gripper, waits_for_percepts=self._lock_step)
        self._timeline = TickTimeline(settings.control_rate_hz, settings.clock_jump_s)
        self._published_state = self._detail = ""
        self._errors_logged = 0
        self._ticks, self._periods = Durations(), Durations()
        self._garbage = Garbage()
        self._last_tick = 0.0
        self._leaving = False

        self.streams = Streams(self)
        self._open_publishers(settings)
        self._open_subscriptions()
        controller = self.controller
        for name, command, moves in (
            ("enable", controller.enable, True),
            ("step", controller.step, True),
            ("disable", controller.disable, False),
            ("estop", controller.estop, False),
            ("reset", controller.reset, False),
        ):
            self.create_service(Trigger, f"~/{name}", self._service(name, command, moves))
        self.diagnostics = Diagnostics(self, self._report, hardware_id=arm.name)
        if not self._lock_step:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self.create_timer(1.0 / settings.control_rate_hz, self._on_timer, clock=steady)
        self._open_guard()
        self._attendance = Attendance(self)
        self._publish_state(0)

    def _open_publishers(self, settings: ResidualControllerSettings) -> None:
        self._output = ArmOutput(self, self.arm, settings, self.controller.has_gripper)
        self._applied = self._publisher(messages.RESIDUAL_APPLIED)
        self._action_applied = self._publisher(messages.ACTION_APPLIED) if self._tells_actions else None
        self._state = self._publisher(messages.SAFETY_STATE)

    def _publisher(self, topic: messages.Topic) -> Any:
        return self.create_publisher(topic.type, topic.name, topic.qos)

    def _open_subscriptions(self) -> None:
        with_object, without = (messages.OBJECT_POSE, self._on_object_pose), (messages.PERCEPT, self._on_percept)
        # If several messages wait, callbacks run in this order: the inputs of a tick come before the joint states.
        subscriptions: tuple[tuple[messages.Topic, Any], ...] = (
            (messages.ESTOP, self._on_estop),
            (messages.EPISODE, self._on_episode),
            (messages.HEARTBEAT, self._on_heartbeat),
            (messages.JOG, self._on_jog),
            (messages.GOAL, self._on_goal),
            (messages.DOMAIN_SHIFT, self._on_domain_shift),
            with_object if self._finds_object else without,
            (messages.GRIPPER, self._on_gripper),
            (messages.JOINT_RESIDUAL if self.controller.in_joint_space else messages.RESIDUAL, self._on_residual),
        )
        for topic, callback in subscriptions:
            qos, events = topic.qos, None
            if qos.deadline == messages.DEADLINE:  # only the newest message of a stream is used
                qos, events = messages.STREAM, self.streams.watch(topic.name)
            self.create_subscription(topic.type, topic.name, callback, qos, event_callbacks=events)
        DriverSubscription(
            self, JointState, self.arm.topics.joint_states, self._on_joint_states, messages.JOINT_STATES_LATEST
        )
        self._gate = ChecklistGate(self) if self.settings.require_checklist else None

    def _open_guard(self) -> None:
        topics = {
            self._output.topic: Publishing.OURS,
            self._residual_topic: Publishing.INPUT,
            self._jog_topic: Publishing.INPUT,
            self._joints.topic: Publishing.SHARED,
        }
        if self.settings.require_heartbeat:
            topics[self._heartbeat_topic] = Publishing.INPUT
        self._guard = PublisherGuard(self, topics, lambda: self.controller.supervisor.moves)

    # --- inputs ------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        """Return the time by which inputs age: the steady clock, or in lock step the newest stamp."""
        if self._lock_step:
            return self._stamp_now
        # If this process did not run for a while, the last tick is old, also in simulated time: /clock was read late.
        self.controller.on_sender_clock(self.get_clock().now().nanoseconds)
        return time.monotonic_ns()

    def _reached_stamp(self) -> int:
        """Return the present of the ticks' stamps, for messages without a stamp."""
        return self._stamp_now if self._lock_step else self._timeline.reached(time.monotonic_ns())

    def _on_parameters(self, settings: ResidualControllerSettings) -> None:
        self.controller.set_residual_gain(settings.residual_gain)

    def _on_joint_states(self, message: JointState) -> None:
        try:
            joint_state = self._joints(message)
        except ConfigurationError as error:
            # Another driver's joints (a gripper's own, perhaps). If they are the arm's, their age will stop the arm.
            self.controller.on_joint_missing()
            self._guard.heard(self._joints.topic, ",".join(message.name))
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        if self._lock_step:
            self._stamp_now = joint_state.stamp_ns
        self.controller.on_joint_state(joint_state, self._now())
        if self._lock_step:
            self._tick(joint_state.stamp_ns)

    def _on_residual(self, message: TwistStamped | JointTrajectory) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        self._guard.heard(self._residual_topic)
        try:
            if self.controller.in_joint_space:
                twist = decode.joint_velocities_from_message(message, self.arm.joint_names)
            else:
                twist = decode.twist_from_message(message, self.arm.base_frame)
        except ConfigurationError as error:
            self.controller.on_unreadable_residual(self._now())
            self._publish_applied(Residual(stamp, np.zeros_like(self.controller.residual_scale)))
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self._admit(self._residuals.saw_residual(Residual(stamp, twist), self._reached_stamp()))

    def _on_gripper(self, message: JointState) -> None:
        stamp, width = decode.gripper_from_message(message)
        self._admit(self._residuals.saw_gripper(stamp, width, self._reached_stamp()))

    def _admit(self, residuals: list[Residual]) -> None:
        for residual in residuals:
            self._publish_applied(self.controller.admit(residual, self._now()))

    def _publish_applied(self, admitted: Residual) -> None:
        """Publish the admitted part of a residual."""
        if self._action_applied is not None:
            action = action_of(admitted, self._action, self.arm.joint_names)
            self._action_applied.publish(messages.action_message(admitted.stamp_ns, action, self._action.components))
        twist = self.controller.as_twist(admitted.twist)
        self._applied.publish(messages.twist_message(admitted.stamp_ns, twist, self.arm.base_frame))

    def _on_object_pose(self, message: PoseWithCovarianceStamped) -> None:
        pose, covariance = decode.object_pose_from_message(message, self.arm.base_frame)
        stamp = decode.stamp_ns(message.header.stamp)
        self.controller.on_object_pose(pose[:3], covariance, stamp, self._now())
        self._admit(self._residuals.saw_percept(stamp, self._reached_stamp()))

    def _on_domain_shift(self, message: Float32) -> None:
        if self._finds_object:
            self.controller.on_domain_shift(message.data, self._reached_stamp(), self._now())
        else:
            self._shift = message.data

    def _on_percept(self, message: Header) -> None:
        stamp = decode.stamp_ns(message.stamp)
        if self._shift is not None:
            self.controller.on_scene(self._shift, stamp, self._now())
            self._shift = None
        self._admit(self._residuals.saw_percept(stamp, self._reached_stamp()))

    def _on_goal(self, message: PointStamped) -> None:
        frames = self.arm.base_frame, self.settings.optical_frame
        self.controller.on_goal(decode.goal_from_message(message, *frames, self._T_base_camera))

    def _on_heartbeat(self, message: Header) -> None:
        self.controller.on_heartbeat(self._now(), message.frame_id)
        if self.settings.require_heartbeat:
            self._guard.heard(self._heartbeat_topic)

    def _on_jog(self, message: String) -> None:
        self._guard.heard(self._jog_topic)
        try:
            jog = Jog.from_json(message.data)
        except ConfigurationError as error:
            self.controller.on_jog(None, self._now())
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self.controller.on_jog(jog, self._now())

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self.controller.estop()
            self.get_logger().warning("e-stop")

    def _on_episode(self, message: String) -> None:
        episode = decode.episode_from_message(message)
        if episode.phase is Phase.RESET:
            self.controller.on_episode_reset(episode.stamp)
            self._shift = None
            self._residuals.begin_episode(episode.stamp)
            self._output.begin_episode()
        self._attendance.on_episode(episode)

    def _refusal(self) -> str:
        """Return why the arm may not be enabled now; empty if it may, or if it is enabled."""
        return "" if self._gate is None or self.controller.supervisor.enabled else self._gate.refusal

    def _service(self, name: str, command: Callable[[], Answer], moves: bool) -> Any:
        def call(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            supervisor = self.controller.supervisor
            refusal = self._refusal() if moves and not supervisor.latched else ""
            if moves and not supervisor.enabled:
                self._guard.accept()
            response.success, response.message = Answer(False, f"not enabled: {refusal}") if refusal else command()
            self.get_logger().info(f"{name}: {response.message}")
            return response

        return call

    # --- ticks -------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._tick(self._timeline.tick(time.monotonic_ns(), self.get_clock().now().nanoseconds))

    def _tick(self, stamp: int) -> None:
        started = time.perf_counter()
        if self._last_tick:
            self._periods.add(started - self._last_tick)
        self._last_tick = started
        if sentence := self._guard.take_fault():
            self.controller.on_additional_publisher(self._now())
            self._detail = sentence
            self.get_logger().error(sentence)
        command = self.controller.tick(stamp, self._now())
        self._output.send(command, stamp)
        self._publish_state(stamp)
        self._ticks.add(time.perf_counter() - started)
        self._garbage.collect(self.controller.at_rest, started)
        if self.controller.internal_errors > self._errors_logged:
            self._errors_logged = self.controller.internal_errors
            self.get_logger().error(f"internal error, the arm stops: {self.controller.last_error}")
        if self._leaving and self.controller.at_rest:
            self._output.finish()
            raise spin.Finished

    def destroy_node(self) -> None:
        """End the thread that looks at the publishers, and the node."""
        self._guard.close()
        super().destroy_node()

    def rest_before_leaving(self) -> None:
        """Let SIGINT and SIGTERM end the process only after the arm is at rest.

        For forward controllers, which continue with their last command; rclpy's own handlers would close the topics at
        once. Call it in the main thread.
        """
        uninstall_signal_handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._leaving = True
        self.controller.disable()

    # --- state and diagnostics --------------------------------------------------------------------------------

    def _publish_state(self, stamp: int) -> None:
        """Publish the state if it or its reasons changed, and when the gain reaches or leaves 0 and 1."""
        controller = self.controller
        reasons = [reason.value for reason in controller.reasons]
        key = f"{controller.state.value} {reasons} {int(controller.gain == 0)} {int(controller.gain == 1)}"
        if key == self._published_state:
            return
        self._published_state = key
        if Reason.TRACKING_ERROR in controller.reasons and controller.stands_still:
            self.get_logger().error(
                f"the arm did not move when it was told to: nothing carries out {self._output.topic}; "
                "activate the controller (ros2 control list_controllers), release brakes and protective stops"
            )
        state = SafetyState(
            state=controller.state,
            reasons=tuple(reasons),
            gain=controller.gain,
            stamp=stamp,
            detail=self._detail if Reason.ADDITIONAL_PUBLISHER in controller.reasons else "",
        )
        self._state.publish(String(data=state.to_json()))

    def _report(self) -> Report:
        controller = self.controller
        reasons = ", ".join(reason.value for reason in controller.reasons)
        level = Level.OK
        if controller.state is State.STOPPED:
            level = Level.ERROR
        elif controller.state is State.HOLDING or (POLICY_FAULTS | {Reason.INPUT_LATE}).intersection(
            controller.reasons
        ):
            level = Level.WARN
        values: dict[str, object] = dict(controller.diagnostics())
        values |= self._ticks.values("tick") | self._periods.values("period") | self.streams.values()
        return Report(level, f"{controller.state.value}{': ' if reasons else ''}{reasons}", values)


def _build() -> ResidualControllerNode:
    gc.disable()  # `spin.run` freezes what exists after the start; the node collects the rest between ticks
    node = ResidualControllerNode()
    if node.settings.output != "joint_trajectory":
        node.rest_before_leaving()
    return node


def main() -> None:
    """Entry point of the executable `residual_controller`."""
    sys.exit(spin.run(_build, priority=30))


if __name__ == "__main__":
    main()
