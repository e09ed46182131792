"""Connects a node with the other nodes of an episode, and answers on `episode/ready` when it is connected.

DDS connects two processes topic by topic and in each direction separately. On a busy machine this takes seconds, and
what is published before is lost without a trace. Each node therefore announces its name on the latched topic
`episode/present`, by a publisher and a subscription that it creates after all others. DDS announces publishers and
subscriptions in the order of their creation. A node that receives another node's name is hence connected with all of
its publishers. When every node of an episode has received every other node's name, nothing is lost any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import String

from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages

LIMIT_S = 25.0  # longest wait before the first answer; the simulator and the twin wait 30 s for it
LATER_LIMIT_S = 2.0  # longest wait before a later answer; the simulator waits 5 s for it
CHECK_S = 0.25  # between checks while it waits
REPEAT_S = 1.0  # between answers until the episode begins, because the first may be lost as well


class Attendance:
    """Answers each episode's announcement as soon as this node is connected with all nodes of the episode.

    After `LIMIT_S` it answers without a connection, logs which nodes are missing, and does not wait for them again.

    Parameters
    ----------
    node
        The node. Create this object after all publishers and subscriptions of the node, and call `renew` after
        creating another subscription.
    unmatched
        Returns what else is not connected yet, as the words of a sentence.
    on_answer
        Called before an answer.

    Attributes
    ----------
    fault : str
        What was missing when it answered without a connection, in one sentence; "" if nothing was.
    """

    def __init__(
        self,
        node: Node,
        unmatched: Callable[[], Sequence[str]] = tuple,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._unmatched, self._on_answer = node, unmatched, on_answer
        self._heard: set[str] = {node.get_name()}
        self._given_up: set[str] = set()
        self._announced: Episode | None = None  # an episode that has not begun yet
        self._since = 0.0
        self._answered_at: float | None = None
        self._answered_before = False
        self.fault = ""
        ready, present = messages.EPISODE_READY, messages.EPISODE_PRESENT
        self._ready = node.create_publisher(ready.type, ready.name, ready.qos)
        self._present = node.create_publisher(present.type, present.name, present.qos)
        self._present.publish(String(data=node.get_name()))
        self._subscription: Subscription = self._subscribe()
        node.create_timer(CHECK_S, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def renew(self) -> None:
        """Ask for the other nodes' names again, after the node created a subscription."""
        self._heard = {self._node.get_name()}
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()

    def missing(self, names: Collection[str], waited_s: float = 0.0) -> list[str]:
        """Return those of the nodes `names` that this node is not connected with, none after the longest wait."""
        missing = [name for name in names if name not in self._heard | self._given_up]
        if missing and waited_s > LIMIT_S:
            self._give_up(missing, missing, LIMIT_S)
            return []
        return missing

    def on_episode(self, episode: Episode) -> None:
        """Handle an announcement; call it after the node has forgotten the last episode."""
        self._announced = episode if episode.phase is Phase.RESET else None
        self._since, self._answered_at = time.monotonic(), None
        self._check()

    def _subscribe(self) -> Subscription:
        present = messages.EPISODE_PRESENT
        return self._node.create_subscription(present.type, present.name, self._on_present, present.qos)

    def _on_present(self, message: String) -> None:
        self._heard.add(message.data)
        self._check()

    def _check(self) -> None:
        episode, now = self._announced, time.monotonic()
        if episode is None:
            return
        if self._answered_at is not None:
            if episode.nodes and now - self._answered_at > REPEAT_S:
                self._answer(episode)
            return
        names = self.missing(episode.nodes)
        missing = [*names, *self._unmatched()]
        limit = LATER_LIMIT_S if self._answered_before else LIMIT_S
        if missing and now - self._since < limit:
            return
        if missing:
            self._give_up(names, missing, limit)
        self._answered_before = True
        self._on_answer()
        self._answer(episode)

    def _give_up(self, names: Sequence[str], missing: Sequence[str], waited_s: float) -> None:
        self._given_up.update(names)
        self.fault = (
            f"not connected with {', '.join(missing)} after {waited_s:g} s, so that messages are lost; "
            "is it running, and is this machine too busy?"
        )
        self._node.get_logger().warning(self.fault)

    def _answer(self, episode: Episode) -> None:
        self._answered_at = time.monotonic()
        self._ready.publish(messages.ready_message(self._node.get_name(), episode.id))
