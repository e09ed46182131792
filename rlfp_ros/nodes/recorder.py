"""`recorder`: everything that the graph says, into rosbag2 (MCAP) bags, one for each episode or one for the run.

Messages are taken raw, as they came over the wire, with the times that DDS knows: published at, received at. A thread
writes them, so that a slow disk costs messages (counted, and said) and never a callback.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from rlfp_ros.episode import Phase
from rlfp_ros.nodes import messages, parameters, spin
from rlfp_ros.nodes.diagnostics import Diagnostics, Level, Report
from rlfp_ros.recording import recovery
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.metadata import QualityOfService
from rlfp_ros.schema import ConfigurationError, Schema

DISCOVERY_S = 0.25  # how often publishers are looked for
DEPTH = 200  # of a subscription: nearly a second at 240 Hz while this process does not run
IMAGE_DEPTH = 30  # images are large
NICENESS = 10  # what moves the arm goes first; the queues below hold what waits
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

# What is recorded unless `topics` says otherwise. Not: compressed images and the overlay, which are only made because
# somebody subscribes, and /clock, which playing back makes anew.
DEFAULT_TOPICS = (
    messages.IMAGE,
    messages.CAMERA_INFO,
    messages.JOINT_STATES,
    messages.FEATURES,
    messages.OBJECT_POSE,
    messages.DOMAIN_SHIFT,
    messages.GOAL,
    messages.RESIDUAL,
    messages.GRIPPER,
    messages.RESIDUAL_APPLIED,
    messages.ARM_COMMAND,
    messages.GRIPPER_COMMAND,
    messages.EPISODE,
    messages.SAFETY_STATE,
    messages.ESTOP,
    messages.DIAGNOSTICS,
)


class RecorderSettings(Schema):
    """Parameters of the recorder node."""

    directory: str = Field(default="bags", description="folder for the bags; made where it does not exist")
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


@dataclass
class _Recorded:
    """One topic and its subscription."""

    name: str  # absolute
    type: str  # "" until a publisher tells
    reliable: bool = True
    latched: bool = False
    subscription: Any = None
    qos: tuple[QualityOfService, ...] = ()
    sequence: int | None = None  # of the last message, by its publisher


class RecorderNode(Node):
    """See the module."""

    batch_s = 0.02  # every waking is in the way of what moves the arm

    def __init__(self) -> None:
        super().__init__("recorder")
        self._settings = parameters.declare(self, RecorderSettings)
        os.nice(NICENESS)
        self._directory = Path(self._settings.directory).expanduser()
        self._lost: Counter[str] = Counter()  # never reached us: DDS overwrote them before we could take them
        self._topics = self._chosen_topics()
        self._episode_topic = self.resolve_topic_name(messages.EPISODE.name)
        self._diagnostics_topic = self.resolve_topic_name(messages.DIAGNOSTICS.name)
        self._idle = True  # nothing but diagnostics has come: they are not worth a bag
        self._said_failure = False
        self._said_refused: set[str] = set()
        self._given: set[Path] = set()  # folders that the writer may not have made yet
        self._make_directory()
        self._writer = BackgroundWriter(self._settings.queue_mb << 20)
        self._writer.roll(self._free_name("run"))  # until the first episode, if there are any

        self._ready = self.create_publisher(
            messages.EPISODE_READY.type, messages.EPISODE_READY.name, messages.EPISODE_READY.qos
        )
        self.diagnostics = Diagnostics(self, self._report)
        for topic in self._topics.values():
            if topic.type:
                self._subscribe(topic)
        if self._episode_topic not in self._topics:  # not recorded, but followed all the same
            self.create_subscription(String, messages.EPISODE.name, self._on_episode, messages.EPISODE.qos)
        self._discover()
        self.create_timer(DISCOVERY_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"recording {len(self._topics)} topics into {self._directory}")

    def close(self) -> None:
        """Write what is queued, close the bag and say what was lost."""
        if not self._writer.close():
            print(f"recorder: {self._directory} did not take what is queued within 30 s", file=sys.stderr, flush=True)
        if self._writer.failure and not self._said_failure:
            print(f"recorder: {self._writer.failure}", file=sys.stderr, flush=True)
        dropped = self._dropped()
        total = sum(self._writer.written.values())
        lost = ", ".join(f"{name} {count}" for name, count in sorted(dropped.items())) or "none"
        sentence = f"recorder: {total} messages in {len(self._writer.bags)} bags, dropped: {lost}"
        print(sentence, file=sys.stderr, flush=True)

    # ---- what is recorded ----

    def _chosen_topics(self) -> dict[str, _Recorded]:
        known = {self.resolve_topic_name(topic.name): topic for topic in DEFAULT_TOPICS}
        names = [self.resolve_topic_name(name) for name in self._settings.topics] or list(known)
        chosen = {}
        for name in names:
            topic = known.get(name)
            typename = _typename(topic.type) if topic else ""
            if typename in IMAGE_TYPES and not self._settings.images:
                continue
            latched = topic is not None and topic.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
            chosen[name] = _Recorded(name, typename, latched=latched)
        return chosen

    def _discover(self) -> None:
        """Subscribe in the way the publishers offer: a reliable request never matches a best-effort camera."""
        if self._writer.failure and not self._said_failure:
            self._said_failure = True
            self.get_logger().error(self._writer.failure)
            self.diagnostics.publish()
        for name in self._writer.refused.keys() - self._said_refused:
            self._said_refused.add(name)
            self.get_logger().error(f"topic {name} is not recorded: {self._writer.refused[name]}")
        for topic in self._topics.values():
            publishers = self.get_publishers_info_by_topic(topic.name)
            if not publishers:
                continue
            offered = [publisher.qos_profile for publisher in publishers]
            reliable = all(qos.reliability != ReliabilityPolicy.BEST_EFFORT for qos in offered)
            latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
            topic.qos = tuple(_quality(qos) for qos in offered)
            typename = publishers[0].topic_type  # residuals are twists or joint trajectories, as the bundle says
            known = topic.reliable, topic.latched, topic.type
            if topic.subscription is not None and known == (reliable, latched, typename):
                continue
            topic.reliable, topic.latched, topic.type = reliable, latched, typename
            if topic.type in IMAGE_TYPES and not self._settings.images:
                continue
            try:
                self._subscribe(topic)
            except ConfigurationError as error:
                self.get_logger().error(str(error), once=True)

    def _subscribe(self, topic: _Recorded) -> None:
        if topic.subscription is not None:
            self.destroy_subscription(topic.subscription)
        try:
            message_type = _message_class(topic.type)
        except (ImportError, AttributeError):
            raise ConfigurationError(
                f"topic {topic.name}: type {topic.type} is not installed here, so it is not recorded; "
                "source its workspace"
            ) from None
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=IMAGE_DEPTH if topic.type in IMAGE_TYPES else DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
        )

        def receive(data: bytes, info: dict[str, Any]) -> None:
            self._receive(topic, data, info)

        topic.subscription = self.create_subscription(message_type, topic.name, receive, qos, raw=True)

    # ---- messages ----

    def _receive(self, topic: _Recorded, data: bytes, info: dict[str, Any]) -> None:
        if topic.name == self._episode_topic:
            try:
                self._on_episode(deserialize_message(data, String))
            except ConfigurationError as error:  # worth recording all the same
                self.get_logger().error(str(error))
        sequence = info.get("publication_sequence_number") or 0
        if len(topic.qos) == 1:
            # The publisher counts its messages: a gap is what never came. (Two publishers count separately.)
            if topic.sequence is not None and sequence > topic.sequence + 1:
                self._lost[topic.name] += sequence - topic.sequence - 1
            topic.sequence = sequence
        self._idle = self._idle and topic.name == self._diagnostics_topic
        if self._idle:
            return
        received = info.get("received_timestamp") or time.time_ns()
        published = info.get("source_timestamp") or received
        self._writer.write(topic.name, topic.type, topic.qos, data, received, published, sequence & 0xFFFFFFFF)

    def _on_episode(self, message: String) -> None:
        episode = messages.episode_from_message(message)
        if episode.phase is not Phase.RESET:
            return

        def answer() -> None:
            self._ready.publish(messages.ready_message(self.get_name(), episode.id))

        if self._settings.per_episode:
            self._writer.roll(self._free_name(f"episode_{episode.id:04d}"), then=answer)
        else:
            answer()

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
        return self._lost + self._writer.dropped

    def _report(self) -> Report:
        dropped = self._dropped()
        values: dict[str, object] = {
            "bag": self._writer.bags[-1] if self._writer.bags else "",
            "bags": len(self._writer.bags),
            "messages": sum(self._writer.written.values()),
            "megabytes": self._writer.bytes_written / 1e6,
            "queued_megabytes": self._writer.waiting_bytes / 1e6,
            "slowest_write_ms": self._writer.slowest_write_s * 1e3,
            "dropped": sum(dropped.values()),
        }
        values |= {f"dropped {name}": count for name, count in sorted(dropped.items())}
        if self._writer.failure:
            return Report(Level.ERROR, self._writer.failure, values)
        if dropped:
            return Report(Level.WARN, f"{sum(dropped.values())} messages dropped so far", values)
        return Report(Level.OK, "recording", values)


def _message_class(typename: str) -> Any:
    package, _, name = typename.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _typename(message_type: Any) -> str:
    package = message_type.__module__.split(".")[0]
    return f"{package}/msg/{message_type.__name__}"


def _quality(qos: QoSProfile) -> QualityOfService:
    known = qos.history in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL)
    return QualityOfService(
        depth=int(qos.depth),
        history=("keep_last" if qos.history == HistoryPolicy.KEEP_LAST else "keep_all") if known else "unknown",
        reliability="best_effort" if qos.reliability == ReliabilityPolicy.BEST_EFFORT else "reliable",
        durability="transient_local" if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(RecorderNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
