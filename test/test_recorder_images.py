"""Tests of which images the recorder takes, and of its reports if none come."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Process, TestNode
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from recorded_robot import PANDA, Publisher, recorded, state, until_recorded
from sensor_msgs.msg import CompressedImage

from rlfp_ros.nodes import messages
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph


def test_a_best_effort_camera_is_recorded_too(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node, QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    states = test_node.listen(messages.RECORDER_STATE)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    for number in range(5):
        robot.image.publish(messages.image_message(number, np.full((8, 8, 3), number, np.uint8), "camera"))
        test_node.spin_for(0.05)
    until_recorded(test_node, states, 5)
    assert process.stop() == 0
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert len(list(bag.messages({"/camera/image_raw"}))) == 5
    text = (tmp_path / "bags" / "run" / "metadata.yaml").read_text()
    assert "reliability: best_effort" in text


COMPRESSED = CompressedImage(
    format="rgb8; jpeg compressed bgr8", data=cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
)


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_a_camera_that_publishes_only_compressed_images_is_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path, reliability: ReliabilityPolicy
) -> None:
    camera = test_node.publisher(messages.IMAGE_COMPRESSED, QoSProfile(depth=5, reliability=reliability))
    states = test_node.listen(messages.RECORDER_STATE)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(camera)
    for _ in range(5):
        camera.publish(COMPRESSED)
        test_node.spin_for(0.05)
    until_recorded(test_node, states, 5)
    assert process.stop() == 0
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw/compressed") == 5
    assert "no images" not in process.output


def test_of_a_camera_that_publishes_both_only_the_raw_images_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    compressed = test_node.publisher(messages.IMAGE_COMPRESSED)
    states = test_node.listen(messages.RECORDER_STATE)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    for number in range(5):
        robot.image.publish(messages.image_message(number, np.zeros((8, 8, 3), np.uint8), "camera"))
        compressed.publish(COMPRESSED)
        test_node.spin_for(0.05)
    until_recorded(test_node, states, 5)
    assert compressed.get_subscription_count() == 0  # nothing makes image_transport compress
    assert process.stop() == 0
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert set(bag.topics) - {"/diagnostics"} == {"/camera/image_raw"}


def test_the_images_that_perception_takes_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """Both are published, and perception is set to take the compressed ones."""
    robot = Publisher(test_node)
    compressed = test_node.publisher(messages.IMAGE_COMPRESSED)
    states = test_node.listen(messages.RECORDER_STATE)
    perception = Node("perception", context=test_node.node.context)
    perception.create_subscription(CompressedImage, messages.IMAGE_COMPRESSED.name, print, messages.CAMERA_SUBSCRIPTION)
    try:
        process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
        test_node.spin_until(lambda: compressed.get_subscription_count() == 2)
        test_node.spin_until(lambda: robot.image.get_subscription_count() == 0)
        for number in range(5):
            robot.image.publish(messages.image_message(number, np.zeros((8, 8, 3), np.uint8), "camera"))
            compressed.publish(COMPRESSED)
            test_node.spin_for(0.05)
        until_recorded(test_node, states, 5)
        assert process.stop() == 0
    finally:
        perception.destroy_node()
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw/compressed") == 5
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw") == 0


def test_a_recording_without_images_is_reported_in_the_log_in_diagnostics_and_at_the_end(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    test_node.node.destroy_publisher(robot.image)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(robot.joint_states)

    def reported() -> bool:
        robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
        test_node.spin_for(0.05)
        return "no images are recorded" in robot.status()[0]

    test_node.spin_until(reported)
    reason = "nothing publishes /camera/image_raw or /camera/image_raw/compressed; start the camera"
    assert reason in robot.status()[0]
    assert process.output.count(reason) == 1
    assert process.stop() == 0
    assert f"recorder: {tmp_path}/bags/run: no images are recorded: {reason}" in process.output


def test_a_recording_that_should_hold_no_images_is_not_reported(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False, "images": False})
    test_node.connected(robot.joint_states)
    ends = time.monotonic() + 4.0
    while time.monotonic() < ends:
        robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
        test_node.spin_for(0.05)
    assert process.stop() == 0
    assert "no images" not in process.output
