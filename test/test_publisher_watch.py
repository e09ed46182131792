"""Tests of who may publish what the controller reads and sends, without ROS and on its real node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from controller_driver import QUICK, Driver
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMessage

from rlfp_ros.control.safety.publisher_watch import GONE_S, JUDGED_S, Publisher, PublisherWatch, Publishing
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.publisher_guard import LOOK_S

PROMISED_S = 0.5
POLICY = Publisher(b"p1", "/policy")
AGAIN = Publisher(b"p2", "/policy")
ARM = Publisher(b"a1", "/arm_driver")
GRIPPER = Publisher(b"g1", "/gripper_driver")


def watch(topic: str, publishing: Publishing, *present: Publisher) -> PublisherWatch:
    made = PublisherWatch({topic: publishing})
    made.begin(topic, present)
    return made


def stream(made: PublisherWatch, topic: str, begin: float, end: float, kind: str = "") -> None:
    """Messages at 30 Hz."""
    for at in np.arange(begin, end, 1 / 30):
        made.heard(topic, float(at), kind)


def test_another_node_is_named_with_its_topic_at_the_first_look() -> None:
    made = watch("/policy/residual", Publishing.INPUT, POLICY)
    stream(made, "/policy/residual", 0.0, 10.0)
    assert made.look("/policy/residual", [POLICY], 10.0) == ""
    said = made.look("/policy/residual", [POLICY, Publisher(b"x", "/stranger")], 10.1)
    assert "/stranger publishes on /policy/residual beside /policy" in said


def test_the_first_publisher_of_an_empty_topic_may_come_and_a_second_may_not() -> None:
    made = watch("/policy/residual", Publishing.INPUT)
    assert made.look("/policy/residual", [POLICY], 1.0) == ""
    assert made.look("/policy/residual", [POLICY, Publisher(b"x", "/other")], 2.0)


def test_a_node_that_was_killed_and_restarted_may_come_back_while_dds_still_lists_it() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, POLICY)
    stream(made, topic, 0.0, 10.0)  # it is killed at 10
    stream(made, topic, 12.0, 12.1)  # messages may be faster than the graph
    assert made.look(topic, [POLICY, AGAIN], 12.1) == ""
    stream(made, topic, 12.1, 14.0)
    assert made.look(topic, [POLICY, AGAIN], 14.0) == ""
    assert made.look(topic, [AGAIN], 30.0) == ""
    assert made.look(topic, [AGAIN], 100.0) == ""
    stream(made, topic, 98.0, 101.0)
    assert "/policy publishes on" in made.look(topic, [AGAIN, Publisher(b"p3", "/policy")], 101.0)


def test_a_late_look_does_not_take_a_restarted_node_for_a_second_one() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, POLICY)
    stream(made, topic, 0.0, 10.0)
    assert made.look(topic, [POLICY], 11.0) == ""
    stream(made, topic, 12.0, 14.0)  # a busy machine gives the thread that looks no time
    assert made.look(topic, [POLICY, AGAIN], 14.0) == ""


def test_a_restarted_node_whose_old_publisher_stays_is_a_second_one() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, POLICY)
    stream(made, topic, 0.0, 1.0)
    assert made.look(topic, [POLICY, AGAIN], 3.0) == ""
    assert made.look(topic, [POLICY, AGAIN], 3.0 + GONE_S) == ""
    assert made.look(topic, [POLICY, AGAIN], 3.1 + GONE_S)


def test_a_second_node_of_the_same_name_beside_a_living_one_is_refused() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, POLICY)
    stream(made, topic, 0.0, 10.0)
    assert made.look(topic, [POLICY, AGAIN], 10.0)


def test_no_node_takes_the_place_of_the_controllers_own_publisher() -> None:
    made = watch("/command", Publishing.OURS, Publisher(b"c1", "/residual_controller"))
    both = [Publisher(b"c1", "/residual_controller"), Publisher(b"c2", "/residual_controller")]
    assert made.look("/command", both, 1.0)


def test_two_that_went_together_leave_one_place() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, POLICY)
    assert made.look(topic, [POLICY, AGAIN], 3.0) == ""
    assert made.look(topic, [], 4.0) == ""
    stream(made, topic, 4.0, 5.0)
    third, fourth = Publisher(b"p3", "/policy"), Publisher(b"p4", "/policy")
    assert made.look(topic, [third], 5.0) == ""
    assert made.look(topic, [third, fourth], 5.1)


def test_a_grippers_driver_may_join_the_joint_states_and_a_second_arms_may_not() -> None:
    topic = "/joint_states"
    made = watch(topic, Publishing.SHARED, ARM)
    assert made.look(topic, [ARM, GRIPPER], 1.0) == ""  # it is not judged yet
    assert not made.is_settled(topic)
    stream(made, topic, 1.05, 1.2, "finger_joint")
    assert made.look(topic, [ARM, GRIPPER], 1.2) == ""
    stream(made, topic, 1.2, 9.0, "finger_joint")
    assert made.look(topic, [ARM, GRIPPER], 8.9) == ""
    second = Publisher(b"a2", "/second_arm")
    assert made.look(topic, [ARM, GRIPPER, second], 9.0) == ""
    said = made.look(topic, [ARM, GRIPPER, second], 9.3)
    assert "/second_arm publishes on /joint_states beside /arm_driver, /gripper_driver" in said


def test_a_node_whose_name_is_not_known_yet_is_judged_when_it_is() -> None:
    topic = "/policy/residual"
    made = watch(topic, Publishing.INPUT, Publisher(b"p1", ""))
    assert made.look(topic, [POLICY], 0.5) == ""
    assert made.look(topic, [], 1.0) == ""
    assert made.look(topic, [Publisher(b"p2", "")], 2.0) == ""
    assert made.look(topic, [AGAIN], 2.1) == ""
    assert made.look(topic, [AGAIN, Publisher(b"x", "")], 3.0) == ""
    assert "a node without a name" in made.look(topic, [AGAIN, Publisher(b"x", "")], 3.3)


@pytest.fixture
def stranger() -> Iterator[Callable[[], Node]]:
    context = Context()
    rclpy.init(context=context)
    nodes: list[Node] = []

    def start() -> Node:
        nodes.append(Node("stranger", context=context, use_global_arguments=False))
        return nodes[-1]

    yield start
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    "topic", [m.RESIDUAL, m.ARM_COMMAND, m.JOINT_STATES, m.HEARTBEAT], ids=lambda topic: topic.name
)
def test_a_second_publisher_soon_stops_the_enabled_arm(
    topic: m.Topic, start_controller: Callable[..., Driver], stranger: Callable[[], Node]
) -> None:
    driver = start_controller(*QUICK, "require_heartbeat:=true", "heartbeat_timeout_s:=10.0")
    heartbeat = driver.client.create_publisher(m.HEARTBEAT.type, m.HEARTBEAT.name, m.HEARTBEAT.qos)
    driver.until(heartbeat.get_subscription_count)
    heartbeat.publish(m.header_message(1))
    for tick in range(4):
        driver.tick(tick)
    driver.until(lambda: driver.state["state"] == "ACTIVE")
    node = stranger()
    node.create_publisher(topic.type, topic.name, topic.qos)
    driver.until(lambda: node.count_subscribers(topic.name) or topic is m.ARM_COMMAND)
    driver.until(lambda: driver.client.count_publishers(topic.name) > 1)
    ticks = iter(range(5, 10_000))
    while driver.state["state"] != "STOPPED":
        driver.tick(next(ticks))
    assert driver.state["reasons"] == ["additional_publisher"]
    assert f"/stranger publishes on /{topic.name}" in driver.state["detail"]
    assert driver.call("reset").success
    assert driver.call("enable").success  # a person has seen it


def test_looks_are_frequent_enough_for_the_promise() -> None:
    """The slowest case is a driver that might still prove to be a gripper's. A busy machine is not held to it."""
    assert 2 * LOOK_S + JUDGED_S <= PROMISED_S


def test_a_grippers_own_driver_does_not_stop_the_arm(
    start_controller: Callable[..., Driver], stranger: Callable[[], Node]
) -> None:
    driver = start_controller(*QUICK)
    driver.tick(0)
    gripper = stranger().create_publisher(m.JOINT_STATES.type, m.JOINT_STATES.name, m.JOINT_STATES.qos)
    end, tick = time.monotonic() + 1.0, 0
    while time.monotonic() < end:
        tick += 1
        driver.tick(tick)
        gripper.publish(JointStateMessage(name=["finger"], position=[0.0], velocity=[0.0], effort=[0.0]))
        driver.executor.spin_once(timeout_sec=0.02)
    assert not driver.node.controller.supervisor.latched
