"""The topics that the recorder records: which they are, and their subscriptions, which match every publisher."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from rlfp_ros.nodes import messages
from rlfp_ros.nodes.recorded_topic import Offer, RecordedSubscriptions, message_class, quality_of_service, type_name
from rlfp_ros.recording.decode import IMAGE_TYPES
from rlfp_ros.schema import ConfigurationError

DEPTH = 200  # queue of a subscription: nearly a second at 240 Hz while this process does not run
IMAGE_DEPTH = 30  # queue of image topics, whose messages are large
PERCEPTION = "perception"  # name of the node whose images are recorded

# Without `topics`, and with the images that perception uses; without overlay and /clock, which playback sends itself.
DEFAULT_TOPICS = (
    messages.IMAGE,
    messages.CAMERA_INFO,
    messages.JOINT_STATES,
    messages.FEATURES,
    messages.OBJECT_POSE,
    messages.DOMAIN_SHIFT,
    messages.PERCEPT,
    messages.GOAL,
    messages.RESIDUAL,
    messages.GRIPPER,
    messages.RESIDUAL_APPLIED,
    messages.ACTION_APPLIED,
    messages.ARM_COMMAND,
    messages.GRIPPER_COMMAND,
    messages.EPISODE,
    messages.SAFETY_STATE,
    messages.ESTOP,
    messages.JOG,
    messages.OPERATOR_COMMAND,
    messages.DIAGNOSTICS,
)

Receive = Callable[[RecordedSubscriptions, bytes, dict[str, Any]], None]


class RecordedTopics:
    """Topics and their subscriptions. While it is closed, only the announcements of episodes arrive.

    Parameters
    ----------
    node
        The owner of the subscriptions.
    topics
        Names of the topics, absolute or relative; empty: those of the graph.
    images
        Whether images are recorded.
    receive
        Called with each serialised message and its info.
    on_subscribed
        Called after a subscription was created.

    Raises
    ------
    ConfigurationError
        If a name is not the name of a topic.
    """

    def __init__(
        self,
        node: Node,
        topics: Sequence[str],
        images: bool,
        receive: Receive,
        on_subscribed: Callable[[], None],
    ) -> None:
        self._node, self._images, self._receive, self._on_subscribed = node, images, receive, on_subscribed
        self._image_topics = messages.image_topics(node)
        self._known = {node.resolve_topic_name(topic.name): topic for topic in DEFAULT_TOPICS}
        self._topics = self._chosen(topics)
        self._follows_perception = images and not topics
        self._episode = node.resolve_topic_name(messages.EPISODE.name)
        self._diagnostics = node.resolve_topic_name(messages.DIAGNOSTICS.name)
        self.is_open = False

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[RecordedSubscriptions]:
        return iter(self._topics.values())

    @property
    def has_episodes(self) -> bool:
        """Whether announcements of episodes are recorded."""
        return self._episode in self._topics

    def is_episode(self, topic: RecordedSubscriptions) -> bool:
        """Whether a topic has the announcements of episodes."""
        return topic.name == self._episode

    def is_diagnostics(self, topic: RecordedSubscriptions) -> bool:
        """Whether a topic has the diagnostics, which come even if nothing else does."""
        return topic.name == self._diagnostics

    # ---- subscriptions ----

    def open(self) -> None:
        """Subscribe to all topics whose type is known; `look` adds the others and what their publishers offer."""
        self.is_open = True
        self._subscribe_known(self._topics.values())

    def follow_episodes(self) -> None:
        """Subscribe to the announcements of episodes alone."""
        self._subscribe_known([topic for topic in self if self.is_episode(topic)])

    def close(self) -> None:
        """Unsubscribe from everything but the announcements of episodes."""
        self.is_open = False
        for topic in self:
            if not self.is_episode(topic):
                self._unsubscribe(topic)
                topic.forget()

    def look(self) -> None:
        """Subscribe with the publishers' QoS, because a reliable request never matches a best-effort camera."""
        if self._follows_perception and self.is_open:
            self._follow_perception()
        for topic in self:
            if not (self.is_open or self.is_episode(topic)):
                continue
            publishers = self._node.get_publishers_info_by_topic(topic.name)
            topic.losses.publishers(len(publishers), time.monotonic())
            if publishers:
                try:
                    self._follow(topic, publishers)
                except ConfigurationError as error:
                    self._node.get_logger().error(str(error), once=True)

    def unmatched(self) -> list[str]:
        """Return the topics with publishers that DDS has not connected yet."""
        return [
            f"the publisher of {topic.name}"
            for topic in self
            if self.is_open
            and self._node.count_publishers(topic.name)
            and not topic.matched
            and not self._is_left_out(topic)
        ]

    def expect_all(self) -> None:
        """Count what is lost from now on also for publishers that are not connected yet."""
        for topic in self:
            if self.is_open and not topic.matched and not self.is_diagnostics(topic):
                topic.losses.expect_first()

    def lost(self) -> Counter[str]:
        """Return the messages per topic that never arrived."""
        return Counter({topic.name: topic.losses.lost for topic in self})

    def expected_images(self) -> list[str]:
        """Return the topics whose images the bag should hold."""
        if not self._images:
            return []
        if self._follows_perception:
            return list(self._image_topics)
        return [topic.name for topic in self if topic.type in IMAGE_TYPES]

    # ---- which ones ----

    def _chosen(self, topics: Sequence[str]) -> dict[str, RecordedSubscriptions]:
        names = [self._resolved(name) for name in topics] or list(self._known)
        types = {name: type_name(topic.type) for name, topic in self._known.items()}
        chosen = {name: RecordedSubscriptions(name, types.get(name, "")) for name in names}
        if not self._images:
            return {name: topic for name, topic in chosen.items() if topic.type not in IMAGE_TYPES}
        return chosen

    def _resolved(self, name: str) -> str:
        try:
            return str(self._node.resolve_topic_name(name))
        except rclpy_implementation.RCLError as error:
            reason = str(error).removeprefix("failed to resolve name: ").partition(", at ")[0]
            raise ConfigurationError(
                f"recorder parameters: topics has {name!r}, which is not the name of a topic ({reason})"
            ) from None

    def _follow_perception(self) -> None:
        """Record the image topic that perception uses; without perception the published one, raw before compressed.

        Not both, because compressed images are only produced while they have a subscriber.
        """
        published = [name for name in self._image_topics if self._node.count_publishers(name)]
        taken = [name for name in published if self._perception_takes(name)]
        for name in (taken or published)[:1]:
            if name not in self._topics:
                self._topics[name] = RecordedSubscriptions(name, "")
                self._node.get_logger().info(f"recording the images of {name}")
        for name in published:
            if taken and name not in taken and name in self._topics:
                self._unsubscribe(self._topics.pop(name))

    def _perception_takes(self, name: str) -> bool:
        return any(
            (endpoint.node_name, endpoint.node_namespace) == (PERCEPTION, self._node.get_namespace())
            for endpoint in self._node.get_subscriptions_info_by_topic(name)
        )

    def _is_left_out(self, topic: RecordedSubscriptions) -> bool:
        return topic.type in IMAGE_TYPES and not self._images

    # ---- one topic ----

    def _subscribe_known(self, topics: Iterable[RecordedSubscriptions]) -> None:
        for topic in topics:
            if topic.name in self._known:
                latched = self._known[topic.name].qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
                if Offer(latched=latched) not in topic.subscriptions:
                    self._subscribe(topic, Offer(latched=latched))

    def _follow(self, topic: RecordedSubscriptions, publishers: Sequence[TopicEndpointInfo]) -> None:
        types = sorted({publisher.topic_type for publisher in publishers})
        if topic.type not in types:  # residuals are twists or joint trajectories, depending on the bundle
            self._unsubscribe(topic)
            topic.type = types[0]
        if self._is_left_out(topic):
            return
        topic.qos = tuple(quality_of_service(publisher.qos_profile) for publisher in publishers)
        for publisher in publishers:
            offer = Offer(
                reliable=publisher.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT,
                latched=publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
            )
            if publisher.topic_type == topic.type and offer not in topic.subscriptions:
                self._subscribe(topic, offer)
        if len(types) > 1:
            raise ConfigurationError(
                f"topic {topic.name}: is published as {' and '.join(types)}; only {topic.type} is recorded, so let one "
                "of the publishers use another name"
            )

    def _subscribe(self, topic: RecordedSubscriptions, offer: Offer) -> None:
        try:
            message_type = message_class(topic.type)
        except (ImportError, AttributeError):
            raise ConfigurationError(
                f"topic {topic.name}: type {topic.type} is not installed here, so it is not recorded; "
                "source its workspace"
            ) from None
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=IMAGE_DEPTH if topic.type in IMAGE_TYPES else DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if offer.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if offer.latched else DurabilityPolicy.VOLATILE,
        )

        def receive(data: bytes, info: dict[str, Any]) -> None:
            self._receive(topic, data, info)

        # Without rclpy's warnings about publishers that do not match, because another subscription does.
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        topic.subscriptions[offer] = self._node.create_subscription(
            message_type, topic.name, receive, qos, raw=True, event_callbacks=events
        )
        self._on_subscribed()

    def _unsubscribe(self, topic: RecordedSubscriptions) -> None:
        for subscription in topic.subscriptions.values():
            self._node.destroy_subscription(subscription)
        topic.subscriptions.clear()
