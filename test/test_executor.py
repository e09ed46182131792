"""Tests of the nodes' executor: a callback may change the node's entities."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from python_process import run_python
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from rlfp_ros.cli.doctor import may_run_in_real_time
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.executor import NodeExecutor, take

LIMIT_S = 15.0


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    made = Node(f"executor_{os.getpid()}", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_destroying_a_ready_subscription_in_an_earlier_callback_is_not_an_error(node: Node) -> None:
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


def test_missed_deadline_does_not_keep_the_processor_busy(node: Node) -> None:
    """A deadline event that waits to be taken ends every wait at once."""
    missed: list[int] = []
    events = SubscriptionEventCallbacks(deadline=lambda event: missed.append(event.total_count))
    node.create_subscription(Header, "stream", lambda _: None, messages.STREAM, event_callbacks=events)
    publisher = node.create_publisher(Header, "stream", messages.STREAM)
    executor = NodeExecutor(node)
    limit = time.monotonic() + LIMIT_S
    while not publisher.get_subscription_count():
        assert time.monotonic() < limit
        executor.spin_once(0.01)
    publisher.publish(Header())
    while not missed:
        assert time.monotonic() < limit
        executor.spin_once(0.05)
    began, busy, rounds = time.monotonic(), time.thread_time(), 0
    while time.monotonic() < began + 1.0:
        executor.spin_once(0.25)
        rounds += 1
    executor.close()
    assert missed[-1] >= 8  # 10 a second, all noticed
    assert rounds < 100
    assert time.thread_time() - busy < 0.3


def test_batch_runs_in_the_order_of_publication_across_topics(node: Node) -> None:
    heard: list[str] = []
    for name in ("first", "second"):
        node.create_subscription(Header, name, lambda message, _: heard.append(message.frame_id), 50)
    publishers = {name: node.create_publisher(Header, name, 50) for name in ("first", "second")}
    executor = NodeExecutor(node, batch_s=0.05)
    limit = time.monotonic() + LIMIT_S
    while not all(publisher.get_subscription_count() for publisher in publishers.values()):
        assert time.monotonic() < limit
        executor.spin_once(0.1)
    said = [f"{name} {number}" for number in range(5) for name in ("second", "first")]
    for words in said:
        publishers[words.split()[0]].publish(Header(frame_id=words))
    while len(heard) < len(said):
        assert time.monotonic() < limit
        executor.spin_once(0.1)
    executor.close()
    assert heard == said


def test_a_batch_continues_after_a_callback_that_raises(node: Node) -> None:
    heard: list[str] = []

    def hear(message: Header) -> None:
        heard.append(message.frame_id)
        if message.frame_id == "1":
            raise ValueError("no")

    node.create_subscription(Header, "first", hear, 50)
    publisher = node.create_publisher(Header, "first", 50)
    executor = NodeExecutor(node, batch_s=0.05)
    limit = time.monotonic() + LIMIT_S
    while not publisher.get_subscription_count():
        assert time.monotonic() < limit
        executor.spin_once(0.1)
    for number in range(4):
        publisher.publish(Header(frame_id=str(number)))
    while len(heard) < 4:
        assert time.monotonic() < limit
        with contextlib.suppress(ValueError):
            executor.spin_once(0.1)
    executor.close()
    assert heard == ["0", "1", "2", "3"]


def test_polled_subscription_is_left_to_its_node(node: Node) -> None:
    heard: list[str] = []
    subscription = node.create_subscription(Header, "joints", lambda message: heard.append(message.frame_id), 50)
    node.polled = (subscription,)
    publisher = node.create_publisher(Header, "joints", 50)
    executor = NodeExecutor(node)
    limit = time.monotonic() + LIMIT_S
    while not publisher.get_subscription_count():
        assert time.monotonic() < limit
        executor.spin_once(0.01)
    publisher.publish(Header(frame_id="a"))
    assert publisher.wait_for_all_acked(Duration(seconds=LIMIT_S))
    executor.spin_once(0.05)
    assert heard == []
    assert take(subscription)[0].frame_id == "a"
    assert take(subscription) is None
    node.polled = ()
    publisher.publish(Header(frame_id="b"))
    while not heard:
        assert time.monotonic() < limit
        executor.spin_once(0.05)
    executor.close()
    assert heard == ["b"]


def test_service_whose_callback_raises_answers_all_the_same(node: Node) -> None:
    def fail(_: Trigger.Request, __: Trigger.Response) -> Trigger.Response:
        raise ValueError("no")

    node.create_service(Trigger, "fail", fail)
    client = node.create_client(Trigger, "fail")
    executor = NodeExecutor(node)
    limit = time.monotonic() + LIMIT_S
    while not client.service_is_ready():
        assert time.monotonic() < limit
        executor.spin_once(0.01)
    answer, raised = client.call_async(Trigger.Request()), 0
    while not answer.done():
        assert time.monotonic() < limit
        try:
            executor.spin_once(0.05)
        except ValueError:
            raised += 1
    executor.close()
    assert raised == 1
    assert not answer.result().success


def test_real_time_priority_is_for_all_threads_or_none() -> None:
    program = (
        "import os, threading\n"
        "from rlfp_ros.nodes.spin import run_in_real_time\n"
        "leave = threading.Event(); threading.Thread(target=leave.wait).start()\n"
        "granted = run_in_real_time(1)\n"
        "found = {os.sched_getscheduler(int(task)) for task in os.listdir('/proc/self/task')}\n"
        "leave.set()\n"
        "print(granted, found == {os.SCHED_FIFO if granted else os.SCHED_OTHER})\n"
    )
    granted, right = run_python("-c", program).stdout.split()
    assert right == "True"
    assert granted == str(may_run_in_real_time())
