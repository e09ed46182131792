"""The graph's topics, their quality of service, and the conversion of arrays to ROS 2 messages.

The other direction, messages -> arrays, is `rlfp_ros.recording.decode`, which nodes and the tools that read bags share.
Numbers keep their type: float64 stays float64 (joints, residual, trajectory) and float32
stays float32 (features), so that the graph and the in-process loop agree bit for bit. Arrays go through `array.array`:
rclpy checks any other sequence element by element (77 ms for a VGA image).
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration as DurationMessage
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped, PoseWithCovarianceStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Bool, Float32, Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlfp_ros.control import arm as arms
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.control.workspace import CameraInfoFile
from rlfp_ros.episode import Episode, Ready
from rlfp_ros.recording import topics
from rlfp_ros.recording.decode import FLOAT32, LATENT_FIELDS, NANOSECONDS, POINT_FIELDS

# ---- topics -----------------------------------------------------------------------------------------------------


def qos(depth: int, reliable: bool = True, latched: bool = False, **policies: Any) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        **policies,
    )


DEADLINE = Duration(seconds=0.1)  # three periods of the camera
LEASE = Duration(seconds=1.0)  # liveliness lease, which DDS renews as long as the process lives


# Camera publishers are reliable (REP-2003). Several images are kept for the recorder, which subscribes reliably.
CAMERA_PUBLISHER = qos(5)
# Our own image subscriptions: only the newest image is worth an inference, and best effort matches every driver.
CAMERA_SUBSCRIPTION = qos(1, reliable=False)
LATEST = qos(1)  # reliable, only the newest: gripper, commands
# Our own nodes' topics at the camera's rate: DDS reports if one stops. A subscription with deadline and lease does not
# match a publisher without them, so drivers' topics have neither.
_ALIVE: dict[str, Any] = {
    "deadline": DEADLINE,
    "liveliness": LivelinessPolicy.AUTOMATIC,
    "liveliness_lease_duration": LEASE,
}
STREAM = qos(1, **_ALIVE)  # features, object pose, shift; and every subscription of ours to such a topic
STREAM_QUEUE = qos(10, **_ALIVE)  # residuals: the recorder needs them all
LATCHED = qos(1, latched=True)  # a late joiner gets the last value: goal, safety/state
BEST_EFFORT = qos(1, reliable=False)  # overlay
# Also latched; deeper because the end of an episode, the next reset and its start may come within a millisecond.
EPISODES = qos(10, latched=True)
PRESENCE = qos(20, latched=True)  # latched by each node; a subscription gets one message per node
EVENTS = qos(10)  # none may be lost: episode/ready, e-stop, diagnostics
# Joint states: the controller wants the newest. A publisher keeps some, because the policy and the recorder need all:
# the policy looks up the joints at the image's stamp, and a missing one would make lock step depend on the scheduler.
JOINT_STATES_PUBLISHER = qos(32)
JOINT_STATES_LATEST = qos(1)
JOINT_STATES_HISTORY = qos(256)  # a little more than 1 s at 240 Hz


@dataclass(frozen=True)
class Topic:
    """A topic of the graph: relative name, message type, and the publisher's quality of service."""

    name: str
    type: Any
    qos: QoSProfile


