"""Tests of message conversion: arrays survive bit for bit, and values that do not fit are refused in one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_messages import in_order
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2
from std_msgs.msg import String

from rlfp_ros.control import arm as arms
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.perception.camera import camera_model
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

PANDA = arms.load_arm("panda")
STATE = arms.JointState(
    stamp_ns=1_700_000_000_004_166_667,
    positions=np.linspace(-1, 1, 7) / 3,
    velocities=np.linspace(0, 2, 7) / 7,
    efforts=np.linspace(3, 4, 7) / 9,
    gripper_width=0.05,
)

M = TypeVar("M")


def over_the_wire(message: M) -> M:
    """Return the message as a subscriber gets it."""
    received: M = deserialize_message(serialize_message(message), type(message))
    return received


@settings(deadline=None)  # the first call loads message types
@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_are_exact(stamp: int) -> None:
    assert decode.stamp_ns(messages.stamp_message(stamp)) == stamp


def test_stamps_split_into_seconds_and_nanoseconds() -> None:
    assert messages.stamp_message(3_000_000_007) == Time(sec=3, nanosec=7)


@settings(deadline=None)
@given(st.permutations(range(9)))
def test_joints_are_matched_by_name_whatever_the_order(order: list[int]) -> None:
    message = messages.joint_state_message(STATE, PANDA)
    shuffled = in_order(message, order)
    found = decode.JointMatcher(PANDA)(over_the_wire(shuffled))
    np.testing.assert_array_equal(found.positions, STATE.positions)
    np.testing.assert_array_equal(found.velocities, STATE.velocities)
    np.testing.assert_array_equal(found.efforts, STATE.efforts)
    assert found.gripper_width == STATE.gripper_width
    assert found.stamp_ns == STATE.stamp_ns


def test_the_match_follows_when_the_publisher_changes_its_order() -> None:
    matcher = decode.JointMatcher(PANDA)
    message = messages.joint_state_message(STATE, PANDA)
    matcher(message)
    message.name = message.name[::-1]
    for field in ("position", "velocity", "effort"):
        setattr(message, field, getattr(message, field)[::-1])
    np.testing.assert_array_equal(matcher(message).positions, STATE.positions)


def test_extra_joints_do_not_matter() -> None:
    message = messages.joint_state_message(STATE, PANDA)
    message.name = ["wheel", *message.name]
    for field in ("position", "velocity", "effort"):
        setattr(message, field, [9.0, *getattr(message, field)])
    np.testing.assert_array_equal(decode.JointMatcher(PANDA)(message).positions, STATE.positions)


def test_a_missing_joint_is_named() -> None:
    message = messages.joint_state_message(STATE, PANDA)
    message.name = ["other" if name == "panda_joint4" else name for name in message.name]
    with pytest.raises(ConfigurationError, match="joint panda_joint4 is missing, found panda_joint1"):
        decode.JointMatcher(PANDA)(message)


def test_a_joint_that_stands_twice_in_a_message_is_refused() -> None:
    message = messages.joint_state_message(STATE, PANDA)
    message.name = [*message.name, "panda_joint4"]
    for field in ("position", "velocity", "effort"):
        setattr(message, field, [*getattr(message, field), 0.0])
    with pytest.raises(ConfigurationError, match="joint panda_joint4 stands in one message more than once"):
        decode.JointMatcher(PANDA)(message)


@pytest.mark.parametrize("field", ["position", "velocity"])
def test_an_arm_that_does_not_say_how_it_moves_is_refused(field: str) -> None:
    message = messages.joint_state_message(STATE, PANDA)
    setattr(message, field, [])
    with pytest.raises(ConfigurationError, match=f"{field} has 0 values, expected 9"):
        decode.JointMatcher(PANDA)(message)


def test_missing_efforts_read_as_zeros() -> None:
    message = messages.joint_state_message(STATE, PANDA)
    message.effort = []
    assert not decode.JointMatcher(PANDA)(message).efforts.any()


def _trajectory() -> Trajectory:
    generator = np.random.default_rng(2)
    return Trajectory(
        stamp_ns=STATE.stamp_ns,
        times=np.arange(1, 5) * 4_166_667 / 1e9,
        states=generator.normal(size=(4, 3, 7)),
    )


def test_trajectories_survive_and_are_reordered_by_name() -> None:
    sent = _trajectory()
    message = over_the_wire(messages.trajectory_message(sent, PANDA.joint_names))
    found = decode.trajectory_from_message(message, PANDA.joint_names)
    backwards = decode.trajectory_from_message(message, PANDA.joint_names[::-1])
    for field in ("times", "positions", "velocities", "accelerations"):
        np.testing.assert_array_equal(getattr(found, field), getattr(sent, field))
    np.testing.assert_array_equal(backwards.positions, sent.positions[:, ::-1])
    assert found.stamp_ns == sent.stamp_ns
    assert found.states.flags.c_contiguous  # the compiled arm controller takes no other layout


def test_broken_trajectories_are_refused() -> None:
    names = list(PANDA.joint_names)
    message = messages.trajectory_message(_trajectory(), names)
    with pytest.raises(ConfigurationError, match="joint_names is"):
        decode.trajectory_from_message(message, [*names[:-1], "other"])
    message.points[2].accelerations = []
    with pytest.raises(ConfigurationError, match=r"points\[2\].accelerations has 0 values, expected 7"):
        decode.trajectory_from_message(message, names)
    message = messages.trajectory_message(_trajectory(), names)
    message.points[1].time_from_start = message.points[0].time_from_start
    with pytest.raises(ConfigurationError, match="expected increasing times"):
        decode.trajectory_from_message(message, names)
    message.points = []
    with pytest.raises(ConfigurationError, match="points is empty"):
        decode.trajectory_from_message(message, names)


def test_joint_residuals_are_matched_by_name_and_others_are_refused() -> None:
    velocities = np.random.default_rng(2).normal(size=7)
    sent = messages.joint_residual_message(Residual(STATE.stamp_ns, velocities[::-1]), PANDA.joint_names[::-1])
    message = over_the_wire(sent)
    np.testing.assert_array_equal(decode.joint_velocities_from_message(message, PANDA.joint_names), velocities)
    assert decode.stamp_ns(message.header.stamp) == STATE.stamp_ns
    with pytest.raises(ConfigurationError, match="elbow"):
        decode.joint_velocities_from_message(message, ("elbow", *PANDA.joint_names[1:]))
    message.points[0].velocities.pop()
    with pytest.raises(ConfigurationError, match="one point with 7"):
        decode.joint_velocities_from_message(message, PANDA.joint_names)


def test_residuals_survive_and_other_frames_are_refused() -> None:
    residual = Residual(STATE.stamp_ns, np.random.default_rng(1).normal(size=6))
    message = over_the_wire(messages.residual_message(residual, "panda_link0"))
    np.testing.assert_array_equal(decode.twist_from_message(message, "panda_link0"), residual.twist)
    assert decode.stamp_ns(message.header.stamp) == residual.stamp_ns
    with pytest.raises(ConfigurationError, match="frame_id is '', expected 'panda_link0'"):
        decode.twist_from_message(TwistStamped(), "panda_link0")


def test_gripper_widths_survive() -> None:
    message = over_the_wire(messages.gripper_message(7, 0.0123, PANDA))
    assert decode.gripper_from_message(message) == (7, 0.0123)
    with pytest.raises(ConfigurationError, match="expected \\['gripper_width'\\]"):
        decode.gripper_from_message(JointState(name=["a"], position=[1.0]))


@pytest.mark.parametrize("shape", [(16, 3), (1, 3), (24,)])
def test_features_survive_bit_for_bit(shape: tuple[int, ...]) -> None:
    features = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    message = over_the_wire(messages.features_message(5, features, "camera_optical"))
    found = decode.features_from_message(message)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features)
    assert message.header.frame_id == "camera_optical"
    if len(shape) == 2:
        table = np.frombuffer(message.data, np.float32).reshape(-1, 4)
        assert (table[:, 2] == 1).all()  # on the plane z = 1: RViz draws it


def test_point_clouds_of_another_layout_are_refused() -> None:
    message = messages.features_message(5, np.zeros((4, 3), np.float32), "camera_optical")
    message.fields[3].name = "intensity"
    with pytest.raises(ConfigurationError, match="fields are x, y, z, intensity"):
        decode.features_from_message(message)
    with pytest.raises(ConfigurationError, match="fields are none"):
        decode.features_from_message(PointCloud2())
    message = messages.features_message(5, np.zeros((4, 3), np.float32), "camera_optical")
    message.width = 5
    with pytest.raises(ConfigurationError, match="data has 64 bytes, expected 80"):
        decode.features_from_message(message)


def test_object_poses_survive() -> None:
    pose, covariance = np.arange(7) / 7, np.arange(36).reshape(6, 6) / 11
    message = over_the_wire(messages.object_pose_message(5, pose, covariance, "panda_link0"))
    found, spread = decode.object_pose_from_message(message, "panda_link0")
    np.testing.assert_array_equal(found, pose)
    np.testing.assert_array_equal(spread, covariance)
    with pytest.raises(ConfigurationError, match="expected 'world'"):
        decode.object_pose_from_message(message, "world")


def test_goals_come_in_the_base_or_the_optical_frame() -> None:
    T_base_camera = np.array([[0, -1, 0, 0.5], [-1, 0, 0, 0.0], [0, 0, -1, 0.8], [0, 0, 0, 1.0]])
    point = np.array([0.1, 0.2, 0.7])

    def goal(frame: str, where: np.ndarray = point) -> np.ndarray:
        return decode.goal_from_message(messages.goal_message(0, where, frame), "base", "camera_optical", T_base_camera)

    np.testing.assert_allclose(goal("base"), point)
    np.testing.assert_allclose(goal("camera_optical"), [0.3, -0.1, 0.1])
    with pytest.raises(ConfigurationError, match="frame_id is 'map', expected the base frame 'base'"):
        goal("map")
    with pytest.raises(ConfigurationError, match="expected finite"):
        goal("base", np.array([0, np.nan, 0]))


def test_images_survive_and_are_filled_quickly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    best = min(_seconds(lambda: messages.image_message(3, image, "camera_optical")) for _ in range(5))
    message = over_the_wire(messages.image_message(3, image, "camera_optical"))
    assert isinstance(message, Image)
    assert (message.encoding, message.step) == ("rgb8", 1920)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(480, 640, 3), image)
    assert best < 0.01  # 77 ms the slow way
    flipped = messages.image_message(3, image[::-1, ::-1], "c")  # not contiguous
    np.testing.assert_array_equal(np.frombuffer(flipped.data, np.uint8).reshape(480, 640, 3), image[::-1, ::-1])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_camera_info_survives() -> None:
    K = np.array([[60.0, 0, 41.5], [0, 61.0, 40.5], [0, 0, 1]])
    message = over_the_wire(messages.camera_info_message(3, "camera_optical", 84, 83, K))
    camera = camera_model(message)
    assert (camera.width, camera.height, camera.optical_frame, camera.distortion) == (84, 83, "camera_optical", None)
    np.testing.assert_array_equal(camera.K, K)
    bent = camera_model(messages.camera_info_message(3, "c", 84, 83, K, [0.1, 0, 0, 0, 0.0]))
    assert bent.distortion is not None
    assert bent.distortion[0] == 0.1
    message.roi.width, message.roi.height, message.roi.x_offset = 40, 20, 10
    message.binning_x = message.binning_y = 2
    cut = camera_model(message)
    assert (cut.width, cut.height) == (20, 10)
    np.testing.assert_allclose(cut.K[0], [30, 0, 15.75])


def test_cameras_without_a_usable_calibration_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="calibrate the camera"):
        camera_model(CameraInfo(width=640, height=480))
    K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    message = messages.camera_info_message(0, "c", 640, 480, K, [0.1, 0.2, 0.3, 0.4])
    message.distortion_model = "fov"
    with pytest.raises(ConfigurationError, match="distortion_model is 'fov'"):
        camera_model(message)


def test_episodes_survive_and_unknown_fields_are_refused() -> None:
    episode = Episode(id=3, seed=9, task="reach", phase="finished", stamp=17, outcome={"success": True, "steps": 40})
    assert decode.episode_from_message(over_the_wire(messages.episode_message(episode))) == episode
    ready = decode.ready_from_message(messages.ready_message("policy", 3))
    assert (ready.node, ready.id) == ("policy", 3)
    for text, words in (
        ("{", "data is not JSON"),
        ("[]", "is list, expected a mapping"),
        ('{"id": 1, "phase": "paused"}', "phase is 'paused'"),
        ('{"id": 1, "phase": "reset", "foo": 2}', "foo is not a known field"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            decode.episode_from_message(String(data=text))


def test_drivers_that_call_joints_otherwise_are_mapped_by_the_arms_file() -> None:
    assert PANDA.gripper is not None
    theirs = {name: name.replace("panda", "fr3") for name in (*PANDA.joint_names, *PANDA.gripper.joint_names)}
    renamed = PANDA.model_copy(update={"driver_joint_names": theirs})
    state = arms.JointState(5, np.arange(7.0), np.zeros(7), np.zeros(7), 0.04)
    message = messages.joint_state_message(state, renamed)
    assert message.name[0] == "fr3_joint1"
    np.testing.assert_array_equal(decode.JointMatcher(renamed)(message).positions, state.positions)
    with pytest.raises(ConfigurationError, match=r"panda_joint1.* is missing.*driver_joint_names in config/arms/panda"):
        decode.JointMatcher(PANDA)(message)
    with pytest.raises(ValueError, match="driver_joint_names has 'elbow'"):
        type(PANDA).model_validate(PANDA.model_dump() | {"driver_joint_names": {"elbow": "e"}})
