"""`checklist`: checks drivers and graph before an arm moves, and reports problems on `safety/checklist`.

The residual controller enables the arm only while this list is green. A list that is not green is logged. While the arm
is enabled, this node does not subscribe to frequent topics, to leave the processor to the controller.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import Float32, Header, String

from rlfp_ros.commissioning.checklist import Checklist, ChecklistSettings, CommandTaker, Flow
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes import spin
from rlfp_ros.nodes.diagnostics import Diagnostics, Level, Report, status_name
from rlfp_ros.nodes.parameters import declare
from rlfp_ros.nodes.subscriptions import DriverSubscription
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

PERIOD_S = 0.5  # between two lists
QUIET_S = 4.0  # after the start, while the other nodes start, a list that is not green is not logged
# Nodes that subscribe to commands without moving anything.
LISTENERS = ("recorder", "live_recorder", "observer", "operator")


class ChecklistNodeSettings(ChecklistSettings):
    """Parameters of this node."""

    bundle: str = Field(description="policy bundle: a folder, or the name of one in models/")
    arm: str = Field(
        default="", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle"
    )
    extrinsics: str = Field(
        default="",
        description="calibration file with T_base_camera; bundle: the bundle's pose is right; empty: not known",
    )
    output: Literal["joint_trajectory", "forward_position", "forward_velocity"] = Field(
        default="joint_trajectory", description="what the arm's controller takes"
    )


class ChecklistNode(Node):
    """Passes messages to `commissioning.checklist.Checklist` and publishes its report."""

    def __init__(self) -> None:
        super().__init__("checklist")
        self._settings = settings = declare(self, ChecklistNodeSettings)
        bundle = load_bundle(settings.bundle)
        contract, arm = bundle.contract, choose_arm(bundle, settings.arm, self.get_logger().info)
        self._matcher = decode.JointMatcher(arm, self.resolve_topic_name(arm.topics.joint_states))
        name, self._command_type = m.command_topic(settings.output, arm)
        self._command_topic = self.resolve_topic_name(name)
        self._checklist = Checklist(contract, arm, settings, settings.extrinsics, self._command_topic)
        self._checklist.joint_states.topic = self._matcher.topic
        self._perception_at = 0.0
        self._enabled, self._state = False, State.DISABLED
        self._said, self._started = "", time.monotonic()

        self._publisher = self.create_publisher(m.CHECKLIST.type, m.CHECKLIST.name, m.CHECKLIST.qos)
        self.create_subscription(DiagnosticArray, m.DIAGNOSTICS.name, self._on_diagnostics, m.DIAGNOSTICS.qos)
        self.create_subscription(String, m.SAFETY_STATE.name, self._on_safety_state, m.LATCHED)
        self._joint_states_topic = arm.topics.joint_states
        self._frequent: list[Any] = []
        self._joint_states: DriverSubscription | None = None
        self._listen()
        self.diagnostics = Diagnostics(self, self._report, hardware_id=arm.name)
        self.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self) -> None:
        """Subscribe to the frequent topics."""
        checklist = self._checklist
        self._joint_states = DriverSubscription(
            self, JointState, self._joint_states_topic, self._on_joint_states, m.JOINT_STATES_LATEST
        )
        self._frequent = [
            self._follow(PointCloud2, m.FEATURES.name, checklist.features),
            self._follow(TwistStamped, m.RESIDUAL.name, checklist.residual),
            self._follow(Header, m.HEARTBEAT.name, checklist.heartbeat),
            self.create_subscription(Float32, m.DOMAIN_SHIFT.name, self._on_domain_shift, m.LATEST),
        ]

    def _follow(self, message_type: Any, topic: str, flow: Flow) -> Any:
        flow.topic = self.resolve_topic_name(topic)

        def saw(data: bytes) -> None:
            self._saw(flow, decode.serialised_stamp_ns(data))

        return self.create_subscription(message_type, topic, saw, m.LATEST, raw=True)

    def _saw(self, flow: Flow, stamp_ns: int) -> None:
        flow.saw(stamp_ns, time.monotonic_ns(), self.get_clock().now().nanoseconds)

    def _on_joint_states(self, message: JointState) -> None:
        try:
            joints = self._matcher(message)
        except ConfigurationError as error:
            self._checklist.joints_fault = str(error)  # maybe another driver's joints; the arm's may come too
            return
        self._checklist.joints = joints
        self._saw(self._checklist.joint_states, joints.stamp_ns)

    def _on_domain_shift(self, message: Float32) -> None:
        self._checklist.shift = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        namespace = self.get_namespace()
        for status in message.status:
            fault = "" if status.level == DiagnosticStatus.OK else status.message
            if status.name == status_name(namespace, "perception"):
                self._perception_at = time.monotonic()
                values = {value.key: value.value for value in status.values}
                self._checklist.perception = fault
                self._checklist.camera = values.get("preprocessing", "")
            elif status.name == status_name(namespace, "policy"):
                self._checklist.policy = fault
            elif status.name == status_name(namespace, "arm_driver"):
                # A warm motor is a warning, and no reason to refuse.
                self._checklist.driver = fault if status.level == DiagnosticStatus.ERROR else ""

    def _on_safety_state(self, message: String) -> None:
        heard = SafetyState.from_json(message.data)
        was_enabled, self._enabled, self._state = self._enabled, heard.enabled, heard.state
        if self._enabled and not was_enabled:
            for subscription in self._frequent:
                self.destroy_subscription(subscription)
            if self._joint_states is not None:
                self._joint_states.destroy()
        elif was_enabled and not self._enabled:
            self._listen()

    def _look_at_command_topic(self) -> CommandTaker:
        takers, other_type = [], ""
        for info in self.get_subscriptions_info_by_topic(self._command_topic):
            if info.node_name in LISTENERS:
                continue
            if info.topic_type != self._command_type:
                other_type = info.topic_type
            elif (
                info.qos_profile.durability != DurabilityPolicy.TRANSIENT_LOCAL
            ):  # such a subscription would get no messages
                takers.append(info.node_name)
        controller = status_name(self.get_namespace(), "residual_controller")  # another robot's is a stranger too
        senders = [
            status_name(info.node_namespace, info.node_name)
            for info in self.get_publishers_info_by_topic(self._command_topic)
        ]
        strangers = [name for name in senders if name != controller]
        return CommandTaker(tuple(sorted(takers)), tuple(sorted(strangers)), other_type)

    def _on_timer(self) -> None:
        if self._enabled:
            return
        checklist = self._checklist
        checklist.command = self._look_at_command_topic()
        if time.monotonic() - self._perception_at > 3.0:
            checklist.camera = checklist.perception = ""
        report = checklist.report(time.monotonic_ns())
        self._publisher.publish(String(data=report.model_dump_json()))
        key = str([(line.name, line.ok) for line in report.lines])
        quiet = not report.ready and time.monotonic() - self._started < QUIET_S
        if key == self._said or quiet or self._state is not State.DISABLED:
            return
        self._said = key
        red = sum(not line.ok for line in report.lines)
        verdict = "all green, the arm may be enabled" if report.ready else f"{red} of {len(report.lines)} not green"
        lines = [f"  {'[ok]' if line.ok else '[--]'} {line}" for line in report.lines]
        self.get_logger().info("\n".join([f"checklist: {verdict}", *lines]))

    def _report(self) -> Report:
        if self._enabled:
            return Report(Level.OK, "enabled")
        report = self._checklist.report(time.monotonic_ns())
        return Report(Level.OK, "green") if report.ready else Report(Level.WARN, report.refusal)


def main() -> None:
    """Entry point of the executable `checklist`."""
    sys.exit(spin.run(ChecklistNode))


if __name__ == "__main__":
    main()
