"""ROS 2 messages <-> arrays and data classes, the graph's topics and their quality of service. No maths.

Numbers cross as they are: float64 stays float64 (joints, residual, trajectory) and float32 stays float32 (features),
so that the graph and the in-process loop agree bit for bit. Arrays go through `array.array` and `np.frombuffer`:
rclpy checks any other sequence element by element (77 ms for a VGA image).
"""

from __future__ import annotations

import array
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration as DurationMessage
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped, PoseWithCovarianceStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Bool, Float32, Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlfp_ros.control import arm as arms
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.episode import Episode, Ready
from rlfp_ros.schema import ConfigurationError

NANOSECONDS = 1_000_000_000
_STAMP_LITTLE, _STAMP_BIG = struct.Struct("<iI"), struct.Struct(">iI")


# ---- topics -----------------------------------------------------------------------------------------------------


def _qos(depth: int, reliable: bool = True, latched: bool = False, **policies: Any) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        **policies,
    )


DEADLINE = Duration(seconds=0.1)  # three periods of the camera
LEASE = Duration(seconds=1.0)  # of liveliness, kept up by DDS itself as long as the process lives


# Camera publishers are reliable (REP-2003). More than one image is kept for the recorder, which reads reliably.
CAMERA_PUBLISHER = _qos(5)
# Our own image subscriptions: only the newest frame is worth an inference, and best effort matches every driver.
CAMERA_SUBSCRIPTION = _qos(1, reliable=False)
LATEST = _qos(1)  # reliable, the newest only: gripper, commands
# What our own nodes send one another at the camera's rate: DDS reports where it stops. A publisher that offers less is
# not heard, so drivers' topics have neither.
_ALIVE: dict[str, Any] = {
    "deadline": DEADLINE,
    "liveliness": LivelinessPolicy.AUTOMATIC,
    "liveliness_lease_duration": LEASE,
}
STREAM = _qos(1, **_ALIVE)  # features, object pose, shift; and every subscription of ours to such a topic
STREAM_QUEUE = _qos(10, **_ALIVE)  # residuals: the recorder wants them all
LATCHED = _qos(1, latched=True)  # a late joiner gets the last value: goal, safety/state
BEST_EFFORT = _qos(1, reliable=False)  # overlay
# Also latched, but an episode's end, the next one's reset and its start may follow within a millisecond.
EPISODES = _qos(10, latched=True)
EVENTS = _qos(10)  # none may be lost: episode/ready, e-stop, diagnostics
# Joint states: the controller wants the newest. A publisher keeps some, because the policy and the recorder need all:
# the policy looks up the joints at the image's stamp, and a missing one would make lock step depend on the scheduler.
JOINT_STATES_PUBLISHER = _qos(32)
JOINT_STATES_LATEST = _qos(1)
JOINT_STATES_HISTORY = _qos(256)  # 1 s at 240 Hz and a little


@dataclass(frozen=True)
class Topic:
    """A topic of the graph: relative name, message type, and what its publisher offers."""

    name: str
    type: Any
    qos: QoSProfile


IMAGE = Topic("camera/image_raw", Image, CAMERA_PUBLISHER)
IMAGE_COMPRESSED = Topic("camera/image_raw/compressed", CompressedImage, CAMERA_PUBLISHER)
CAMERA_INFO = Topic("camera/camera_info", CameraInfo, CAMERA_PUBLISHER)
JOINT_STATES = Topic("joint_states", JointState, JOINT_STATES_PUBLISHER)
CLOCK = Topic("/clock", Clock, BEST_EFFORT)
FEATURES = Topic("perception/features", PointCloud2, STREAM)
OBJECT_POSE = Topic("perception/object_pose", PoseWithCovarianceStamped, STREAM)
DOMAIN_SHIFT = Topic("perception/domain_shift", Float32, STREAM)
OVERLAY = Topic("perception/overlay", Image, BEST_EFFORT)
GOAL = Topic("goal", PointStamped, LATCHED)
RESIDUAL = Topic("policy/residual", TwistStamped, STREAM_QUEUE)
JOINT_RESIDUAL = Topic("policy/residual", JointTrajectory, STREAM_QUEUE)  # where the bundle's action is joint_velocity
GRIPPER = Topic("policy/gripper", JointState, LATEST)
RESIDUAL_APPLIED = Topic("policy/residual_applied", TwistStamped, EVENTS)
ARM_COMMAND = Topic("joint_trajectory_controller/joint_trajectory", JointTrajectory, LATEST)
GRIPPER_COMMAND = Topic("gripper_controller/joint_trajectory", JointTrajectory, LATEST)
EPISODE = Topic("episode", String, EPISODES)
EPISODE_READY = Topic("episode/ready", String, EVENTS)
SAFETY_STATE = Topic("safety/state", String, LATCHED)
CHECKLIST = Topic("safety/checklist", String, LATCHED)
ESTOP = Topic("safety/estop", Bool, EVENTS)
HEARTBEAT = Topic("operator/heartbeat", Header, EVENTS)
DIAGNOSTICS = Topic("/diagnostics", DiagnosticArray, EVENTS)


