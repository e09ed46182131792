"""Tests of the recorder with publishers of another quality of service or another type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Process, TestNode, wait_until
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from recorded_robot import PANDA, Publisher, names, state, until_recorded
from visualization_msgs.msg import Marker

from rlfp_ros.control.trajectory import Residual
from rlfp_ros.nodes import messages
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph


def test_nothing_is_lost_if_publishers_of_another_quality_of_service_join(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    second = third = None
    for number in range(300):
        if number == 100:
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
            second = test_node.publisher(messages.JOINT_STATES, qos)
        if number == 180:
            qos = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            third = test_node.publisher(messages.JOINT_STATES, qos)
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        if second is not None and number >= 200:
            second.publish(messages.joint_state_message(state(1000 + number), PANDA))
        if third is not None:
            third.publish(messages.joint_state_message(state(2000 + number), PANDA))
        test_node.spin_for(0.01)
    test_node.spin_for(0.5)
    assert process.stop() == 0
    assert "dropped: none" in process.output
    assert "RCLError" not in process.output
    assert "exception" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        found = sorted(names(bag))
    assert found == [*map(float, range(300)), *map(float, range(1200, 1300)), *map(float, range(2180, 2300))]


def test_a_topic_of_another_type_than_expected_is_recorded_as_it_is_published(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """Residuals are twists or joint trajectories, depending on the bundle."""
    residual = test_node.publisher(messages.JOINT_RESIDUAL)
    states = test_node.listen(messages.RECORDER_STATE)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(residual)
    for number in range(5):
        residual.publish(messages.joint_residual_message(Residual(number, np.zeros(7)), PANDA.joint_names))
    until_recorded(test_node, states, 5)
    assert process.stop() == 0
    assert "xception" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert bag.topics["/policy/residual"] == "trajectory_msgs/msg/JointTrajectory"
        assert sum(1 for _ in bag.messages({"/policy/residual"})) == 5


def test_a_topic_of_a_type_that_is_not_installed_is_reported_and_the_others_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder runs without the workspace of one of the publishers."""
    robot = Publisher(test_node)
    states = test_node.listen(messages.RECORDER_STATE)
    marker = test_node.node.create_publisher(Marker, "marker", 10)
    (tmp_path / "hidden" / "visualization_msgs").mkdir(parents=True)
    (tmp_path / "hidden" / "visualization_msgs" / "__init__.py").write_text("raise ImportError('not sourced')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    process = start_node(
        "recorder",
        {"directory": tmp_path / "bags", "per_episode": False, "topics": "[marker, joint_states, camera/image_raw]"},
    )
    robot.connected()
    for number in range(10):
        marker.publish(Marker())
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        test_node.spin_for(0.05)
    until_recorded(test_node, states, 10)
    assert process.stop() == 0
    sentence = "topic /marker: type visualization_msgs/msg/Marker is not installed here, so it is not recorded"
    assert process.output.count(sentence) == 1
    assert "Traceback" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert names(bag) == [float(number) for number in range(10)]


OTHER_TYPE = """
import time, rclpy
from std_msgs.msg import String
rclpy.init()
publisher = rclpy.create_node("other").create_publisher(String, "joint_states", 10)
while True:
    publisher.publish(String(data="other"))
    time.sleep(0.02)
"""


def test_a_topic_of_two_types_is_reported(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    for last in (False, False, True):  # seen once: such a process did not show up in DDS within 15 s
        with subprocess.Popen([sys.executable, "-c", OTHER_TYPE]) as other:  # one process cannot publish both
            try:
                wait_until(lambda: "is published as" in process.output)
                break
            except AssertionError:
                if last:
                    raise
            finally:
                other.kill()
    robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
    test_node.spin_for(0.3)
    assert process.stop() == 0
    sentence = (
        "topic /joint_states: is published as sensor_msgs/msg/JointState and std_msgs/msg/String; only sensor_msgs"
    )
    assert process.output.count(sentence) == 1
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert names(bag) == [1.0]
