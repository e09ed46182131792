"""The nodes' executor where a callback changes what the node has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header

from rlfp_ros.nodes.executor import NodeExecutor

LIMIT_S = 15.0


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    made = Node(f"executor_{os.getpid()}", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_subscription_destroyed_by_a_callback_before_it_is_no_error(node: Node) -> None:
    """Both have a message ready in the same pass; the first one's callback destroys the second."""
    heard: list[str] = []
    subscriptions: dict[str, Any] = {}

    def first(_: Header) -> None:
        heard.append("first")
        if "second" in subscriptions:
            node.destroy_subscription(subscriptions.pop("second"))

    node.create_subscription(Header, "first", first, 1)
    subscriptions["second"] = node.create_subscription(Header, "second", lambda _: heard.append("second"), 1)
    publishers = [node.create_publisher(Header, name, 1) for name in ("second", "first")]
    executor = NodeExecutor(node)
    limit = time.monotonic() + LIMIT_S
    while not all(publisher.get_subscription_count() for publisher in publishers):
        assert time.monotonic() < limit
        executor.spin_once(0.01)
    for publisher in publishers:
        publisher.publish(Header())
        assert publisher.wait_for_all_acked(Duration(seconds=LIMIT_S))  # both wait before the pass that takes them
    while "first" not in heard:
        assert time.monotonic() < limit
        executor.spin_once(0.05)
    executor.spin_once(0.01)
    executor.close()
    assert heard == ["first"]