IMAGE = Topic(topics.IMAGE, Image, CAMERA_PUBLISHER)
IMAGE_COMPRESSED = Topic(topics.IMAGE_COMPRESSED, CompressedImage, CAMERA_PUBLISHER)
CAMERA_INFO = Topic(topics.CAMERA_INFO, CameraInfo, CAMERA_PUBLISHER)
JOINT_STATES = Topic(topics.JOINT_STATES, JointState, JOINT_STATES_PUBLISHER)
CLOCK = Topic(topics.CLOCK, Clock, BEST_EFFORT)
FEATURES = Topic(topics.FEATURES, PointCloud2, STREAM)
OBJECT_POSE = Topic(topics.OBJECT_POSE, PoseWithCovarianceStamped, STREAM)
DOMAIN_SHIFT = Topic(topics.DOMAIN_SHIFT, Float32, STREAM)
# From a perception without object pose: the stamp of the image whose domain shift was published just before.
PERCEPT = Topic(topics.PERCEPT, Header, STREAM)
OVERLAY = Topic(topics.OVERLAY, Image, BEST_EFFORT)
GOAL = Topic(topics.GOAL, PointStamped, LATCHED)
RESIDUAL = Topic(topics.RESIDUAL, TwistStamped, STREAM_QUEUE)
JOINT_RESIDUAL = Topic(topics.RESIDUAL, JointTrajectory, STREAM_QUEUE)  # if the bundle's action is joint_velocity
GRIPPER = Topic(topics.GRIPPER, JointState, LATEST)
RESIDUAL_APPLIED = Topic(topics.RESIDUAL_APPLIED, TwistStamped, EVENTS)
# Beside each message on RESIDUAL_APPLIED, for a policy that observes past actions: a twist can carry neither joint
# velocities nor a gripper width.
ACTION_APPLIED = Topic(topics.ACTION_APPLIED, JointState, EVENTS)
ARM_COMMAND = Topic(topics.ARM_COMMAND, JointTrajectory, LATEST)
GRIPPER_COMMAND = Topic(topics.GRIPPER_COMMAND, JointTrajectory, LATEST)
EPISODE = Topic(topics.EPISODE, String, EPISODES)
EPISODE_READY = Topic(topics.EPISODE_READY, String, EVENTS)
EPISODE_PRESENT = Topic(topics.EPISODE_PRESENT, String, PRESENCE)
SAFETY_STATE = Topic(topics.SAFETY_STATE, String, LATCHED)
CHECKLIST = Topic(topics.CHECKLIST, String, LATCHED)
ESTOP = Topic(topics.ESTOP, Bool, EVENTS)
HEARTBEAT = Topic(topics.HEARTBEAT, Header, EVENTS)  # frame_id: the operator's place, if a page sends it
JOG = Topic(topics.JOG, String, EVENTS)  # a line of JSON, `control.safety.takeover.Jog`
OPERATOR_COMMAND = Topic(topics.OPERATOR_COMMAND, String, EVENTS)  # a line of JSON for each command, for the bag
RECORDER_STATE = Topic(topics.RECORDER_STATE, String, LATCHED)  # JSON, each second and after each change
RECORDER_BAGS = Topic(topics.RECORDER_BAGS, String, LATCHED)  # JSON, after each change
DIAGNOSTICS = Topic(topics.DIAGNOSTICS, DiagnosticArray, EVENTS)


def image_topics(node: Node) -> tuple[str, str]:
    """Return the resolved names of the raw and the compressed image topic.

    The compressed one is called as image_transport does, raw name + /compressed, unless it is remapped itself.
    """
    raw = str(node.resolve_topic_name(IMAGE.name))
    compressed = str(node.resolve_topic_name(IMAGE_COMPRESSED.name))
    return raw, f"{raw}/compressed" if compressed.endswith(IMAGE_COMPRESSED.name) else compressed


def command_topic(output: str, arm: arms.Arm) -> tuple[str, str]:
    """Return the relative name and type (pkg/msg/Type) of the topic that moves the arm, for a controller `output`."""
    if output == "joint_trajectory":
        return arm.topics.joint_trajectory, "trajectory_msgs/msg/JointTrajectory"
    return getattr(arm.topics, output), "std_msgs/msg/Float64MultiArray"


# ---- stamps -----------------------------------------------------------------------------------------------------