def command_topic(output: str, arm: arms.Arm) -> tuple[str, str]:
    """Relative name and type (pkg/msg/Type) of the topic that moves the arm, for a residual controller's `output`."""
    if output == "joint_trajectory":
        return arm.topics.joint_trajectory, "trajectory_msgs/msg/JointTrajectory"
    return getattr(arm.topics, output), "std_msgs/msg/Float64MultiArray"


# ---- stamps -----------------------------------------------------------------------------------------------------


def stamp_message(stamp_ns: int) -> Time:
    """Integer nanoseconds -> builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns(stamp: Time) -> int:
    """builtin_interfaces/Time -> integer nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def serialised_stamp_ns(message: bytes) -> int:
    """The stamp of a serialised message that begins with a std_msgs/Header, in nanoseconds (CDR: 4 bytes of
    encapsulation, whose second one says the byte order, then sec and nanosec).
    """
    sec, nanosec = _STAMP_LITTLE.unpack_from(message, 4) if message[1] & 1 else _STAMP_BIG.unpack_from(message, 4)
    return int(sec) * NANOSECONDS + int(nanosec)


def header_message(stamp_ns: int, frame_id: str = "") -> Header:
    """A std_msgs/Header."""
    return Header(stamp=stamp_message(stamp_ns), frame_id=frame_id)


def _doubles(values: np.ndarray | Sequence[float]) -> array.array[float]:
    packed = array.array("d")
    packed.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return packed


def _bytes(values: np.ndarray) -> array.array[int]:
    packed = array.array("B")
    packed.frombytes(memoryview(np.ascontiguousarray(values)).cast("B"))
    return packed


# ---- joints -----------------------------------------------------------------------------------------------------


class JointMatcher:
    """sensor_msgs/JointState -> control.arm.JointState, matched by name; the order in the message never matters.

    The look-up is kept for as long as the names stay the same, which they do (2 us a message instead of 20).
    """

    def __init__(self, arm: arms.Arm, topic: str = JOINT_STATES.name) -> None:
        self.arm = arm
        self.topic = topic
        self._names: list[str] = []
        self._arm_index = np.empty(0, dtype=np.intp)
        self._gripper_index = np.empty(0, dtype=np.intp)

    def __call__(self, message: JointState) -> arms.JointState:
        """Raises ConfigurationError naming the joint that is missing, or the field that has the wrong length.

        An empty `velocity` is an error where the arm's drivers could send it: the policy would see an arm at rest.
        An empty `effort` reads as zeros.
        """
        if message.name != self._names:
            self._match(message.name)
        count = len(self._names)
        position = self._field(message, "position", count)
        velocity = self._field(message, "velocity", count)
        effort = self._field(message, "effort", count) if len(message.effort) else np.zeros(count)
        width = self.arm.gripper.width(position[self._gripper_index]) if self.arm.gripper else 0.0
        return arms.JointState(
            stamp_ns=stamp_ns(message.header.stamp),
            positions=position[self._arm_index],
            velocities=velocity[self._arm_index],
            efforts=effort[self._arm_index],
            gripper_width=width,
        )

    def _match(self, names: Sequence[str]) -> None:
        index = {name: place for place, name in enumerate(names)}
        joints = self.arm.driver_names(self.arm.joint_names)
        fingers = self.arm.driver_names(self.arm.gripper.joint_names) if self.arm.gripper else ()
        missing = [name for name in (*joints, *fingers) if name not in index]
        if missing:
            raise ConfigurationError(
                f"topic {self.topic}: joint {', '.join(missing)} is missing, found {', '.join(names) or 'no names'}; "
                f"publish all joints of arm {self.arm.name} in one message, or say under driver_joint_names in "
                f"config/arms/{self.arm.name}.yaml what the driver calls them"
            )
        twice = [name for name in (*joints, *fingers) if names.count(name) > 1]
        if twice:
            raise ConfigurationError(
                f"topic {self.topic}: joint {', '.join(twice)} stands in one message more than once; let the "
                "arm's driver name every joint once"
            )
        self._arm_index = np.array([index[name] for name in joints], dtype=np.intp)
        self._gripper_index = np.array([index[name] for name in fingers], dtype=np.intp)
        self._names = list(names)

    def _field(self, message: JointState, field: str, count: int) -> np.ndarray:
        values = np.frombuffer(getattr(message, field), dtype=np.float64) if getattr(message, field) else np.empty(0)
        if len(values) != count:
            raise ConfigurationError(
                f"topic {self.topic}: {field} has {len(values)} values, expected {count}, one for each name; "
                f"let the arm's driver publish {field}"
            )
        return values


