"""What the policy saw, for the operator's page: images with their percepts. Subscribes only while a page is open."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, PoseWithCovarianceStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2
from std_msgs.msg import Float32, Header

from rlfp_ros.contract import Contract
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.executor import take
from rlfp_ros.nodes.operator_link import CONTROLLER
from rlfp_ros.nodes.subscriptions import DriverSubscription
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.seen_image import SeenImage
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.perception.image_topics import ImageKind, is_rectified
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

PERCEPTION = "perception"  # name of the node whose images are shown
KEPT = 8  # images that wait for their percepts
UNPERCEIVED_S = 0.4  # after this time an image is shown without a percept
LONGEST_DELAY_S = 60.0  # a larger age by stamp means that the clocks differ
TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/CameraInfo": CameraInfo,
    "sensor_msgs/msg/JointState": JointState,
}


@dataclass(frozen=True)
class ViewedCell:
    """What is needed to draw into images."""

    contract: Contract
    arm: Arm
    kinematics: Kinematics
    T_base_camera: np.ndarray
    optical_frame: str
    image_kind: ImageKind


@dataclass(frozen=True)
class DriverTopics:
    """Names of the drivers' topics, as perception and the controller subscribe to them."""

    image: str
    image_type: str
    camera_info: str
    joint_states: str


@dataclass(frozen=True, eq=False)
class _Waiting:
    message: Any
    received_s: float
    delay_s: float


