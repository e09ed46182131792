"""Decodes messages to arrays and data classes, for live nodes and for every tool that reads bags.

ROS-free: a function accepts both rclpy's messages and those of the rosbags library, and gives the same result or the
same error for both. Numbers keep their type: float64 stays float64 (joints, residual, trajectory) and float32 stays
float32 (features).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from rlfp_ros.control import arm as arms
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.episode import Episode, Ready
from rlfp_ros.perception import images
from rlfp_ros.recording import message_fields as fields
from rlfp_ros.recording import topics
from rlfp_ros.schema import ConfigurationError

NANOSECONDS = 1_000_000_000
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
POINT_FIELDS = ("x", "y", "z", "confidence")  # of features that are points
LATENT_FIELDS = ("value",)  # of features that are a plain latent vector
FLOAT32 = 7  # sensor_msgs/PointField.FLOAT32

_STAMP_LITTLE, _STAMP_BIG = struct.Struct("<iI"), struct.Struct(">iI")


# ---- stamps ---------------------------------------------------------------------------------------------------------


def stamp_ns(stamp: fields.Time) -> int:
    """Convert builtin_interfaces/Time to integer nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def serialised_stamp_ns(message: bytes) -> int:
    """Return the stamp (ns) of a serialised message that begins with a std_msgs/Header.

    CDR: four bytes of encapsulation, the second of which gives the byte order, then sec and nanosec. Raises
    ConfigurationError if the message is too short for a stamp.
    """
    if len(message) < 12:
        raise ConfigurationError(f"a message of {len(message)} bytes has no header, expected at least 12")
    sec, nanosec = _STAMP_LITTLE.unpack_from(message, 4) if message[1] & 1 else _STAMP_BIG.unpack_from(message, 4)
    return int(sec) * NANOSECONDS + int(nanosec)


# ---- joints ---------------------------------------------------------------------------------------------------------


class JointMatcher:
    """Converts sensor_msgs/JointState to control.arm.JointState by name; the order in the message does not matter.

    The look-up is kept as long as the names stay the same (2 us per message instead of 20).
    """

    def __init__(self, arm: arms.Arm, topic: str = topics.JOINT_STATES) -> None:
        self.arm = arm
        self.topic = topic
        self._names: list[str] | None = None  # of the last message; None until one fits
        self._arm_index = np.empty(0, dtype=np.intp)
        self._gripper_index = np.empty(0, dtype=np.intp)

    def __call__(self, message: fields.JointStateFields) -> arms.JointState:
        """Decode one message.

        An empty `velocity` is refused: with zeros instead the policy would see an arm at rest. An empty `effort` reads
        as zeros.

        Raises
        ------
        ConfigurationError
            If a joint is missing or listed twice, or a field has the wrong length.
        """
        if message.name != self._names:
            self._match(message.name)
        count = len(message.name)
        position = self._field("position", message.position, count)
        velocity = self._field("velocity", message.velocity, count)
        effort = self._field("effort", message.effort, count) if len(message.effort) else np.zeros(count)
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
                f"{self.arm.origin} what the driver calls them"
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

    def _field(self, name: str, values: fields.Numbers, count: int) -> np.ndarray:
        if len(values) != count:
            raise ConfigurationError(
                f"topic {self.topic}: {name} has {len(values)} values, expected {count}, one for each name; "
                f"let the arm's driver publish {name}"
            )
        return np.asarray(values, dtype=np.float64)


def gripper_from_message(message: fields.JointStateFields) -> tuple[int, float]:
    """Decode a JointState of the topic policy/gripper to (stamp in ns, opening width in m).

    Raises ConfigurationError if the message is not one position called `gripper_width`.
    """
    if list(message.name) != ["gripper_width"] or len(message.position) != 1:
        raise ConfigurationError(
            f"topic {topics.GRIPPER}: name is {list(message.name)} with {len(message.position)} positions, "
            "expected ['gripper_width'] with one"
        )
    return stamp_ns(message.header.stamp), float(message.position[0])


def action_from_message(
    message: fields.JointStateFields, components: Sequence[str], topic: str = topics.ACTION_APPLIED
) -> tuple[int, np.ndarray]:
    """Decode an admitted action to (stamp of its image in ns, float32 [A] in action units).

    Raises ConfigurationError if it has other components, or if a value is not finite.
    """
    action = np.asarray(message.position, dtype=np.float32)
    if list(message.name) != list(components) or len(action) != len(components):
        raise ConfigurationError(
            f"topic {topic}: name is {list(message.name)} with {len(action)} positions, expected {list(components)} "
            "with one each; give policy and controller the same bundle"
        )
    if not np.isfinite(action).all():
        raise ConfigurationError(f"topic {topic}: position is {action.tolist()}, expected finite numbers")
    return stamp_ns(message.header.stamp), action


# ---- commands -------------------------------------------------------------------------------------------------------


