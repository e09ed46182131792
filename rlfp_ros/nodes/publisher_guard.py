"""Asks the ROS graph who publishes the controller's inputs and commands, for `control.safety.publisher_watch`.

Counting the publishers of a topic takes 4 to 10 us and listing them 25 to 60 us, so this runs in a thread of its own,
which gives the interpreter's lock back after each topic: a tick never waits for more than one of them. Each look counts
the publishers of all topics and lists those of one; others are listed only if their number changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import cycle

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from rlfp_ros.control.safety.publisher_watch import Publisher, PublisherWatch, Publishing

LOOK_S = 0.1  # between looks
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # DDS has found the publisher, but not what its node is called


class PublisherGuard:
    """Looks at the publishers while the arm is enabled.

    Parameters
    ----------
    node
        The controller's node.
    topics
        Full name of each topic, and who may publish on it.
    is_enabled
        Whether the arm may move.
    """

    def __init__(self, node: Node, topics: Mapping[str, Publishing], is_enabled: Callable[[], bool]) -> None:
        self._node, self._is_enabled = node, is_enabled
        self._topics = tuple(topics)
        self._watch = PublisherWatch(topics)
        self._counts: dict[str, int] = {}
        self._turn = cycle(self._topics)
        self._fault = ""
        self._lock = threading.Lock()  # of everything above
        self._leaving = threading.Event()
        self.accept()
        self._thread = threading.Thread(target=self._run, name="publisher guard", daemon=True)
        self._thread.start()

    def accept(self) -> None:
        """Accept the publishers that are there now. Call it before the arm is enabled."""
        with self._lock:
            for topic in self._topics:
                self._watch.begin(topic, self._publishers(topic))
            self._counts.clear()
            self._fault = ""

    def take_fault(self) -> str:
        """Return one sentence about a publisher that may not be there, once; empty if there is none."""
        fault = self._fault
        if fault:
            self._fault = ""
        return fault

    def close(self) -> None:
        """End the thread. Call it before the node is destroyed."""
        self._leaving.set()
        self._thread.join()

    def heard(self, topic: str, kind: str = "") -> None:
        """Take note of a message; see `PublisherWatch.heard`."""
        self._watch.heard(topic, time.monotonic(), kind)

    def _run(self) -> None:
        while not self._leaving.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # an arm whose inputs cannot be watched must stop
                if not self._node.context.ok():
                    return
                self._fault = f"the publishers of the controller's topics cannot be listed: {error}"

    def look(self) -> None:
        """Look once at all topics."""
        turn = next(self._turn)
        for topic in self._topics:
            if not self._is_enabled():
                return
            with self._lock:
                self._look_at(topic, topic == turn)
            time.sleep(0)  # gives a tick that waits the interpreter's lock

    def _look_at(self, topic: str, always: bool) -> None:
        count = self._node.count_publishers(topic)
        if always or count != self._counts.get(topic) or not self._watch.is_settled(topic):
            self._counts[topic] = count
            self._fault = self._watch.look(topic, self._publishers(topic), time.monotonic()) or self._fault
        else:
            self._watch.unchanged(topic, time.monotonic())

    def _publishers(self, topic: str) -> list[Publisher]:
        # Node.get_publishers_info_by_topic takes twice as long, because it also converts QoS profiles and types.
        with self._node.handle:
            found = rclpy_implementation.rclpy_get_publishers_info_by_topic(self._node.handle, topic, False)
        return [
            Publisher(
                bytes(entry["endpoint_gid"]),
                "" if entry["node_name"] == UNKNOWN else f"{entry['node_namespace'].rstrip('/')}/{entry['node_name']}",
            )
            for entry in found
        ]
