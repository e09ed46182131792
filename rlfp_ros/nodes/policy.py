"""The policy node: features, joints and goal in, one residual (and gripper width) per frame out, with its stamp."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from pydantic import Field
from rclpy.node import Node
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import String

from rlfp_ros.contract import load_bundle
from rlfp_ros.control import arm as arms
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Phase
from rlfp_ros.nodes import messages, parameters, spin
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report, Streams
from rlfp_ros.nodes.executor import take
from rlfp_ros.nodes.joint_history import JointHistory
from rlfp_ros.nodes.subscriptions import DriverSubscription
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError, Schema

SILENT_S = 1.0  # without features for this long, diagnostics warn


class PolicySettings(Schema):
    """Parameters of the policy node."""

    bundle: str = Field(description="policy bundle: a folder, or the name of one in models/")
    arm: str = Field(
        default="", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle"
    )
    extrinsics: str = Field(
        default="", description="YAML file with T_base_camera, for goals in the optical frame; empty: the bundle's"
    )
    history_s: float = Field(default=1.0, ge=0.1, le=10.0, description="joint states kept to look up, s")
    joint_max_age_s: float = Field(
        default=0.1, gt=0.0, le=1.0, description="age of the joint state at the image's stamp that is still used, s"
    )
    lock_step: bool = Field(
        default=False,
        description="wait for the controller's answer to the last action before the next decision, so that the same "
        "seed gives the same episode; only for simulation in lock step",
    )


@dataclass(frozen=True)
class _Frame:
    stamp_ns: int
    features: np.ndarray
    optical_frame: str


def receive_golden(
    joint_state: arms.JointState, arm: arms.Arm, matcher: Callable[[JointState], arms.JointState]
) -> arms.JointState:
    """Pass golden joints through a message in another order than the arm's, as drivers send them, and `matcher`."""
    message = messages.joint_state_message(joint_state, arm)
    for field in ("name", "position", "velocity", "effort"):
        setattr(message, field, getattr(message, field)[::-1])
    return matcher(message)


