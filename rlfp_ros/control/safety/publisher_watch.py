"""Watches who publishes what the controller reads and sends, while the arm is enabled.

A message does not say who sent it, so the publishers that the ROS graph lists are compared with those at the moment of
enabling. ROS-free; `nodes/publisher_guard.py` asks the graph.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SILENT_S = 0.5  # a stream of messages without one for this long has ended
APPEARED_S = 0.3  # longest time from a publisher's first message to its appearance in the graph
JUDGED_S = 0.15  # longest time that a new publisher may stay unexplained
GONE_S = 30.0  # DDS lists the publishers of a killed process for 20 s


class Publishing(enum.Enum):
    """Who may publish on a topic."""

    OURS = enum.auto()  # the controller alone
    INPUT = enum.auto()  # nodes that may be restarted while the arm is enabled
    SHARED = enum.auto()  # also nodes with messages of another kind, as grippers on joint_states


class Publisher(NamedTuple):
    """One publisher: its identity in the ROS graph, and the full name of its node; empty if that is not known yet."""

    gid: bytes
    node: str


@dataclass
class _Stream:
    """Messages of one kind on one topic: when the newest came, and when the first after a silence did, s."""

    last_s: float
    began_s: float


class _New(NamedTuple):
    """When a publisher was first seen, and when the look before that was, s."""

    since_s: float
    before_s: float


@dataclass
class _Topic:
    """What is known of one topic."""

    publishing: Publishing
    known: dict[bytes, str] = field(default_factory=dict)  # node by identity
    free: list[str] = field(default_factory=list)  # nodes whose publisher has gone
    new: dict[bytes, _New] = field(default_factory=dict)  # not explained yet
    looked_s: float | None = None  # at the end of the last look
    restarted: dict[bytes, float] = field(default_factory=dict)  # whose node still has an old one here
    streams: dict[str, _Stream] = field(default_factory=dict)
    was_empty: bool = True  # nothing has published here since the arm was enabled

    def ran_through(self, before_s: float) -> bool:
        """Return whether messages came when a publisher appeared that was not there at `before_s`."""
        return any(
            before_s - stream.last_s < SILENT_S and before_s - stream.began_s > APPEARED_S
            for stream in list(self.streams.values())
        )

    def another_began(self, before_s: float) -> bool:
        """Return whether messages of another kind began with a publisher that was not there at `before_s`."""
        return any(kind and stream.began_s > before_s - APPEARED_S for kind, stream in list(self.streams.items()))


class PublisherWatch:
    """Decides whether a publisher may be where it is. Times are s of a steady clock.

    `heard` may be called in another thread than the other methods.

    The publishers at `begin` may stay. After that a new one may come only if

    - nothing has published on its topic yet,
    - the publisher of the same node has gone,
    - its topic is an input, and the publisher of the same node is listed but was silent when the new one came: the node
      was killed and restarted. The old one must go within `GONE_S`,
    - or its topic is shared, and messages of a kind that did not come before began with it: a gripper's own driver
      publishes joint states without the arm's joints.

    Parameters
    ----------
    topics
        Name of each topic, and who may publish on it.
    """

    def __init__(self, topics: Mapping[str, Publishing]) -> None:
        self._topics = {name: _Topic(publishing) for name, publishing in topics.items()}

    def begin(self, topic: str, present: Sequence[Publisher]) -> None:
        """Accept the publishers that a topic has when the arm is enabled."""
        before = self._topics[topic]
        known = {publisher.gid: publisher.node for publisher in present}
        self._topics[topic] = _Topic(before.publishing, known, streams=before.streams, was_empty=not present)

    def heard(self, topic: str, now_s: float, kind: str = "") -> None:
        """Take note of a message. On a shared topic, `kind` names what distinguishes it; empty: the arm's own."""
        streams = self._topics[topic].streams
        stream = streams.get(kind)
        if stream is None:
            streams[kind] = _Stream(now_s, now_s)
            return
        if now_s - stream.last_s > SILENT_S:
            stream.began_s = now_s
        stream.last_s = now_s

    def is_settled(self, topic: str) -> bool:
        """Return whether nothing new waits for an explanation, so that an equal number of publishers needs no look."""
        return not self._topics[topic].new

    def unchanged(self, topic: str, now_s: float) -> None:
        """Take note that a look found as many publishers of a topic as the one before."""
        self._topics[topic].looked_s = now_s

    def look(self, topic: str, present: Sequence[Publisher], now_s: float) -> str:
        """Compare the publishers of a topic with the accepted ones; return what is wrong in one sentence, or ""."""
        here = self._topics[topic]
        self._forget_gone(here, {publisher.gid for publisher in present})
        for gid, node in present:
            if gid in here.known:
                here.known[gid] = node or here.known[gid]
            elif self._explained(here, gid, node, now_s):
                here.new.pop(gid, None)
                here.known[gid] = node
            elif now_s - here.new[gid].since_s >= (
                0.0 if node and here.publishing is not Publishing.SHARED else JUDGED_S
            ):
                return _sentence(topic, node, sorted(filter(None, here.known.values())))
        for gid, since in here.restarted.items():
            if now_s - since > GONE_S:
                return _sentence(topic, here.known[gid], [here.known[gid]])
        here.looked_s = now_s
        return ""

    def _forget_gone(self, here: _Topic, present: set[bytes]) -> None:
        gone = {here.known.pop(gid) for gid in [gid for gid in here.known if gid not in present]}
        here.free += sorted(gone.difference(here.known.values()))
        for gid in [gid for gid in here.new if gid not in present]:
            del here.new[gid]
        nodes = list(here.known.values())
        here.restarted = {
            gid: since
            for gid, since in here.restarted.items()
            if gid in here.known and nodes.count(here.known[gid]) > 1
        }

    def _explained(self, here: _Topic, gid: bytes, node: str, now_s: float) -> bool:
        before_s = here.new.setdefault(gid, _New(now_s, now_s if here.looked_s is None else here.looked_s)).before_s
        if here.was_empty:
            here.was_empty = False
            return True
        if here.publishing is Publishing.SHARED and here.another_began(before_s):
            return True
        if not node:
            return False
        if node in here.free:
            here.free.remove(node)
            return True
        is_input = here.publishing is Publishing.INPUT
        if is_input and node in here.known.values() and not here.ran_through(before_s):
            here.restarted[gid] = now_s
            return True
        return False


def _sentence(topic: str, node: str, others: Sequence[str]) -> str:
    beside = f" beside {', '.join(others)}" if others else ""
    return (
        f"{node or 'a node without a name'} publishes on {topic}{beside} since the arm was enabled; end one of them, "
        "then reset and enable"
    )
