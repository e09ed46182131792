"""`perception`: images in, features, object pose and domain shift out, all stamped with the image's time."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float32, String

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.nodes import messages, parameters, spin
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report
from rlfp_ros.nodes.executor import take
from rlfp_ros.nodes.joint_history import JointHistory
from rlfp_ros.nodes.messages import CAMERA_SUBSCRIPTION
from rlfp_ros.nodes.subscriptions import DriverSubscription
from rlfp_ros.perception import images, overlay
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.perception.encoder import Percept, Perception
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.perception.image_topics import ImageKind, is_rectified
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError, Schema

LOOK_FOR_PUBLISHERS_S = 0.5  # between checks of the image topics' publishers
SILENT_S = 1.0  # without an image for this long, diagnostics warn
RATE_TOLERANCE = 0.2  # how far the camera's rate may be from the bundle's before diagnostics warn


class PerceptionSettings(Schema):
    """Parameters of the perception node."""

    bundle: str = Field(description="policy bundle: a folder, or the name of one in models/")
    extrinsics: str = Field(
        default="", description="YAML file with T_base_camera of the calibrated camera; empty: the bundle's"
    )
    arm: str = Field(
        default="", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle"
    )
    history_s: float = Field(default=1.0, ge=0.1, le=10.0, description="joint states kept to look up, s")
    joint_max_age_s: float = Field(
        default=0.1, gt=0.0, le=1.0, description="age of the joint state at the image's stamp that is still used, s"
    )
    image_transport: Literal["auto", "raw", "compressed"] = Field(
        default="auto", description="which images to take; auto: raw if it is published, else compressed"
    )
    image_kind: ImageKind = Field(
        default="auto",
        description="whether images still show the lens (raw), or image_proc has removed it (rectified) and p of "
        "camera_info describes them; auto: rectified if the topic is named image_rect...",
    )


@dataclass(frozen=True)
class _Seen:
    message: Image | CompressedImage
    percept: Percept
    began: float  # time.monotonic()


class PerceptionNode(Node):
    """Turns each image into features, domain shift and, if the bundle's encoder finds the object, its pose."""

    def __init__(self) -> None:
        super().__init__("perception")
        settings = parameters.declare(self, PerceptionSettings)
        cv2.setNumThreads(1)
        bundle = load_bundle(settings.bundle)
        self._contract = bundle.contract
        self._T_base_camera = load_extrinsics(settings.extrinsics, self._contract.camera)
        arm = choose_arm(bundle, settings.arm)
        self._perception = Perception(bundle, arm)
        # This also runs ONNX Runtime once, because its first run is slower. Images are in OpenCV's colour order.
        self._perception.rehearse(
            bundle.golden_frames(),
            lambda image: images.from_raw(
                "bgr8", image.shape[0], image.shape[1], image.strides[0], image[..., ::-1].tobytes(), "golden.npz"
            ),
        )

        self._transport = settings.image_transport
        self._raw_topic, self._compressed_topic = messages.image_topics(self)
        self._rectified = is_rectified(self._raw_topic, settings.image_kind)
        self._camera: CameraModel | None = None  # None until a camera_info fits
        self._camera_info: CameraInfo | None = None
        self._waiting: Image | CompressedImage | None = None  # the newest image that came before its camera_info
        self._preprocessing = ""  # description of the preprocessing; empty until a camera fits
        self._camera_fault = ""
        self._image_fault = ""
        self._discarded = 0
        self._processing, self._transfer = Durations(), Durations()
        self._stamps: deque[int] = deque(maxlen=31)
        self._last_image_at = time.monotonic()
        self._shift = 0.0
        self._history = JointHistory(decode.JointMatcher(arm), settings.history_s, settings.joint_max_age_s)
        self._pending: _Seen | None = None  # a percept that is newer than every joint state
        self._joints_fault = ""

        self._features = self._publisher(messages.FEATURES)
        finds_object = self._contract.encoder.finds_object
        self._object_pose = self._publisher(messages.OBJECT_POSE) if finds_object else None
        self._percept = None if finds_object else self._publisher(messages.PERCEPT)
        self._domain_shift = self._publisher(messages.DOMAIN_SHIFT)
        self._overlay = self._publisher(messages.OVERLAY)
        self.diagnostics = Diagnostics(self, self._report, hardware_id=self._contract.name)
        DriverSubscription(
            self, CameraInfo, messages.CAMERA_INFO.name, self._on_camera_info, CAMERA_SUBSCRIPTION, keeps_latched=True
        )
        self._joint_states: DriverSubscription | None = None  # only if the domain-shift score depends on the joints
        if self._perception.uses_joints:
            self._joint_states = DriverSubscription(
                self,
                JointState,
                messages.JOINT_STATES.name,
                self._on_joint_state,
                messages.JOINT_STATES_HISTORY,
                raw=True,
            )
        self._image_subscription: Any = None
        self._choose_transport()
        self.create_timer(LOOK_FOR_PUBLISHERS_S, self._choose_transport, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_subscription(String, messages.EPISODE.name, self._on_episode, messages.EPISODE.qos)
        self._attendance = Attendance(self)
        self.get_logger().info(f"bundle {self._contract.name}; images convert with {images.cv_bridge_status()}")

    def _publisher(self, topic: messages.Topic) -> Any:
        return self.create_publisher(topic.type, topic.name, topic.qos)

    # ---- subscriptions ----

    @property
    def polled(self) -> tuple[Any, ...]:
        """For the executor: joints are taken with the next image, and wake this node only if a percept waits."""
        return (self._joint_states.current,) if self._joint_states is not None and self._pending is None else ()

    def _choose_transport(self) -> None:
        if self._transport == "auto":
            if self._image_subscription is not None and self._image_subscription.get_publisher_count() > 0:
                return
            only_compressed = not self.count_publishers(self._raw_topic) and self.count_publishers(
                self._compressed_topic
            )
            kind = "compressed" if only_compressed else "raw"
        else:
            kind = self._transport
        name, message_type, callback = {
            "raw": (self._raw_topic, Image, self._on_image),
            "compressed": (self._compressed_topic, CompressedImage, self._on_image),
        }[kind]
        if self._image_subscription is not None:
            if self._image_subscription.msg_type is message_type:
                return
            self.destroy_subscription(self._image_subscription)
        self._image_subscription = self.create_subscription(message_type, name, callback, CAMERA_SUBSCRIPTION)

    def _on_episode(self, message: String) -> None:
        self._attendance.on_episode(decode.episode_from_message(message))  # it keeps no state of an episode

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._camera_info is not None and _same_camera(message, self._camera_info):
            return
        self._camera_info = message
        self._camera = None
        topic = self.resolve_topic_name(messages.CAMERA_INFO.name)
        try:
            camera = camera_model(message, topic, self._rectified)
            self._perception.use_camera(camera, f"topic {topic}")
        except ConfigurationError as error:
            if str(error) != self._camera_fault:
                self._camera_fault = str(error)
                self.get_logger().error(self._camera_fault)
                self.diagnostics.publish()
            return
        recovered = bool(self._camera_fault)
        self._camera, self._camera_fault = camera, ""
        description = ("rectified, " if self._rectified else "") + self._perception.preprocessing
        if recovered or description != self._preprocessing:
            self._preprocessing = description
            self.get_logger().info(f"camera fits the bundle: {description}")
        if self._waiting is not None:
            held, self._waiting = self._waiting, None
            self._see(held, time.monotonic())

    def _on_image(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        now = time.monotonic()
        self._last_image_at = now
        self._transfer.add(max(0, info["received_timestamp"] - info["source_timestamp"]) * 1e-9)
        self._stamps.append(decode.stamp_ns(message.header.stamp))
        if self._camera is None:
            self._discarded += self._waiting is not None or bool(self._camera_fault)
            self._waiting = None if self._camera_fault else message
            return
        self._see(message, now)

    def _see(self, message: Image | CompressedImage, began: float) -> None:
        camera = self._camera
        assert camera is not None
        try:
            image = decode.image_from_message(message, self._image_subscription.topic_name)
            percept = self._perception(image, camera, f"topic {self._image_subscription.topic_name}")
        except ConfigurationError as error:
            self._discarded += 1
            if self._image_fault != str(error):
                self._image_fault = str(error)
                self.get_logger().error(self._image_fault)
                self.diagnostics.publish()
            return
        self._image_fault = ""
        if self._pending is not None:
            held, self._pending = self._pending, None
            self._judge(held)  # no joint state came since its image
        self._publish_features(message, percept)
        seen = _Seen(message, percept, began)
        if self._joint_states is not None:
            while (taken := take(self._joint_states.current)) is not None:
                self._on_joint_state(taken[0])
            if not self._history.reaches(decode.stamp_ns(message.header.stamp)):
                self._pending = seen
                return
        self._judge(seen)

    def _on_joint_state(self, message: bytes) -> None:
        self._history.add(decode.serialised_stamp_ns(message), message)
        if self._pending is not None and self._history.reaches(decode.stamp_ns(self._pending.message.header.stamp)):
            held, self._pending = self._pending, None
            self._judge(held)

    def _judge(self, seen: _Seen) -> None:
        """Judge the domain shift with the joints at the image's time, and publish what was seen."""
        percept = seen.percept
        if self._joint_states is not None:
            try:
                joints = self._history.at(decode.stamp_ns(seen.message.header.stamp))
                percept = self._perception.judged_with(percept, joints.positions)
                self._joints_fault = ""
            except ConfigurationError as error:
                if not self._joints_fault:
                    self.get_logger().warn(f"{error}; until then the domain shift is judged by the images alone")
                self._joints_fault = str(error)
        self._publish_percept(seen.message, percept)
        self._processing.add(time.monotonic() - seen.began)
        self._shift = percept.domain_shift
        if self._overlay.get_subscription_count():
            self._publish_overlay(seen.message, percept)

    # ---- publications ----

    def _publish_features(self, message: Image | CompressedImage, percept: Percept) -> None:
        # At once, because the policy waits for them.
        stamp = decode.stamp_ns(message.header.stamp)
        self._features.publish(messages.features_message(stamp, percept.features, message.header.frame_id))

    def _publish_percept(self, message: Image | CompressedImage, percept: Percept) -> None:
        # The message with a stamp comes last: the controller takes it for the whole percept.
        stamp = decode.stamp_ns(message.header.stamp)
        self._domain_shift.publish(Float32(data=float(percept.domain_shift)))
        if self._object_pose is None:
            assert self._percept is not None
            self._percept.publish(messages.header_message(stamp, message.header.frame_id))
            return
        found = percept.in_base(self._T_base_camera)
        pose = np.concatenate([found.position, found.orientation])
        base_frame = self._contract.arm.base_frame
        self._object_pose.publish(messages.object_pose_message(stamp, pose, found.covariance, base_frame))

    def _publish_overlay(self, message: Image | CompressedImage, percept: Percept) -> None:
        intrinsics = self._contract.camera.intrinsics
        drawn = overlay.draw(percept.image, intrinsics, percept.features, percept.object_pose, percept.domain_shift)
        stamp = decode.stamp_ns(message.header.stamp)
        self._overlay.publish(messages.image_message(stamp, drawn, message.header.frame_id))

    def _report(self) -> Report:
        values = {
            **self._processing.values("processing"),
            **self._transfer.values("transfer"),
            "discarded": self._discarded,
            "camera_rate_hz": self._camera_rate_hz(),
            "domain_shift": self._shift,
            "preprocessing": self._preprocessing,
            "transport": "raw" if self._image_subscription.msg_type is Image else "compressed",
        }
        if self._camera_fault or self._image_fault:
            return Report(Level.ERROR, self._camera_fault or self._image_fault, values)
        if time.monotonic() - self._last_image_at > SILENT_S:
            return Report(Level.WARN, f"no image on {self._image_subscription.topic_name}", values)
        if self._camera is None:
            name = self.resolve_topic_name(messages.CAMERA_INFO.name)
            return Report(Level.WARN, f"images come, but no camera_info on {name}", values)
        if self._joints_fault:
            return Report(Level.WARN, f"the domain shift is judged by the images alone: {self._joints_fault}", values)
        rate, expected = self._camera_rate_hz(), self._contract.camera.rate_hz
        if len(self._stamps) == self._stamps.maxlen and abs(rate - expected) > RATE_TOLERANCE * expected:
            return Report(Level.WARN, f"the camera runs at {rate:.1f} Hz, but the bundle's at {expected:g} Hz", values)
        return Report(Level.OK, "running", values)

    def _camera_rate_hz(self) -> float:
        """The rate by stamps, also valid if simulation is faster or slower than real time; 0 if not known."""
        gaps = np.diff(np.array(self._stamps, dtype=np.int64))
        gaps = gaps[gaps > 0]
        return 1e9 / float(np.median(gaps)) if len(gaps) else 0.0


def _same_camera(a: CameraInfo, b: CameraInfo) -> bool:
    return (
        (a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.header.frame_id)
        == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.header.frame_id)
        and np.array_equal(a.k, b.k)
        and np.array_equal(a.p, b.p)
        and a.d == b.d
        and a.roi == b.roi
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(PerceptionNode, arguments, priority=10)


if __name__ == "__main__":
    sys.exit(main())
