"""One recorded topic: its subscriptions, what publishers offer, and the recognition of messages that came twice."""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from rlfp_ros.recording.losses import LossCounter
from rlfp_ros.recording.metadata import QualityOfService

REMEMBERED = 1024  # messages of a topic by which one that arrives by two subscriptions is recognised


@dataclass(frozen=True)
class Offer:
    """The part of a publisher's quality of service that decides which subscriptions match it."""

    reliable: bool = True
    latched: bool = False


@dataclass
class RecordedSubscriptions:
    """One topic and its subscriptions: one for each QoS of its publishers, so that all of them match."""

    name: str  # absolute
    type: str  # "" until a publisher is found
    subscriptions: dict[Offer, Subscription] = field(default_factory=dict)
    qos: tuple[QualityOfService, ...] = ()
    losses: LossCounter = field(default_factory=LossCounter)
    recent: deque[tuple[int, int, bytes]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    recent_set: set[tuple[int, int, bytes]] = field(default_factory=set)

    @property
    def matched(self) -> bool:
        """Whether DDS has connected a publisher."""
        return any(subscription.get_publisher_count() for subscription in self.subscriptions.values())

    def is_new(self, message: tuple[int, int, bytes]) -> bool:
        """Return whether this message (published at, number, first bytes) has not come by another subscription."""
        if message in self.recent_set:
            return False
        if len(self.recent) == REMEMBERED:
            self.recent_set.discard(self.recent[0])
        self.recent.append(message)
        self.recent_set.add(message)
        return True

    def forget(self) -> None:
        """Forget what arrived: a latched message that comes again belongs into the next bag, and gaps are no losses."""
        lost = self.losses.lost
        self.losses = LossCounter()
        self.losses.lost = lost
        self.recent.clear()
        self.recent_set.clear()


def message_class(typename: str) -> Any:
    """Import the class of a message type such as pkg/msg/Type. Raises ImportError or AttributeError."""
    package, _, name = typename.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def type_name(message_type: Any) -> str:
    """Return the name of a message class, pkg/msg/Type."""
    package = message_type.__module__.split(".")[0]
    return f"{package}/msg/{message_type.__name__}"


def quality_of_service(qos: QoSProfile) -> QualityOfService:
    """Convert a publisher's profile for the bag's metadata."""
    known = qos.history in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL)
    return QualityOfService(
        depth=int(qos.depth),
        history=("keep_last" if qos.history == HistoryPolicy.KEEP_LAST else "keep_all") if known else "unknown",
        reliability="best_effort" if qos.reliability == ReliabilityPolicy.BEST_EFFORT else "reliable",
        durability="transient_local" if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
    )
