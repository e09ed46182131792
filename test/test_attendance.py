"""Tests that nodes report ready for an episode only after they are connected with each other, on real DDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import TestNode
from rclpy.node import Node
from std_msgs.msg import String

from rlfp_ros.episode import Episode
from rlfp_ros.nodes import attendance, messages
from rlfp_ros.nodes.attendance import Attendance

pytestmark = pytest.mark.graph
ANNOUNCED = Episode(id=3, phase="reset", nodes=("one", "two"))


class Member(TestNode):
    """A node with an Attendance."""

    def __init__(self, context: Any, name: str) -> None:
        super().__init__(context, name)
        self.blocked: list[str] = []
        self.attendance = Attendance(self.node, lambda: self.blocked)


@pytest.fixture
def members(ros_context: Any) -> Iterator[Any]:
    made: list[Member] = []

    def make(name: str) -> Member:
        made.append(Member(ros_context, name))
        return made[-1]

    yield make
    for member in made:
        member.close()


def answers(test_node: TestNode) -> list[Any]:
    return [json.loads(message.data) for message in test_node.received[messages.EPISODE_READY.name]]


@pytest.fixture
def listening(test_node: TestNode) -> TestNode:
    test_node.listen(messages.EPISODE_READY)
    return test_node


def test_a_node_answers_when_it_has_heard_every_node_of_the_episode(listening: TestNode, members: Any) -> None:
    one = members("one")
    one.attendance.on_episode(ANNOUNCED)
    one.spin_for(0.6)
    listening.spin_for(0.2)
    assert answers(listening) == []
    assert one.attendance.missing(ANNOUNCED.nodes) == ["two"]
    members("two")

    def answered() -> bool:
        one.spin_for(0.05)
        return {"node": "one", "id": 3} in answers(listening)

    listening.spin_until(answered)
    assert one.attendance.fault == ""


def test_an_answer_that_was_lost_is_repeated_until_the_episode_begins(
    listening: TestNode, members: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "REPEAT_S", 0.1)
    one, _ = members("one"), members("two")

    def answered_twice() -> bool:
        one.spin_for(0.05)
        return len(answers(listening)) >= 2

    one.attendance.on_episode(ANNOUNCED)
    listening.spin_until(answered_twice)
    one.attendance.on_episode(Episode(id=3, phase="running"))
    listening.spin_for(0.2)
    before = len(answers(listening))
    one.spin_for(1.0)
    listening.spin_for(0.2)
    assert len(answers(listening)) == before


def test_after_the_longest_wait_a_node_answers_and_names_missing_peers(
    listening: TestNode, members: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "LIMIT_S", 0.5)
    one = members("one")
    one.blocked.append("the publisher of /joint_states")
    one.attendance.on_episode(ANNOUNCED)

    def answered() -> bool:
        one.spin_for(0.05)
        return {"node": "one", "id": 3} in answers(listening)

    listening.spin_until(answered)
    assert "not connected with two, the publisher of /joint_states after 0.5 s" in one.attendance.fault
    one.blocked.clear()
    one.attendance.on_episode(Episode(id=4, phase="reset", nodes=ANNOUNCED.nodes))  # it does not wait for `two` again
    one.spin_for(0.1)
    listening.spin_until(lambda: {"node": "one", "id": 4} in answers(listening), timeout_s=1.0)


def test_a_new_subscription_has_to_be_connected_too(members: Any) -> None:
    one, two = members("one"), members("two")
    one.spin_until(lambda: not one.attendance.missing(ANNOUNCED.nodes))
    one.node.create_subscription(String, "more", print, 10)
    one.attendance.renew()
    assert one.attendance.missing(ANNOUNCED.nodes) == ["two"]
    one.spin_until(lambda: not one.attendance.missing(ANNOUNCED.nodes))
    assert isinstance(two.node, Node)


def test_an_announcement_without_nodes_is_answered_at_once_and_once(listening: TestNode, members: Any) -> None:
    one = members("one")
    listening.spin_until(lambda: listening.node.count_publishers(messages.EPISODE_READY.name))
    listening.spin_for(0.2)
    one.attendance.on_episode(Episode(id=0, phase="reset"))
    one.spin_for(1.5)
    listening.spin_for(0.2)
    assert answers(listening) == [{"node": "one", "id": 0}]
