"""Tests that a bag replayed through the tools gives the arrays, or the refusal, that the live node gave.

Every message is made by ROS, then decoded twice: as a subscriber gets it, and out of a bag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, PoseWithCovarianceStamped, TwistStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from message_type import type_name
from rclpy.serialization import deserialize_message, serialize_message
from sample_messages import BGR_ROWS, GREY, NAMES, PANDA, PNG, RGB, ROWS, image, joints, padded
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Float32, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlfp_ros.nodes import messages
from rlfp_ros.perception.camera import camera_model
from rlfp_ros.recording import decode
from rlfp_ros.recording.message_types import deserialise
from rlfp_ros.schema import ConfigurationError


def outcome(decoder: Callable[[Any], Any], message: Any) -> Any:
    """The decoder's answer as something that can be compared, or its refusal."""
    try:
        found = decoder(message)
    except ConfigurationError as error:
        return str(error)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        found = tuple(getattr(found, field.name) for field in dataclasses.fields(found))
    return found


def assert_same(live: Any, bag: Any) -> None:
    assert type(live) is type(bag)
    if isinstance(live, tuple):
        assert len(live) == len(bag)
        for one, other in zip(live, bag, strict=True):
            assert_same(one, other)
    elif isinstance(live, np.ndarray):
        assert live.dtype == bag.dtype
        np.testing.assert_array_equal(live, bag)
    else:
        np.testing.assert_equal(live, bag)


def both_paths(message: Any, decoder: Callable[[], Callable[[Any], Any]]) -> Any:
    """The outcome, which is the same for the subscriber's message and for the bag's. `decoder` makes a fresh one."""
    content = serialize_message(message)
    live = outcome(decoder(), deserialize_message(content, type(message)))
    bag = outcome(decoder(), deserialise(content, type_name(message)))
    assert_same(live, bag)
    assert not isinstance(live, str) or "\n" not in live
    return live


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (joints(), ""),
        (joints(effort=0), ""),
        (joints(velocity=0), "velocity has 0 values, expected 9"),
        (joints(velocity=0, effort=0), "velocity has 0 values, expected 9"),
        (joints(position=0), "position has 0 values, expected 9"),
        (joints(position=8), "position has 8 values, expected 9"),
        (joints(effort=3), "effort has 3 values, expected 9"),
        (joints(velocity=[float("nan")] * 9), ""),
        (joints(effort=[float("inf")] * 9), ""),
        (joints(name=[], position=0, velocity=0, effort=0), "is missing, found no names"),
        (joints(name=[""] * 9), "joint panda_joint1, panda_joint2"),
        (joints(name=NAMES[:7], position=7, velocity=7, effort=7), "joint panda_finger_joint1, panda_finger_joint2 is"),
        (joints(name=["left_" + name for name in NAMES]), "is missing, found left_panda_joint1"),
        (joints(name=[*NAMES, "panda_joint1"], position=10, velocity=10, effort=10), "more than once"),
        (joints(name=["wheel", *NAMES], position=10, velocity=10, effort=10), ""),
        (joints(name=NAMES[::-1]), ""),
    ],
)
def test_joint_states(message: JointState, refusal: str) -> None:
    found = both_paths(message, lambda: decode.JointMatcher(PANDA))
    if refusal:
        assert refusal in found
    else:
        order = [message.name.index(name) for name in PANDA.joint_names]
        np.testing.assert_array_equal(found[1], np.array(message.position)[order])
        np.testing.assert_array_equal(found[2], np.array(message.velocity)[order])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([*NAMES, "", "wheel"]), max_size=12),
    st.tuples(*[st.lists(st.floats(width=64), max_size=12)] * 3),
)
def test_any_joint_state(names: list[str], values: tuple[list[float], ...]) -> None:
    message = JointState(name=names, position=values[0], velocity=values[1], effort=values[2])
    both_paths(message, lambda: decode.JointMatcher(PANDA))
    found = deserialise(serialize_message(message), "sensor_msgs/msg/JointState")
    assert found.name == names
    for sent, read in zip(values, (found.position, found.velocity, found.effort), strict=True):
        np.testing.assert_array_equal(read, np.array(sent, dtype=np.float64))


