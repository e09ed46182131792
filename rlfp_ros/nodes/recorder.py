"""`recorder`: records everything that the graph publishes into rosbag2 (MCAP) bags, one per episode or one per run.

Messages are taken in serialised form, with DDS's times of publication and reception. A thread writes them, so that a
slow disk never delays a callback; messages may be lost, and are then counted and reported.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_msgs.msg import String

from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages, parameters, spin
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.diagnostics import Diagnostics, Level, Report
from rlfp_ros.nodes.recorded_topic import Offer, RecordedSubscriptions, message_class, quality_of_service, type_name
from rlfp_ros.recording import decode, recovery
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.decode import IMAGE_TYPES
from rlfp_ros.recording.missing_images import MissingImages
from rlfp_ros.schema import ConfigurationError, Schema

DISCOVERY_S = 0.25  # between searches for publishers
DEPTH = 200  # queue of a subscription: nearly a second at 240 Hz while this process does not run
IMAGE_DEPTH = 30  # queue of image topics, whose messages are large
NICENESS = 10  # the nodes that move the arm run first; meanwhile messages stay in the queues
PERCEPTION = "perception"  # name of the node whose images are recorded
KEY_BYTES = 64  # bytes of a message that identify it

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
    messages.OPERATOR_COMMAND,
    messages.DIAGNOSTICS,
)


class RecorderSettings(Schema):
    """Parameters of the recorder node."""

    directory: str = Field(default="bags", description="folder for the bags; made if it does not exist")
    per_episode: bool = Field(
        default=True, description="true: one bag folder for each episode, episode_0000 ...; false: one, named run"
    )
    topics: tuple[str, ...] = Field(
        default=(), description="topics to record, absolute or relative; empty: the graph's own (no overlay, no /clock)"
    )
    images: bool = Field(default=True, description="record images; false leaves out every image topic")
    queue_mb: int = Field(
        default=128, ge=1, le=4096, description="memory for messages that wait for the disk, MB; beyond they drop"
    )


class RecorderNode(Node):
    """The recorder node; see the module."""

    batch_s = 0.02  # every wake-up takes time from the nodes that move the arm

    def __init__(self) -> None:
        super().__init__("recorder")
        self._settings = parameters.declare(self, RecorderSettings)
        os.nice(NICENESS)
        self._directory = Path(self._settings.directory).expanduser()
        self._image_topics = messages.image_topics(self)
        self._topics = self._chosen_topics()
        self._follows_perception = self._settings.images and not self._settings.topics
        self._episode_topic = self.resolve_topic_name(messages.EPISODE.name)
        self._diagnostics_topic = self.resolve_topic_name(messages.DIAGNOSTICS.name)
        self._idle = True  # only diagnostics have come so far, which do not start a bag
        self._failure_logged = False
        self._refused_logged: set[str] = set()
        self._given: set[Path] = set()  # folders that the writer may not have made yet
        self._missing = MissingImages()
        self._closed: queue.SimpleQueue[Episode] = queue.SimpleQueue()  # episodes whose bag before is closed
        self._attendance: Attendance | None = None  # None while the first subscriptions are created
        self._make_directory()
        self._writer = BackgroundWriter(self._settings.queue_mb << 20)
        self._begin_bag("run")  # until the first episode, if there are any

        self.diagnostics = Diagnostics(self, self._report)
        known = {self.resolve_topic_name(topic.name): topic for topic in DEFAULT_TOPICS}
        for topic in self._topics.values():
            if topic.name in known:
                latched = known[topic.name].qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
                self._subscribe(topic, Offer(latched=latched))
        if self._episode_topic not in self._topics:  # not recorded, but followed all the same
            self.create_subscription(String, messages.EPISODE.name, self._on_episode, messages.EPISODE.qos)
        self._discover()
        self._attendance = Attendance(self, self._unmatched, self._expect_all)
        self.create_timer(self.batch_s, self._answer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_timer(DISCOVERY_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"recording {len(self._topics)} topics into {self._directory}")

    def close(self) -> None:
        """Write the queue, close the bag and report lost messages."""
        self._note_lost()
        if not self._writer.close():
            print(f"recorder: {self._directory} did not take what is queued within 30 s", file=sys.stderr, flush=True)
        if self._writer.failure and not self._failure_logged:
            print(f"recorder: {self._writer.failure}", file=sys.stderr, flush=True)
        self._missing.end_bag(self._expected_images())
        for name, reason in self._missing.bags.items():
            print(f"recorder: {self._directory / name}: {reason}", file=sys.stderr, flush=True)
        if self._attendance is not None and self._attendance.fault:
            print(f"recorder: {self._attendance.fault}", file=sys.stderr, flush=True)
        dropped = self._dropped()
        total = sum(self._writer.written.values())
        lost = ", ".join(f"{name} {count}" for name, count in sorted(dropped.items())) or "none"
        sentence = f"recorder: {total} messages in {len(self._writer.bags)} bags, dropped: {lost}"
        print(sentence, file=sys.stderr, flush=True)

    # ---- what is recorded ----

    def _chosen_topics(self) -> dict[str, RecordedSubscriptions]:
        known = {self.resolve_topic_name(topic.name): topic for topic in DEFAULT_TOPICS}
        names = [self._resolved(name) for name in self._settings.topics] or list(known)
        types = {name: type_name(topic.type) for name, topic in known.items()}
        chosen = {name: RecordedSubscriptions(name, types.get(name, "")) for name in names}
        if not self._settings.images:
            return {name: topic for name, topic in chosen.items() if topic.type not in IMAGE_TYPES}
        return chosen

    def _resolved(self, name: str) -> str:
        try:
            return str(self.resolve_topic_name(name))
        except rclpy_implementation.RCLError as error:
            reason = str(error).removeprefix("failed to resolve name: ").partition(", at ")[0]
            raise ConfigurationError(
                f"recorder parameters: topics has {name!r}, which is not the name of a topic ({reason})"
            ) from None

    def _discover(self) -> None:
        """Subscribe with the publishers' QoS, because a reliable request never matches a best-effort camera."""
        if self._writer.failure and not self._failure_logged:
            self._failure_logged = True
            self.get_logger().error(self._writer.failure)
            self.diagnostics.publish()
        for name in self._writer.refused.keys() - self._refused_logged:
            self._refused_logged.add(name)
            self.get_logger().error(f"topic {name} is not recorded: {self._writer.refused[name]}")
        if self._follows_perception:
            self._follow_perception()
        self._look_for_images()
        for topic in self._topics.values():
            publishers = self.get_publishers_info_by_topic(topic.name)
            topic.losses.publishers(len(publishers), time.monotonic())
            if publishers:
                try:
                    self._follow(topic, publishers)
                except ConfigurationError as error:
                    self.get_logger().error(str(error), once=True)

    def _follow_perception(self) -> None:
        """Record the image topic that perception uses; without perception the published one, raw before compressed.

        Not both, because compressed images are only produced while they have a subscriber.
        """
        published = [name for name in self._image_topics if self.count_publishers(name)]
        taken = [name for name in published if self._perception_takes(name)]
        for name in (taken or published)[:1]:
            if name not in self._topics:
                self._topics[name] = RecordedSubscriptions(name, "")
                self.get_logger().info(f"recording the images of {name}")
        for name in published:
            if taken and name not in taken and name in self._topics:
                self._unsubscribe(self._topics.pop(name))

    def _perception_takes(self, name: str) -> bool:
        return any(
            (endpoint.node_name, endpoint.node_namespace) == (PERCEPTION, self.get_namespace())
            for endpoint in self.get_subscriptions_info_by_topic(name)
        )

    def _unsubscribe(self, topic: RecordedSubscriptions) -> None:
        for subscription in topic.subscriptions.values():
            self.destroy_subscription(subscription)
        topic.subscriptions.clear()

    def _follow(self, topic: RecordedSubscriptions, publishers: Sequence[TopicEndpointInfo]) -> None:
        types = sorted({publisher.topic_type for publisher in publishers})
        if topic.type not in types:  # residuals are twists or joint trajectories, depending on the bundle
            self._unsubscribe(topic)
            topic.type = types[0]
        if self._left_out(topic):
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
        topic.subscriptions[offer] = self.create_subscription(
            message_type, topic.name, receive, qos, raw=True, event_callbacks=events
        )
        if self._attendance is not None:
            self._attendance.renew()

    def _unmatched(self) -> list[str]:
        """Return the topics with publishers that DDS has not connected yet."""
        return [
            f"the publisher of {topic.name}"
            for topic in self._topics.values()
            if self.count_publishers(topic.name) and not topic.matched and not self._left_out(topic)
        ]

    def _left_out(self, topic: RecordedSubscriptions) -> bool:
        return topic.type in IMAGE_TYPES and not self._settings.images

    def _expect_all(self) -> None:
        """Count what is lost from now on also for publishers that are not connected yet."""
        for topic in self._topics.values():
            if not topic.matched and topic.name != self._diagnostics_topic:
                topic.losses.expect_first()

    # ---- messages ----

    def _receive(self, topic: RecordedSubscriptions, data: bytes, info: dict[str, Any]) -> None:
        received = info.get("received_timestamp") or time.time_ns()
        published = info.get("source_timestamp") or received
        sequence = info.get("publication_sequence_number") or 0
        if not topic.is_new((published, sequence, data[:KEY_BYTES])):
            return
        now = time.monotonic()
        if sequence:
            topic.losses.message(sequence, now)
        if topic.name == self._episode_topic:
            try:
                self._on_episode(deserialize_message(data, String))
            except ConfigurationError as error:  # worth recording all the same
                self.get_logger().error(str(error))
        self._idle = self._idle and topic.name == self._diagnostics_topic
        if self._idle:
            return
        self._missing.message(now, topic.type in IMAGE_TYPES)
        self._writer.write(topic.name, topic.type, topic.qos, data, received, published, sequence & 0xFFFFFFFF)

    def _on_episode(self, message: String) -> None:
        episode = decode.episode_from_message(message)
        if episode.phase is Phase.RESET and self._settings.per_episode:
            self._missing.end_bag(self._expected_images())
            self._begin_bag(f"episode_{episode.id:04d}", lambda: self._closed.put(episode))
        else:
            self._closed.put(episode)
            self._answer()

    def _answer(self) -> None:
        """Answer episodes whose bag before is closed. In the node's thread: the writer's must not end with ROS."""
        while self._attendance is not None and not self._closed.empty():
            self._attendance.on_episode(self._closed.get())

    # ---- images ----

    def _look_for_images(self) -> None:
        """Report once why the bag holds no image, if it should."""
        names = self._expected_images()
        if self._missing.look(names, [name for name in names if self.count_publishers(name)]):
            self.get_logger().warn(self._missing.reason)
            self.diagnostics.publish()

    def _expected_images(self) -> list[str]:
        """Return the topics whose images the bag should hold."""
        if not self._settings.images:
            return []
        if self._follows_perception:
            return list(self._image_topics)
        return [topic.name for topic in self._topics.values() if topic.type in IMAGE_TYPES]

    def _begin_bag(self, name: str, then: Callable[[], None] | None = None) -> None:
        self._note_lost()
        folder = self._free_name(name)
        self._missing.begin_bag(folder.name)
        self._writer.roll(folder, then)

    # ---- folders ----

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"recorder parameters: directory is {str(self._directory)!r}, which cannot be made ({error.strerror}); "
                "choose another folder"
            ) from None
        for bag in recovery.unfinished(self._directory):
            try:
                metadata = recovery.recover(bag)
                self.get_logger().warn(f"{bag}: was not closed; recovered {metadata.message_count} messages")
            except (ConfigurationError, OSError) as error:
                self.get_logger().error(f"{bag}: was not closed and cannot be recovered: {error}")

    def _free_name(self, name: str) -> Path:
        path, number = self._directory / name, 2
        while path.exists() or path in self._given:
            path, number = self._directory / f"{name}_{number}", number + 1
        self._given.add(path)
        return path

    # ---- diagnostics ----

    def _dropped(self) -> Counter[str]:
        """Return the messages per topic that never arrived or could not be written."""
        self._note_lost()
        return self._writer.never_arrived + self._writer.dropped

    def _note_lost(self) -> None:
        """Give the writer the counts of messages that never arrived, for metadata.yaml."""
        lost = {topic.name: topic.losses.lost for topic in self._topics.values()}
        self._writer.never_arrived = Counter(lost)

    def _report(self) -> Report:
        dropped = self._dropped()
        values: dict[str, object] = {
            "bag": self._writer.bags[-1] if self._writer.bags else "",
            "bags": len(self._writer.bags),
            "messages": sum(self._writer.written.values()),
            "megabytes": self._writer.bytes_written / 1e6,
            "queued_megabytes": self._writer.waiting_bytes / 1e6,
            "images": self._missing.images,
            "slowest_write_ms": self._writer.slowest_write_s * 1e3,
            "dropped": sum(dropped.values()),
        }
        values |= {f"dropped {name}": count for name, count in sorted(dropped.items())}
        if self._writer.failure:
            return Report(Level.ERROR, self._writer.failure, values)
        if self._missing.reason:
            return Report(Level.WARN, self._missing.reason, values)
        if dropped:
            return Report(Level.WARN, f"{sum(dropped.values())} messages dropped so far", values)
        if self._attendance is not None and self._attendance.fault:
            return Report(Level.WARN, self._attendance.fault, values)
        return Report(Level.OK, "recording", values)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(RecorderNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