def trajectory_from_message(
    message: fields.JointTrajectory, joint_names: Sequence[str], topic: str = topics.ARM_COMMAND
) -> Trajectory:
    """Decode a JointTrajectory to a Trajectory in the order of `joint_names`.

    Raises
    ------
    ConfigurationError
        If joints are missing or unknown, a point lacks position, velocity or acceleration, or times do not increase.
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
        columns.append(np.array([np.asarray(row, dtype=np.float64) for row in rows])[:, index])
    times = np.array([stamp_ns(point.time_from_start) / NANOSECONDS for point in message.points])
    if times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ConfigurationError(f"topic {topic}: time_from_start is {times.tolist()} s, expected increasing times")
    states = np.ascontiguousarray(np.stack(columns, axis=1))  # compiled code takes no other layout
    return Trajectory(stamp_ns=stamp_ns(message.header.stamp), times=times, states=states)


def joint_velocities_from_message(message: fields.JointTrajectory, joint_names: Sequence[str]) -> np.ndarray:
    """Decode a residual of joint velocities to [J] rad/s in the order of `joint_names`.

    Raises ConfigurationError if joints are missing or unknown, or there is not one point with a velocity for each.
    """
    if sorted(message.joint_names) != sorted(joint_names):
        raise ConfigurationError(
            f"topic {topics.RESIDUAL}: joint_names is {list(message.joint_names)}, expected {list(joint_names)} in any "
            "order; give policy and controller the same bundle"
        )
    counts = [len(point.velocities) for point in message.points]
    if counts != [len(joint_names)]:
        raise ConfigurationError(
            f"topic {topics.RESIDUAL}: points have {counts} velocities, expected one point with {len(joint_names)}"
        )
    velocities = np.asarray(message.points[0].velocities, dtype=np.float64)
    return velocities[[message.joint_names.index(name) for name in joint_names]]


def twist_from_message(message: fields.TwistStamped, frame: str, topic: str = topics.RESIDUAL) -> np.ndarray:
    """Decode a TwistStamped to [6] m/s and rad/s. Raises ConfigurationError if its frame is not `frame`."""
    if message.header.frame_id != frame:
        raise ConfigurationError(
            f"topic {topic}: header.frame_id is {message.header.frame_id!r}, expected {frame!r}, the arm's base frame"
        )
    linear, angular = message.twist.linear, message.twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


# ---- perception -----------------------------------------------------------------------------------------------------


def features_from_message(message: fields.PointCloud2, topic: str = topics.FEATURES) -> np.ndarray:
    """Decode a PointCloud2 to features float32 [K, 3] (x, y, confidence), or float32 [D] of a plain latent.

    Raises ConfigurationError if the fields or the size of the data are not those that the perception node writes.
    """
    names = tuple(field.name for field in message.fields)
    packed = all(
        field.offset == 4 * place and field.datatype == FLOAT32 and field.count == 1
        for place, field in enumerate(message.fields)
    )
    count = message.width * message.height
    step = 4 * len(names)
    if names not in (POINT_FIELDS, LATENT_FIELDS) or not packed or message.is_bigendian or message.point_step != step:
        raise ConfigurationError(
            f"topic {topic}: fields are {', '.join(names) or 'none'} in {message.point_step} bytes, "
            "expected packed little-endian float32 x y z confidence, or value"
        )
    if len(message.data) != count * step:
        raise ConfigurationError(
            f"topic {topic}: data has {len(message.data)} bytes, expected {count * step} for {count} points"
        )
    table = np.frombuffer(message.data, dtype="<f4").reshape(count, len(names))
    return table[:, 0].copy() if names == LATENT_FIELDS else table[:, [0, 1, 3]]


def object_pose_from_message(
    message: fields.PoseWithCovarianceStamped, frame: str, topic: str = topics.OBJECT_POSE
) -> tuple[np.ndarray, np.ndarray]:
    """Decode to pose [7] (xyz in m, quaternion xyzw) and covariance [6, 6] (m^2, rad^2) in `frame`.

    Raises ConfigurationError if the message is in another frame than `frame`.
    """
    if message.header.frame_id != frame:
        raise ConfigurationError(f"topic {topic}: header.frame_id is {message.header.frame_id!r}, expected {frame!r}")
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    pose = [position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w]
    return np.array(pose), np.array(message.pose.covariance, dtype=np.float64).reshape(6, 6)


def domain_shift_from_message(message: fields.Float32) -> float:
    """Decode a Float32 to the domain-shift score."""
    return float(message.data)


def goal_from_message(
    message: fields.PointStamped, base_frame: str, optical_frame: str, T_base_camera: np.ndarray
) -> np.ndarray:
    """Decode a goal in the base frame or the optical frame to [3] m in the base frame.

    Raises ConfigurationError for any other frame, and for a point that is not finite.
    """
    point = np.array([message.point.x, message.point.y, message.point.z])
    if not np.all(np.isfinite(point)):
        raise ConfigurationError(f"topic {topics.GOAL}: point is {point.tolist()}, expected finite coordinates in m")
    if message.header.frame_id == base_frame:
        return point
    if optical_frame and message.header.frame_id == optical_frame:
        return np.asarray(T_base_camera[:3, :3] @ point + T_base_camera[:3, 3])
    raise ConfigurationError(
        f"topic {topics.GOAL}: header.frame_id is {message.header.frame_id!r}, expected the base frame {base_frame!r} "
        f"or the camera's optical frame {optical_frame or '(not known yet: no image has come)'!r}"
    )


# ---- camera ---------------------------------------------------------------------------------------------------------


def image_from_message(message: fields.Image | fields.CompressedImage, topic: str = topics.IMAGE) -> np.ndarray:
    """Decode an Image or CompressedImage to rgb uint8 [H, W, 3], with its encoding, row step and compression.

    The result may be a view of the message's data: do not write to it. Raises ConfigurationError as
    `rlfp_ros.perception.images` does. A CameraInfo is decoded by `rlfp_ros.perception.camera.camera_model`.
    """
    if hasattr(message, "format"):
        return images.from_compressed(message.format, message.data, topic)
    return images.from_raw(message.encoding, message.height, message.width, message.step, message.data, topic)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def episode_from_message(message: fields.String) -> Episode:
    """Decode a String to an Episode. Raises ConfigurationError that names the wrong field."""
    return Episode.from_json(message.data)


def ready_from_message(message: fields.String) -> Ready:
    """Decode a String to Ready. Raises ConfigurationError that names the wrong field."""
    return Ready.from_json(message.data)