@pytest.mark.parametrize("names", [["gripper_width"], ["width"], [], ["gripper_width", "gripper_width"]])
def test_gripper_widths(names: list[str]) -> None:
    found = both_paths(JointState(name=names, position=[0.03] * len(names)), lambda: decode.gripper_from_message)
    assert found == (0, 0.03) if names == ["gripper_width"] else "expected ['gripper_width'] with one" in found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (image("rgb8", ROWS), RGB),
        (image("rgb8", padded(ROWS)), RGB),
        (image("bgr8", BGR_ROWS), RGB),
        (image("bgr8", padded(BGR_ROWS)), RGB),
        (image("mono8", GREY), np.dstack([GREY] * 3)),
        (image("mono8", padded(GREY)), np.dstack([GREY] * 3)),
        (image("yuv422_yuy2", np.full((6, 16), 128, np.uint8)), None),
        (image("uyvy", padded(np.full((6, 16), 128, np.uint8), 48)), None),
        (image("16UC1", np.zeros((6, 16), np.uint8)), "encoding is '16UC1', expected one of rgb8"),
        (image("32FC1", np.zeros((6, 32), np.uint8)), "encoding is '32FC1'"),
        (image("", ROWS), "encoding is ''"),
        (image("rgb8", ROWS, width=9), "step is 24, expected at least 27"),
        (image("rgb8", ROWS, height=7), "data has 144 bytes, expected 168"),
        (image("rgb8", ROWS, step=0), "step is 0, expected at least 24"),
        (image("rgb8", ROWS, height=0), "width x height is 8 x 0"),
        (image("rgb8", ROWS, height=2**31, width=2**31), "width x height is 2147483648 x 2147483648"),
        (image("rgb8", np.zeros((6, 0), np.uint8), step=24), "data has 0 bytes, expected 144"),
    ],
)
def test_images(message: Image, expected: np.ndarray | str | None) -> None:
    found = both_paths(message, lambda: decode.image_from_message)
    if isinstance(expected, str):
        assert expected in found
    elif expected is None:
        assert np.ptp(found) == 0  # a grey of one brightness
        assert found.shape == (6, 8, 3)
    else:
        np.testing.assert_array_equal(found, expected)


DEPTH = cv2.imencode(".png", np.full((6, 8), 700, np.uint16))[1].tobytes()


@pytest.mark.parametrize(
    ("format", "data", "refusal"),
    [
        ("png", PNG, ""),
        ("rgb8; png compressed bgr8", PNG, ""),
        ("png", PNG[:-20], "not a whole"),
        ("png", b"", "not a whole"),
        ("16UC1; png compressed ", DEPTH, "16"),
        ("png", DEPTH, "16"),
        ("h264", PNG, "expected jpeg or png"),
        ("", PNG, "expected jpeg or png"),
    ],
)
def test_compressed_images(format: str, data: bytes, refusal: str) -> None:
    found = both_paths(CompressedImage(format=format, data=data), lambda: decode.image_from_message)
    if refusal:
        assert isinstance(found, str)
        assert refusal in found
    else:
        np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({}, ""),
        ({"d": [0.1, 0.2, 0.0, 0.0, 0.0], "distortion_model": "plumb_bob"}, ""),
        ({"d": [0.1] * 4, "distortion_model": "equidistant"}, ""),
        ({"d": [0.1] * 4, "distortion_model": "unknown"}, "distortion_model is 'unknown'"),
        ({"d": [float("nan")] * 5, "distortion_model": "plumb_bob"}, "d is [nan"),
        ({"k": [0.0] * 9}, "k has fx 0 and fy 0"),
        ({"k": [float("nan")] * 9}, "k has fx nan"),
    ],
)
def test_camera_infos(fields: dict[str, Any], refusal: str) -> None:
    values = {"width": 84, "height": 84, "k": [90.0, 0, 42, 0, 90, 42, 0, 0, 1]} | fields
    found = both_paths(CameraInfo(**values), lambda: camera_model)
    assert (refusal in found) if refusal else found[:2] == (84, 84)


# ---- what the graph publishes ----


def cloud(**fields: Any) -> PointCloud2:
    message = messages.features_message(7, np.arange(12, dtype=np.float32).reshape(4, 3), "camera")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def point_field(name: str, offset: int, datatype: int = PointField.FLOAT32, count: int = 1) -> PointField:
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