class PolicyNode(Node):
    """Messages to arrays and back around `control.policy.Policy`.

    The joints for an image are those at its time of exposure, not the newest, so that the observation does not depend
    on the duration of perception, in simulation and on hardware.
    """

    def __init__(self) -> None:
        super().__init__("policy")
        self._settings = parameters.declare(self, PolicySettings)
        bundle = load_bundle(self._settings.bundle)
        self._contract = bundle.contract
        self._arm = choose_arm(bundle, self._settings.arm, self.get_logger().info)
        self._policy = Policy(bundle, self._arm)
        self._T_base_camera = load_extrinsics(self._settings.extrinsics, self._contract.camera)
        self._features_shape = tuple(self._contract.encoder.outputs["features"][1:])
        self._matcher = decode.JointMatcher(self._arm)
        # Uses the node's own messages, and runs ONNX Runtime once, because its first run is several times slower.
        self._policy.rehearse(bundle.golden_frames(), lambda state: receive_golden(state, self._arm, self._matcher))

        self._history = JointHistory(self._matcher, self._settings.history_s, self._settings.joint_max_age_s)
        self._pending: _Frame | None = None  # features newer than every joint state, or waiting for the controller
        self._answered: Residual | None = None  # answer to the newest frame
        self._applied_stamp_ns = -1  # image of the newest message on action_applied
        self._reset_stamp_ns = -1  # stamps up to this one belong to the previous episode
        self._goal_message: PointStamped | None = None
        self._goal_checked: tuple[PointStamped, str] | None = None
        self._goal: np.ndarray | None = None
        self._fault = ""
        self._goal_fault = ""
        self._skipped = 0
        self._acting, self._transfer = Durations(), Durations()
        self._last_features_at = time.monotonic()

        self.streams = Streams(self)
        self._in_joint_space = self._contract.action.kind == "joint_velocity"
        self._residual = self._publisher(messages.JOINT_RESIDUAL if self._in_joint_space else messages.RESIDUAL)
        self._gripper = self._publisher(messages.GRIPPER)
        self.diagnostics = Diagnostics(self, self._report, hardware_id=self._contract.name)
        self._joint_states = DriverSubscription(
            self, JointState, messages.JOINT_STATES.name, self._on_joint_state, messages.JOINT_STATES_HISTORY, raw=True
        )
        self._applied: Any = None
        if self._policy.observes_past_actions:
            applied = messages.ACTION_APPLIED
            self._applied = self.create_subscription(applied.type, applied.name, self._on_applied, applied.qos)
        self.create_subscription(String, messages.EPISODE.name, self._on_episode, messages.EPISODE.qos)
        self.create_subscription(PointStamped, messages.GOAL.name, self._on_goal, messages.LATCHED)
        features = messages.FEATURES
        events = self.streams.watch(features.name)
        self.create_subscription(features.type, features.name, self._on_features, features.qos, event_callbacks=events)
        self._attendance = Attendance(self)
        self.get_logger().info(f"bundle {self._contract.name} on arm {self._arm.name}")

    def _publisher(self, topic: messages.Topic) -> Any:
        return self.create_publisher(topic.type, topic.name, topic.qos)

    # ---- subscriptions ----

    @property
    def polled(self) -> tuple[Any, ...]:
        """Subscriptions for the executor: these are read with the next features and wake this node only if needed."""
        if self._pending is not None:
            return ()
        return (self._joint_states.current,) if self._applied is None else (self._joint_states.current, self._applied)

    def _on_joint_state(self, message: bytes) -> None:
        stamp = decode.serialised_stamp_ns(message)
        if stamp <= self._reset_stamp_ns:
            return
        if not self._history.add(stamp, message):
            return
        self._act_if_possible()

    def _on_applied(self, message: JointState) -> None:
        self._remember_applied(message)
        self._act_if_possible()

    def _remember_applied(self, message: JointState) -> None:
        try:
            stamp, action = decode.action_from_message(message, self._contract.action.components)
        except ConfigurationError as error:
            self._log_fault(str(error))
            return
        if stamp > self._reset_stamp_ns:
            self._policy.saw_applied(stamp, action)
            self._applied_stamp_ns = max(self._applied_stamp_ns, stamp)

    def _on_features(self, message: PointCloud2, info: dict[str, Any]) -> None:
        self._last_features_at = time.monotonic()
        self._transfer.add(max(0, info["received_timestamp"] - info["source_timestamp"]) * 1e-9)
        stamp = decode.stamp_ns(message.header.stamp)
        if stamp <= self._reset_stamp_ns:
            return
        if self._answered is not None and stamp == self._answered.stamp_ns:
            self._publish(self._answered)  # the sender missed the answer; it is still the same frame
            return
        try:
            features = decode.features_from_message(message)
            if features.shape != self._features_shape:
                raise ConfigurationError(
                    f"topic {messages.FEATURES.name}: features are {list(features.shape)}, expected "
                    f"{list(self._features_shape)}; give perception and policy the same bundle"
                )
        except ConfigurationError as error:
            self._log_fault(str(error))
            return
        frame = _Frame(stamp, features, message.header.frame_id)
        while (taken := take(self._joint_states.current)) is not None:
            self._on_joint_state(taken[0])
        self._skipped += self._pending is not None
        self._pending = frame
        self._act_if_possible()

    def _act_if_possible(self) -> None:
        """Answer the waiting frame if the joints at its time are known, and in lock step the last admitted action."""
        frame = self._pending
        if frame is None or not self._history.reaches(frame.stamp_ns):
            return
        while self._applied is not None and (taken := take(self._applied)) is not None:
            self._remember_applied(taken[0])
        answered_ns = -1 if self._answered is None else self._answered.stamp_ns
        if self._applied is not None and self._settings.lock_step and self._applied_stamp_ns < answered_ns:
            return
        self._pending = None
        self._act(frame)

    def _on_goal(self, message: PointStamped) -> None:
        self._goal_message = message
        if self._contract.goal == "none":
            self._goal_fault = f"a goal was received, but bundle {self._contract.name} takes none; it is ignored"
            self.get_logger().warn(self._goal_fault)

    def _on_episode(self, message: String) -> None:
        episode = decode.episode_from_message(message)
        if episode.phase is Phase.RESET:
            self._policy.reset()
            self._history.clear()
            self._pending = self._answered = None
            self._applied_stamp_ns = -1
            self._reset_stamp_ns = episode.stamp
        self._attendance.on_episode(episode)

    # ---- acting ----

    def _act(self, frame: _Frame) -> None:
        began = time.monotonic()
        try:
            joints = self._history.at(frame.stamp_ns)
            residual = self._policy.act(frame.features, joints, frame.stamp_ns, self._goal_for(frame.optical_frame))
        except ConfigurationError as error:
            self._skipped += 1
            self._log_fault(str(error))
            return
        self._fault = ""
        self._answered = residual
        self._publish(residual)
        self._acting.add(time.monotonic() - began)

    def _publish(self, residual: Residual) -> None:
        if residual.gripper_width is not None:
            # Published first, so that the controller has it when the residual with the same stamp comes.
            self._gripper.publish(messages.gripper_message(residual.stamp_ns, residual.gripper_width, self._arm))
        if self._in_joint_space:
            self._residual.publish(messages.joint_residual_message(residual, self._arm.joint_names))
        else:
            self._residual.publish(messages.residual_message(residual, self._arm.base_frame))

    def _goal_for(self, optical_frame: str) -> np.ndarray | None:
        if self._goal_message is None or self._contract.goal == "none":
            return None
        if self._goal_checked != (self._goal_message, optical_frame):
            self._goal_checked = (self._goal_message, optical_frame)
            try:
                self._goal = decode.goal_from_message(
                    self._goal_message, self._arm.base_frame, optical_frame, self._T_base_camera
                )
                self._goal_fault = ""
            except ConfigurationError as error:
                self._goal = None
                self._goal_fault = str(error)
                self.get_logger().error(self._goal_fault)
        return self._goal

    def _log_fault(self, sentence: str) -> None:
        if sentence != self._fault:
            self.get_logger().error(sentence, throttle_duration_sec=1.0)
        self._fault = sentence

    def _report(self) -> Report:
        values = {
            **self._acting.values("acting"),
            **self._transfer.values("transfer"),
            **self.streams.values(),
            "skipped": self._skipped,
            "joint_states_kept": len(self._history),
        }
        if self._fault:
            return Report(Level.ERROR, self._fault, values)
        if self._goal_fault:
            return Report(Level.WARN, self._goal_fault, values)
        if time.monotonic() - self._last_features_at > SILENT_S:
            return Report(Level.WARN, f"no features on {self.resolve_topic_name(messages.FEATURES.name)}", values)
        if self._pending is not None and not self._history:
            return Report(
                Level.WARN, f"no joint states on {self.resolve_topic_name(messages.JOINT_STATES.name)}", values
            )
        return Report(Level.OK, "running", values)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(PolicyNode, arguments, priority=20)


if __name__ == "__main__":
    sys.exit(main())
