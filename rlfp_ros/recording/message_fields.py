"""Protocols with the message fields that decoding reads; messages of rclpy and of the rosbags library satisfy them.

Sequences of numbers are `array.array` in one and numpy arrays in the other; `decode` takes both.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np

Numbers = array.array | np.ndarray | Sequence[float]
Octets = array.array | np.ndarray | bytes  # uint8[]


class Time(Protocol):
    """builtin_interfaces/Time and Duration."""

    sec: int
    nanosec: int


class Header(Protocol):
    """std_msgs/Header."""

    stamp: Time
    frame_id: str


class Stamped(Protocol):
    """Any message with a header."""

    header: Header


class JointStateFields(Stamped, Protocol):
    """sensor_msgs/JointStateFields."""

    name: list[str]
    position: Numbers
    velocity: Numbers
    effort: Numbers


class Vector(Protocol):
    """geometry_msgs/Vector3 and Point."""

    x: float
    y: float
    z: float


class Quaternion(Vector, Protocol):
    """geometry_msgs/Quaternion."""

    w: float


class Twist(Protocol):
    """geometry_msgs/Twist."""

    linear: Vector
    angular: Vector


class TwistStamped(Stamped, Protocol):
    """geometry_msgs/TwistStamped."""

    twist: Twist


class PoseFields(Protocol):
    """geometry_msgs/PoseFields."""

    position: Vector
    orientation: Quaternion


class PoseWithCovariance(Protocol):
    """geometry_msgs/PoseWithCovariance."""

    pose: PoseFields
    covariance: Numbers


class PoseWithCovarianceStamped(Stamped, Protocol):
    """geometry_msgs/PoseWithCovarianceStamped."""

    pose: PoseWithCovariance


class PointStamped(Stamped, Protocol):
    """geometry_msgs/PointStamped."""

    point: Vector


class PointField(Protocol):
    """sensor_msgs/PointField."""

    name: str
    offset: int
    datatype: int
    count: int


class PointCloud2(Stamped, Protocol):
    """sensor_msgs/PointCloud2."""

    height: int
    width: int
    fields: Sequence[PointField]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Octets


class Image(Stamped, Protocol):
    """sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Octets


class CompressedImage(Stamped, Protocol):
    """sensor_msgs/CompressedImage."""

    format: str
    data: Octets


class TrajectoryPoint(Protocol):
    """trajectory_msgs/JointTrajectoryPoint."""

    positions: Numbers
    velocities: Numbers
    accelerations: Numbers
    time_from_start: Time


class JointTrajectory(Stamped, Protocol):
    """trajectory_msgs/JointTrajectory."""

    joint_names: list[str]
    points: Sequence[TrajectoryPoint]


class Float32(Protocol):
    """std_msgs/Float32."""

    data: float


class String(Protocol):
    """std_msgs/String."""

    data: str