def stamp_message(stamp_ns: int) -> Time:
    """Convert integer nanoseconds to builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def header_message(stamp_ns: int, frame_id: str = "") -> Header:
    """Make a std_msgs/Header."""
    return Header(stamp=stamp_message(stamp_ns), frame_id=frame_id)


def _doubles(values: np.ndarray | Sequence[float]) -> array.array[float]:
    packed = array.array("d")
    packed.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return packed


def _bytes(values: np.ndarray) -> array.array[int]:
    packed = array.array("B")
    packed.frombytes(np.ascontiguousarray(values).data.cast("B"))
    return packed


# ---- joints -----------------------------------------------------------------------------------------------------


def joint_state_message(state: arms.JointState, arm: arms.Arm) -> JointState:
    """Make a JointState of the arm's joints and then its fingers under their drivers' names, with all fields filled.

    (The rosbags library refuses a valid serialised JointState with one of the three empty.)
    """
    names = list(arm.joint_names)
    position, velocity, effort = state.positions, state.velocities, state.efforts
    if arm.gripper:
        fingers = len(arm.gripper.joint_names)
        names += arm.gripper.joint_names
        position = np.append(position, arm.gripper.positions(state.gripper_width))
        velocity, effort = np.append(velocity, np.zeros(fingers)), np.append(effort, np.zeros(fingers))
    return JointState(
        header=header_message(state.stamp_ns, arm.base_frame),
        name=list(arm.driver_names(names)),
        position=_doubles(position),
        velocity=_doubles(velocity),
        effort=_doubles(effort),
    )


# ---- commands ---------------------------------------------------------------------------------------------------


def trajectory_message(trajectory: Trajectory, joint_names: Sequence[str]) -> JointTrajectory:
    """Convert a Trajectory to trajectory_msgs/JointTrajectory."""
    points = []
    for time, position, velocity, acceleration in zip(
        trajectory.times, trajectory.positions, trajectory.velocities, trajectory.accelerations, strict=True
    ):
        seconds, nanoseconds = divmod(round(float(time) * NANOSECONDS), NANOSECONDS)
        points.append(
            JointTrajectoryPoint(
                positions=_doubles(position),
                velocities=_doubles(velocity),
                accelerations=_doubles(acceleration),
                time_from_start=DurationMessage(sec=seconds, nanosec=nanoseconds),
            )
        )
    return JointTrajectory(header=header_message(trajectory.stamp_ns), joint_names=list(joint_names), points=points)


def twist_message(stamp_ns: int, twist: np.ndarray, frame: str) -> TwistStamped:
    """Make a TwistStamped of a twist [6] (m/s, rad/s) in `frame`, such as a residual or its admitted part."""
    message = TwistStamped(header=header_message(stamp_ns, frame))
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = (float(value) for value in twist)
    return message


def residual_message(residual: Residual, base_frame: str) -> TwistStamped:
    """Make a TwistStamped of a Residual; its gripper width is sent as `gripper_message`."""
    return twist_message(residual.stamp_ns, residual.twist, base_frame)


def joint_residual_message(residual: Residual, joint_names: Sequence[str]) -> JointTrajectory:
    """Make a message of a residual of joint velocities: a trajectory of one point without positions."""
    point = JointTrajectoryPoint(velocities=_doubles(residual.twist))
    return JointTrajectory(header=header_message(residual.stamp_ns), joint_names=list(joint_names), points=[point])


def gripper_message(stamp_ns: int, width: float, arm: arms.Arm) -> JointState:
    """Make a JointState with one name, `gripper_width`, of an opening width (m)."""
    return JointState(
        header=header_message(stamp_ns, arm.tool_frame),
        name=["gripper_width"],
        position=_doubles([width]),
        velocity=_doubles([0.0]),
        effort=_doubles([0.0]),
    )


def action_message(stamp_ns: int, action: np.ndarray, components: Sequence[str]) -> JointState:
    """Make a JointState of an admitted action [A], in action units, with the names of its components."""
    nothing = _doubles(np.zeros(len(components)))
    return JointState(
        header=header_message(stamp_ns),
        name=list(components),
        position=_doubles(action),
        velocity=nothing,
        effort=nothing,
    )


# ---- perception -------------------------------------------------------------------------------------------------


def features_message(stamp_ns: int, features: np.ndarray, optical_frame: str) -> PointCloud2:
    """Convert features to PointCloud2, 1 x K.

    `features` float32 [K, 3] are points (x, y) on the plane z = 1 of the optical frame and a confidence; float32 [D]
    is a plain latent and goes into one field `value`.
    """
    features = np.asarray(features, dtype=np.float32)
    if features.ndim == 1:
        names: tuple[str, ...] = LATENT_FIELDS
        table = features[:, None]
    else:
        names = POINT_FIELDS
        table = np.ones((len(features), 4), dtype=np.float32)
        table[:, :2] = features[:, :2]
        table[:, 3] = features[:, 2]
    step = 4 * len(names)
    return PointCloud2(
        header=header_message(stamp_ns, optical_frame),
        height=1,
        width=len(table),
        fields=[PointField(name=name, offset=4 * place, datatype=FLOAT32, count=1) for place, name in enumerate(names)],
        is_bigendian=False,
        point_step=step,
        row_step=step * len(table),
        data=_bytes(table),
        is_dense=True,
    )


def object_pose_message(
    stamp_ns: int, pose: np.ndarray, covariance: np.ndarray, frame: str
) -> PoseWithCovarianceStamped:
    """Make a message of `pose` [7] (xyz m, quaternion xyzw) and `covariance` [6, 6] (m^2, rad^2), both in `frame`."""
    message = PoseWithCovarianceStamped(header=header_message(stamp_ns, frame))
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = (float(value) for value in pose[:3])
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in pose[3:])
    message.pose.covariance = np.ascontiguousarray(covariance, dtype=np.float64).reshape(36)
    return message


def goal_message(stamp_ns: int, point: np.ndarray, frame: str) -> PointStamped:
    """Make a PointStamped of a goal point [3] (m) in `frame`."""
    message = PointStamped(header=header_message(stamp_ns, frame))
    message.point.x, message.point.y, message.point.z = (float(value) for value in point)
    return message


# ---- camera -----------------------------------------------------------------------------------------------------


_FROM_RGB: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb8": lambda image: image,
    "bgr8": lambda image: image[..., ::-1],
    "mono8": lambda image: image.mean(axis=2).astype(np.uint8),
    "16UC1": lambda image: image.mean(axis=2).astype(np.uint16),  # a depth camera, which is refused
}


def image_message(stamp_ns: int, image: np.ndarray, optical_frame: str, encoding: str = "rgb8") -> Image:
    """Convert rgb uint8 [H, W, 3] to sensor_msgs/Image with one copy, without checking each pixel (0.05 ms for VGA)."""
    height, width, channels = image.shape
    if image.dtype != np.uint8 or channels != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 [H, W, 3]")
    data = _bytes(_FROM_RGB[encoding](image))
    return Image(
        header=header_message(stamp_ns, optical_frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=len(data) // height,
        data=data,
    )


def camera_info_message(
    stamp_ns: int,
    optical_frame: str,
    width: int,
    height: int,
    K: np.ndarray,
    distortion: np.ndarray | Sequence[float] = (),
) -> CameraInfo:
    """Make a CameraInfo: `K` 3 x 3 in pixels, `distortion` k1 k2 p1 p2 k3 (plumb_bob) or more."""
    coefficients = np.zeros(5) if len(distortion) == 0 else np.asarray(distortion, dtype=np.float64)
    K = np.ascontiguousarray(K, dtype=np.float64)
    return CameraInfo(
        header=header_message(stamp_ns, optical_frame),
        width=width,
        height=height,
        distortion_model="plumb_bob" if len(coefficients) <= 5 else "rational_polynomial",
        d=_doubles(coefficients),
        k=K.reshape(9),
        r=np.eye(3).reshape(9),
        p=np.hstack([K, np.zeros((3, 1))]).reshape(12),
    )


def calibrated_camera_info_message(optical_frame: str, calibration: CameraInfoFile) -> CameraInfo:
    """Make a CameraInfo without a stamp of a camera's calibration file."""
    return CameraInfo(
        header=header_message(0, optical_frame),
        width=calibration.image_width,
        height=calibration.image_height,
        distortion_model=calibration.distortion_model,
        d=_doubles(calibration.distortion_coefficients.data),
        k=np.array(calibration.camera_matrix.data),
        r=np.array(calibration.rectification_matrix.data),
        p=np.array(calibration.projection_matrix.data),
    )


# ---- JSON -------------------------------------------------------------------------------------------------------


def episode_message(episode: Episode) -> String:
    """Convert an Episode to std_msgs/String."""
    return String(data=episode.to_json())


def ready_message(node: str, episode_id: int) -> String:
    """Make the answer to phase `reset` of an episode."""
    return String(data=Ready(node=node, id=episode_id).to_json())
