"""Subscriptions to drivers' topics, with the quality of service that their publishers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

LOOK_S = 0.5  # between checks of the publishers


class DriverSubscription:
    """A subscription that matches every publisher of a driver's topic.

    DDS delivers nothing from a publisher that offers less than the subscription requests: a reliable subscriber gets no
    messages of a best-effort driver. This subscription requests `qos`, and checks the publishers twice a second: if any
    of them is best effort, it requests best effort.

    Parameters
    ----------
    node
        Owner of the subscription.
    message_type, topic, callback, raw
        As for `Node.create_subscription`.
    qos
        The requested QoS as long as no publisher offers less.
    keeps_latched
        Whether to request the last message, if all publishers keep it for late subscribers, so that a camera_info that
        is published only once is received. Not for topics on which an old message must not be taken for a new one.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        topic: str,
        callback: Callable[..., None],
        qos: QoSProfile,
        *,
        raw: bool = False,
        keeps_latched: bool = False,
    ) -> None:
        self._node = node
        self._message_type, self._topic, self._callback, self._raw = message_type, topic, callback, raw
        self._wanted = qos
        self._keeps_latched = keeps_latched
        self._asked = qos.reliability, qos.durability
        self.current: Subscription = self._subscribe(qos)
        self._timer = node.create_timer(LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self.current)

    def _subscribe(self, qos: QoSProfile) -> Subscription:
        return self._node.create_subscription(self._message_type, self._topic, self._callback, qos, raw=self._raw)

    def _look(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self.current.topic_name)
        offered = [publisher.qos_profile for publisher in publishers]
        if not offered:
            return
        reliability, durability = self._wanted.reliability, self._wanted.durability
        if any(qos.reliability == ReliabilityPolicy.BEST_EFFORT for qos in offered):
            reliability = ReliabilityPolicy.BEST_EFFORT
        if self._keeps_latched and all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered):
            durability = DurabilityPolicy.TRANSIENT_LOCAL
            # A message is kept for late subscribers only if they are reliable.
            reliability = offered[0].reliability if len(offered) == 1 else reliability
        if (reliability, durability) == self._asked:
            return
        self._asked = reliability, durability
        self._node.destroy_subscription(self.current)
        self.current = self._subscribe(
            QoSProfile(
                history=self._wanted.history,
                depth=self._wanted.depth,
                reliability=reliability,
                durability=durability,
            )
        )
        self._node.get_logger().info(
            f"topic {self.current.topic_name}: asks for {reliability.name.lower()}, {durability.name.lower()}, "
            "as its publisher offers"
        )