class ImageFeed:
    """Collects images, features, object pose, domain shift and residual, and gives them to the desk image by image."""

    def __init__(self, node: Node, desk: Desk, wake: Callable[[], None]) -> None:
        """`wake` is called when the desk has a new image."""
        self._node, self._desk, self._wake = node, desk, wake
        self._cell: ViewedCell | None = None
        self._topics: DriverTopics | None = None
        self._subscriptions: list[Any] = []
        self._driver_subscriptions: list[DriverSubscription] = []
        self._joint_states: DriverSubscription | None = None
        self._matcher: decode.JointMatcher | None = None
        self._numbers = count(1)
        self._images: OrderedDict[int, _Waiting] = OrderedDict()
        self._percepts: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._camera_info: CameraInfo | None = None
        self._camera: CameraModel | None = None
        self._shift: float | None = None
        self._residual: np.ndarray | None = None
        self._shown_ns = 0
        self._tool_position: np.ndarray | None = None
        node.create_subscription(PointStamped, m.GOAL.name, self._on_goal, m.LATCHED)

    def use(self, cell: ViewedCell | None) -> None:
        """Take the bundle's and the arm's data; None if they are not known."""
        self._cell = cell
        self._matcher = decode.JointMatcher(cell.arm) if cell else None
        self._camera = None  # made anew of the last camera_info: how it is read may have changed

    @property
    def polled(self) -> tuple[Any, ...]:
        """For the executor: joint states are taken with each image, and do not wake the process 240 times a second."""
        return (self._joint_states.current,) if self._joint_states is not None else ()

    def look(self) -> None:
        """Open or close the subscriptions; call it regularly."""
        if not self._desk.is_watched:
            if self._topics is not None:
                self._close()
            return
        found = self._find_topics()
        if found is not None and found != self._topics:
            self._close()
            self._open(found)
        self._show_unperceived()

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def _find_topics(self) -> DriverTopics | None:
        """Return the topics that perception and the controller subscribe to; None while perception is not there."""
        taken = self._taken_by(PERCEPTION)
        images = [(name, kind) for name, kind in taken if kind.endswith(("/Image", "/CompressedImage"))]
        infos = [name for name, kind in taken if kind.endswith("/CameraInfo")]
        if not images or not infos:
            return None
        gripper = self._node.resolve_topic_name(m.GRIPPER.name)
        joints = [name for name, kind in self._taken_by(CONTROLLER) if kind.endswith("/JointState") and name != gripper]
        return DriverTopics(*sorted(images)[0], infos[0], joints[0] if joints else "")

    def _taken_by(self, name: str) -> list[tuple[str, str]]:
        try:
            found = self._node.get_subscriber_names_and_types_by_node(name, self._node.get_namespace())
        except Exception:  # rclpy.node.NodeNameNonExistentError, RCLError: the node is not there
            return []
        return [(topic, kinds[0]) for topic, kinds in found]

    def _open(self, topics: DriverTopics) -> None:
        node, subscribe = self._node, self._node.create_subscription
        self._topics = topics
        self._subscriptions = [
            subscribe(TYPES[topics.image_type], topics.image, self._on_image, m.CAMERA_SUBSCRIPTION),
            subscribe(PointCloud2, m.FEATURES.name, self._on_features, m.LATEST),
            subscribe(Float32, m.DOMAIN_SHIFT.name, self._on_domain_shift, m.LATEST),
            subscribe(PoseWithCovarianceStamped, m.OBJECT_POSE.name, self._on_object_pose, m.LATEST),
            subscribe(Header, m.PERCEPT.name, self._on_percept, m.LATEST),
            subscribe(TwistStamped, m.RESIDUAL_APPLIED.name, self._on_residual, m.LATEST),
        ]
        info = DriverSubscription(
            node, CameraInfo, topics.camera_info, self._on_camera_info, m.CAMERA_SUBSCRIPTION, keeps_latched=True
        )
        self._driver_subscriptions = [info]
        if topics.joint_states:
            self._joint_states = DriverSubscription(
                node, JointState, topics.joint_states, lambda _: None, m.JOINT_STATES_LATEST
            )
            self._driver_subscriptions.append(self._joint_states)

    def _close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for driver in self._driver_subscriptions:
            driver.destroy()
        self._subscriptions, self._driver_subscriptions = [], []
        self._joint_states = self._topics = self._residual = None
        self._images.clear()
        self._percepts.clear()

    # --- messages ----------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        delay = (self._node.get_clock().now().nanoseconds - stamp) * 1e-9
        known = delay if 0.0 <= delay <= LONGEST_DELAY_S else 0.0
        self._images[stamp] = _Waiting(message, time.monotonic(), known)
        while len(self._images) > KEPT:
            self._images.popitem(last=False)
        self._show_if_whole(stamp)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info, self._camera = message, None

    def _on_features(self, message: PointCloud2) -> None:
        self._percept_of(decode.stamp_ns(message.header.stamp))["features"] = decode.features_from_message(message)

    def _on_domain_shift(self, message: Float32) -> None:
        self._shift = decode.domain_shift_from_message(message)

    def _on_object_pose(self, message: PoseWithCovarianceStamped) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        pose, covariance = decode.object_pose_from_message(message, message.header.frame_id)
        percept = self._percept_of(stamp)
        percept["object_position"], percept["object_covariance"] = pose[:3], covariance[:3, :3]
        self._percept_ends(stamp)

    def _on_percept(self, message: Header) -> None:
        self._percept_ends(decode.stamp_ns(message.stamp))

    def _on_residual(self, message: TwistStamped) -> None:
        self._residual = decode.twist_from_message(message, message.header.frame_id)[:3]

    def _on_goal(self, message: PointStamped) -> None:
        cell = self._cell
        if cell is None:
            return
        frames = cell.arm.base_frame, cell.optical_frame
        self._desk.on_goal(decode.goal_from_message(message, *frames, cell.T_base_camera))

    def _percept_of(self, stamp: int) -> dict[str, Any]:
        percept = self._percepts.setdefault(stamp, {})
        while len(self._percepts) > KEPT:
            self._percepts.popitem(last=False)
        return percept

    def _percept_ends(self, stamp: int) -> None:
        """Handle the last message about an image."""
        percept = self._percept_of(stamp)
        shift, self._shift = self._shift, None
        percept["domain_shift"] = shift if shift is not None and math.isfinite(shift) else None
        percept["whole"] = True
        self._show_if_whole(stamp)

    # --- images ------------------------------------------------------------------------------------------------------

    def _show_if_whole(self, stamp: int) -> None:
        percept = self._percepts.get(stamp)
        if stamp in self._images and percept is not None and percept.get("whole"):
            del self._percepts[stamp], percept["whole"]
            self._show(stamp, percept, perceived=True)

    def _show_unperceived(self) -> None:
        """Show the newest image although perception does not work on it."""
        if not self._images:
            return
        stamp, waiting = next(reversed(self._images.items()))
        if time.monotonic() - waiting.received_s > UNPERCEIVED_S:
            self._show(stamp, {}, perceived=False)

    def _show(self, stamp: int, percept: dict[str, Any], perceived: bool) -> None:
        camera = self._current_camera()
        waiting = self._images.pop(stamp)
        if camera is None or (stamp <= self._shown_ns and stamp > self._shown_ns - 10**9):
            return
        self._shown_ns = stamp
        try:
            image = self._image_of(waiting.message)
        except ConfigurationError:
            return  # perception reports it
        cell = self._cell
        if cell is None:
            percept = {"features": percept.get("features"), "domain_shift": percept.get("domain_shift")}
        self._desk.on_image(
            SeenImage(
                number=next(self._numbers),
                stamp_ns=stamp,
                received_s=waiting.received_s,
                delay_s=waiting.delay_s,
                image=image,
                camera=camera,
                T_base_camera=cell.T_base_camera if cell else np.eye(4),
                goal=self._desk.goal if cell else None,
                tool=self._tool(),
                residual=self._residual if cell else None,
                perceived=perceived,
                **percept,
            )
        )
        self._wake()

    def _image_of(self, message: Image | CompressedImage) -> np.ndarray | bytes:
        if isinstance(message, CompressedImage) and bytes(message.data[:2]) == b"\xff\xd8":
            return bytes(message.data)  # it is a JPEG already
        return decode.image_from_message(message)

    def _current_camera(self) -> CameraModel | None:
        if self._camera_info is not None and self._camera is None:
            rectified = is_rectified(self._topics.image if self._topics else "", self._kind())
            try:
                self._camera = camera_model(self._camera_info, m.CAMERA_INFO.name, rectified)
            except ConfigurationError:
                self._camera_info = None  # perception reports it
        return self._camera

    def _kind(self) -> ImageKind:
        return self._cell.image_kind if self._cell else "auto"

    def _tool(self) -> np.ndarray | None:
        """Return the tool's place now, [3] m in the base frame."""
        if self._joint_states is None or self._cell is None or self._matcher is None:
            return None
        taken = take(self._joint_states.current)
        try:
            if taken is not None:
                self._tool_position = self._cell.kinematics.tool_position(self._matcher(taken[0]).positions)
        except ConfigurationError:
            return None  # another driver's joints
        return self._tool_position