def joint_state_message(state: arms.JointState, arm: arms.Arm) -> JointState:
    """The arm's joints and then its fingers under their drivers' names, all of position, velocity and effort filled.

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
    """Trajectory -> trajectory_msgs/JointTrajectory."""
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


def trajectory_from_message(
    message: JointTrajectory, joint_names: Sequence[str], topic: str = ARM_COMMAND.name
) -> Trajectory:
    """trajectory_msgs/JointTrajectory -> Trajectory in the order of `joint_names`, whatever order the sender chose.

    Raises ConfigurationError where joints are missing or unknown, a point lacks position, velocity or acceleration,
    or times do not increase.
    """
    if sorted(message.joint_names) != sorted(joint_names):
        raise ConfigurationError(
            f"topic {topic}: joint_names is {list(message.joint_names)}, expected {list(joint_names)} in any order"
        )
    if not message.points:
        raise ConfigurationError(f"topic {topic}: points is empty, expected at least one")
    index = [message.joint_names.index(name) for name in joint_names]
    columns = []
    for field in ("positions", "velocities", "accelerations"):
        rows = [getattr(point, field) for point in message.points]
        for place, row in enumerate(rows):
            if len(row) != len(joint_names):
                raise ConfigurationError(
                    f"topic {topic}: points[{place}].{field} has {len(row)} values, expected {len(joint_names)}"
                )
        columns.append(np.array([np.frombuffer(row, dtype=np.float64) for row in rows])[:, index])
    times = np.array([stamp_ns(point.time_from_start) / NANOSECONDS for point in message.points])
    if times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ConfigurationError(f"topic {topic}: time_from_start is {times.tolist()} s, expected increasing times")
    return Trajectory(stamp_ns=stamp_ns(message.header.stamp), times=times, states=np.stack(columns, axis=1))


def twist_message(stamp_ns: int, twist: np.ndarray, frame: str) -> TwistStamped:
    """A twist [6] (m/s, rad/s) in `frame`, e.g. a residual or what the controller admitted of it."""
    message = TwistStamped(header=header_message(stamp_ns, frame))
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = (float(value) for value in twist)
    return message


def twist_from_message(message: TwistStamped, frame: str, topic: str = RESIDUAL.name) -> np.ndarray:
    """[6] m/s, rad/s. Raises ConfigurationError where the message is in another frame than `frame`."""
    if message.header.frame_id != frame:
        raise ConfigurationError(
            f"topic {topic}: header.frame_id is {message.header.frame_id!r}, expected {frame!r}, the arm's base frame"
        )
    linear, angular = message.twist.linear, message.twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def residual_message(residual: Residual, base_frame: str) -> TwistStamped:
    """The twist of a Residual; its gripper width travels as `gripper_message`."""
    return twist_message(residual.stamp_ns, residual.twist, base_frame)


def joint_residual_message(residual: Residual, joint_names: Sequence[str]) -> JointTrajectory:
    """A residual of joint velocities: a trajectory of one point without positions."""
    point = JointTrajectoryPoint(velocities=_doubles(residual.twist))
    return JointTrajectory(header=header_message(residual.stamp_ns), joint_names=list(joint_names), points=[point])


def joint_velocities_from_message(message: JointTrajectory, joint_names: Sequence[str]) -> np.ndarray:
    """[J] rad/s in the order of `joint_names`, whatever order the sender chose.

    Raises ConfigurationError where joints are missing or unknown, or there is not one point with a velocity for each.
    """
    if sorted(message.joint_names) != sorted(joint_names):
        raise ConfigurationError(
            f"topic {RESIDUAL.name}: joint_names is {list(message.joint_names)}, expected {list(joint_names)} in any "
            "order; give policy and controller the same bundle"
        )
    counts = [len(point.velocities) for point in message.points]
    if counts != [len(joint_names)]:
        raise ConfigurationError(
            f"topic {RESIDUAL.name}: points have {counts} velocities, expected one point with {len(joint_names)}"
        )
    velocities = np.frombuffer(message.points[0].velocities, dtype=np.float64)
    return velocities[[message.joint_names.index(name) for name in joint_names]]


def gripper_message(stamp_ns: int, width: float, arm: arms.Arm) -> JointState:
    """Opening width (m) as a JointState with one name, `gripper_width`."""
    return JointState(
        header=header_message(stamp_ns, arm.tool_frame),
        name=["gripper_width"],
        position=_doubles([width]),
        velocity=_doubles([0.0]),
        effort=_doubles([0.0]),
    )


def gripper_from_message(message: JointState) -> tuple[int, float]:
    """(stamp in ns, opening width in m). Raises ConfigurationError where there is no `gripper_width` in it."""
    if list(message.name) != ["gripper_width"] or len(message.position) != 1:
        raise ConfigurationError(
            f"topic {GRIPPER.name}: name is {list(message.name)} with {len(message.position)} positions, "
            "expected ['gripper_width'] with one"
        )
    return stamp_ns(message.header.stamp), float(message.position[0])


# ---- perception -------------------------------------------------------------------------------------------------

_POINT_FIELDS = ("x", "y", "z", "confidence")


def features_message(stamp_ns: int, features: np.ndarray, optical_frame: str) -> PointCloud2:
    """Features -> PointCloud2, 1 x K.

    `features` float32 [K, 3] are points (x, y) on the plane z = 1 of the optical frame and a confidence; float32 [D]
    is a plain latent and goes into one field `value`.
    """
    features = np.asarray(features, dtype=np.float32)
    if features.ndim == 1:
        names: tuple[str, ...] = ("value",)
        table = features[:, None]
    else:
        names = _POINT_FIELDS
        table = np.ones((len(features), 4), dtype=np.float32)
        table[:, :2] = features[:, :2]
        table[:, 3] = features[:, 2]
    step = 4 * len(names)
    return PointCloud2(
        header=header_message(stamp_ns, optical_frame),
        height=1,
        width=len(table),
        fields=[
            PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
            for place, name in enumerate(names)
        ],
        is_bigendian=False,
        point_step=step,
        row_step=step * len(table),
        data=_bytes(table),
        is_dense=True,
    )


def features_from_message(message: PointCloud2, topic: str = FEATURES.name) -> np.ndarray:
    """PointCloud2 -> features float32 [K, 3] (x, y, confidence), or float32 [D] for a plain latent.

    Raises ConfigurationError where the fields are not the ones that `features_message` writes.
    """
    names = tuple(field.name for field in message.fields)
    packed = all(
        field.offset == 4 * place and field.datatype == PointField.FLOAT32 for place, field in enumerate(message.fields)
    )
    count = message.width * message.height
    step = 4 * len(names)
    if names not in (_POINT_FIELDS, ("value",)) or not packed or message.is_bigendian or message.point_step != step:
        raise ConfigurationError(
            f"topic {topic}: fields are {', '.join(names) or 'none'} in {message.point_step} bytes, "
            "expected packed little-endian float32 x y z confidence, or value"
        )
    if len(message.data) != count * step:
        raise ConfigurationError(
            f"topic {topic}: data has {len(message.data)} bytes, expected {count * step} for {count} points"
        )
    table = np.frombuffer(message.data, dtype=np.float32).reshape(count, len(names))
    return table[:, 0].copy() if names == ("value",) else table[:, [0, 1, 3]]


def object_pose_message(
    stamp_ns: int, pose: np.ndarray, covariance: np.ndarray, frame: str
) -> PoseWithCovarianceStamped:
    """`pose` [7] xyz (m) and quaternion xyzw, `covariance` [6, 6] (m^2, rad^2; xyz then rotation), both in `frame`."""
    message = PoseWithCovarianceStamped(header=header_message(stamp_ns, frame))
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = (float(value) for value in pose[:3])
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in pose[3:])
    message.pose.covariance = np.ascontiguousarray(covariance, dtype=np.float64).reshape(36)
    return message


def object_pose_from_message(
    message: PoseWithCovarianceStamped, frame: str, topic: str = OBJECT_POSE.name
) -> tuple[np.ndarray, np.ndarray]:
    """(pose [7], covariance [6, 6]). Raises ConfigurationError where it is in another frame than `frame`."""
    if message.header.frame_id != frame:
        raise ConfigurationError(f"topic {topic}: header.frame_id is {message.header.frame_id!r}, expected {frame!r}")
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    pose = [position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w]
    return np.array(pose), np.array(message.pose.covariance, dtype=np.float64).reshape(6, 6)


def goal_message(stamp_ns: int, point: np.ndarray, frame: str) -> PointStamped:
    """A goal point [3] (m) in `frame`."""
    message = PointStamped(header=header_message(stamp_ns, frame))
    message.point.x, message.point.y, message.point.z = (float(value) for value in point)
    return message


def goal_from_message(
    message: PointStamped, base_frame: str, optical_frame: str, T_base_camera: np.ndarray
) -> np.ndarray:
    """A goal in the base or the optical frame -> [3] m in the base frame.

    Raises ConfigurationError for any other frame, and for a point that is not finite.
    """
    point = np.array([message.point.x, message.point.y, message.point.z])
    if not np.all(np.isfinite(point)):
        raise ConfigurationError(f"topic {GOAL.name}: point is {point.tolist()}, expected finite coordinates in m")
    if message.header.frame_id == base_frame:
        return point
    if optical_frame and message.header.frame_id == optical_frame:
        return np.asarray(T_base_camera[:3, :3] @ point + T_base_camera[:3, 3])
    raise ConfigurationError(
        f"topic {GOAL.name}: header.frame_id is {message.header.frame_id!r}, expected the base frame {base_frame!r} "
        f"or the camera's optical frame {optical_frame or '(not known yet: no image has come)'!r}"
    )


# ---- camera -----------------------------------------------------------------------------------------------------


_FROM_RGB: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb8": lambda image: image,
    "bgr8": lambda image: image[..., ::-1],
    "mono8": lambda image: image.mean(axis=2).astype(np.uint8),
    "16UC1": lambda image: image.mean(axis=2).astype(np.uint16),  # what a depth camera sends, and nobody can use
}


def image_message(stamp_ns: int, image: np.ndarray, optical_frame: str, encoding: str = "rgb8") -> Image:
    """rgb uint8 [H, W, 3] -> sensor_msgs/Image. One copy of the pixels, no check of each (0.05 ms for VGA)."""
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
    """CameraInfo of a pinhole camera: `K` 3 x 3 in pixels, `distortion` k1 k2 p1 p2 k3 (plumb_bob) or more."""
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


# ---- JSON -------------------------------------------------------------------------------------------------------


def episode_message(episode: Episode) -> String:
    """Episode -> std_msgs/String."""
    return String(data=episode.to_json())


def episode_from_message(message: String) -> Episode:
    """std_msgs/String -> Episode. Raises ConfigurationError naming the field that is wrong."""
    return Episode.from_json(message.data)


def ready_message(node: str, episode_id: int) -> String:
    """The answer to phase `reset` of an episode."""
    return String(data=Ready(node=node, id=episode_id).to_json())


def ready_from_message(message: String) -> Ready:
    """std_msgs/String -> Ready. Raises ConfigurationError naming the field that is wrong."""
    return Ready.from_json(message.data)