XYZ = [point_field("x", 0), point_field("y", 4), point_field("z", 8)]


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (cloud(), ""),
        (messages.features_message(7, np.arange(24, dtype=np.float32), "camera"), ""),
        (PointCloud2(), "fields are none"),
        (cloud(fields=XYZ), "fields are x, y, z in 16 bytes"),
        (cloud(fields=[*XYZ, point_field("intensity", 12)]), "fields are x, y, z, intensity"),
        (cloud(fields=[*XYZ, point_field("confidence", 16)]), "expected packed"),
        (cloud(fields=[*XYZ, point_field("confidence", 12, PointField.FLOAT64)]), "expected packed"),
        (cloud(fields=[*XYZ, point_field("confidence", 12, count=2)]), "expected packed"),
        (cloud(is_bigendian=True), "expected packed little-endian"),
        (cloud(point_step=20), "in 20 bytes"),
        (cloud(width=5), "data has 64 bytes, expected 80"),
        (cloud(data=b""), "data has 0 bytes, expected 64"),
        (cloud(width=0, data=b""), ""),
    ],
)
def test_features(message: PointCloud2, refusal: str) -> None:
    found = both_paths(message, lambda: decode.features_from_message)
    assert (refusal in found) if refusal else found.dtype == np.float32


@pytest.mark.parametrize("frame", ["panda_link0", "", "world"])
@pytest.mark.parametrize("value", [0.25, float("nan"), float("-inf")])
def test_poses_twists_goals_and_scores(frame: str, value: float) -> None:
    refused = frame != "panda_link0"
    twist = TwistStamped()
    twist.twist.linear.x, twist.twist.angular.z = value, 0.5
    pose = PoseWithCovarianceStamped()
    pose.pose.pose.position.y, pose.pose.covariance = value, np.arange(36.0)
    goal = PointStamped()
    goal.point.z = value
    for message in (twist, pose, goal):
        message.header.frame_id = frame
    found = both_paths(twist, lambda: lambda m: decode.twist_from_message(m, "panda_link0"))
    assert isinstance(found, str) == refused
    found = both_paths(pose, lambda: lambda m: decode.object_pose_from_message(m, "panda_link0"))
    assert isinstance(found, str) == refused
    found = both_paths(goal, lambda: lambda m: decode.goal_from_message(m, "panda_link0", "camera", np.eye(4)))
    assert isinstance(found, str) == (refused or not np.isfinite(value))
    np.testing.assert_equal(both_paths(Float32(data=value), lambda: decode.domain_shift_from_message), value)


def trajectory(**fields: Any) -> JointTrajectory:
    values = {"positions": [0.1] * 7, "velocities": [0.2] * 7, "accelerations": [0.3] * 7} | fields
    points = [JointTrajectoryPoint(**values) for _ in range(2)]
    points[0].time_from_start.nanosec, points[1].time_from_start.nanosec = 4_000_000, 8_000_000
    return JointTrajectory(joint_names=list(PANDA.joint_names), points=points)


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (trajectory(), ""),
        (trajectory(accelerations=[]), r"points[0].accelerations has 0 values, expected 7"),
        (trajectory(positions=[0.0] * 6), r"points[0].positions has 6 values"),
        (trajectory(velocities=[float("nan")] * 7), ""),
        (trajectory(effort=[1.0] * 7), ""),
        (JointTrajectory(), "joint_names is []"),
        (JointTrajectory(joint_names=list(PANDA.joint_names)), "points is empty"),
    ],
)
def test_trajectories(message: JointTrajectory, refusal: str) -> None:
    found = both_paths(message, lambda: lambda m: decode.trajectory_from_message(m, PANDA.joint_names))
    assert (refusal in found) if refusal else found[2].shape == (2, 3, 7)
    both_paths(message, lambda: lambda m: decode.joint_velocities_from_message(m, PANDA.joint_names))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1, "phase": "reset"}', '{"id": 1, "phase": "x"}', "ümläut"])
def test_episodes(text: str) -> None:
    both_paths(String(data=text), lambda: lambda m: str(decode.episode_from_message(m)))
    both_paths(String(data=text), lambda: lambda m: str(decode.ready_from_message(m)))
