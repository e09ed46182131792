"""`recorder`: records everything that the graph publishes into rosbag2 (MCAP) bags, one per episode or one per run.

Messages are taken in serialised form, with DDS's times of publication and reception. A thread writes them, so that a
slow disk never delays a callback; messages may be lost, and are then counted and reported. The services `start` and
`stop` begin and end a bag while the graph runs, and the parameter `label` labels one.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages, parameters, spin
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.diagnostics import Diagnostics, Level, Report
from rlfp_ros.nodes.recorded_topic import RecordedSubscriptions
from rlfp_ros.nodes.recorded_topics import RecordedTopics
from rlfp_ros.recording import decode
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.bag_folder import BagFolder
from rlfp_ros.recording.bag_list import RecorderState
from rlfp_ros.recording.current_bag import CurrentBag, Totals
from rlfp_ros.recording.decode import IMAGE_TYPES
from rlfp_ros.recording.labelling import Labelling
from rlfp_ros.recording.missing_images import MissingImages
from rlfp_ros.schema import ConfigurationError, Schema

DISCOVERY_S = 0.25  # between searches for publishers
STATE_S = 1.0  # between two messages on recorder/state
ANSWER_S = 0.5  # longest wait for the disk before a service answers; meanwhile messages stay in the queues
NICENESS = 10  # the nodes that move the arm run first; meanwhile messages stay in the queues
KEY_BYTES = 64  # bytes of a message that identify it
_Announcement = tuple[RecordedSubscriptions, bytes, int, int]  # message, time of publication in ns, sequence number


class RecorderSettings(Schema):
    """Parameters of the recorder node."""

    directory: str = Field(default="bags", description="folder for the bags; made if it does not exist")
    per_episode: bool = Field(
        default=True, description="true: one bag folder for each episode, episode_0000 ...; false: one, named run"
    )
    start: bool = Field(default=True, description="true: record from the start; false: wait for the service start")
    topics: tuple[str, ...] = Field(
        default=(), description="topics to record, absolute or relative; empty: the graph's own (no overlay, no /clock)"
    )
    images: bool = Field(default=True, description="record images; false leaves out every image topic")
    queue_mb: int = Field(
        default=128, ge=1, le=4096, description="memory for messages that wait for the disk, MB; beyond they drop"
    )
    label: str = Field(
        default="",
        description="set it while the node runs to label a bag: JSON with label (success, failure, discard), note, "
        "operator, and bag (its name; empty: the newest)",
        json_schema_extra=parameters.LIVE,
    )


class RecorderNode(Node):
    """The recorder node; see the module."""

    batch_s = 0.02  # every wake-up takes time from the nodes that move the arm

    def __init__(self) -> None:
        super().__init__("recorder")
        self._settings = parameters.declare(self, RecorderSettings)
        if self._settings.label:
            raise ConfigurationError("recorder parameters: label is set at the start, expected while a bag is recorded")
        os.nice(NICENESS)
        self._folder = BagFolder(Path(self._settings.directory).expanduser())
        self._directory = self._folder.directory
        self._listing_is_old = True
        self._attendance: Attendance | None = None  # None while the first subscriptions are created
        self._topics = RecordedTopics(
            self, self._settings.topics, self._settings.images, self._receive, self._on_subscribed
        )
        self._recording = False
        self._by_hand = False  # the bag was begun by the service start: only the service stop ends it
        self._idle = True  # only diagnostics have come so far, which do not start a bag
        self._failure_logged = False
        self._refused_logged: set[str] = set()
        self._announced: deque[_Announcement] = deque(maxlen=10)  # of the episode that runs
        self._missing = MissingImages()
        self._closed: queue.SimpleQueue[Episode] = queue.SimpleQueue()  # episodes whose bag before is closed
        self._bag = CurrentBag()
        if self._settings.start:
            self._folder.make()
        for bag, content in self._folder.recover():
            if isinstance(content, str):
                self.get_logger().error(f"{bag}: was not closed and cannot be recovered: {content}")
            else:
                self.get_logger().warn(f"{bag}: was not closed; recovered {content.message_count} messages")
        self._writer = BackgroundWriter(self._settings.queue_mb << 20)
        self._labelling = Labelling(self._writer, self._folder)
        if self._settings.start:
            self._recording = True
            self._begin_bag("run")  # until the first episode, if there are any

        self.diagnostics = Diagnostics(self, self._report)
        self._state = self.create_publisher(String, "~/state", messages.RECORDER_STATE.qos)
        self._bags = self.create_publisher(String, "~/bags", messages.RECORDER_BAGS.qos)
        self.create_service(Trigger, "~/start", self._service(self._start))
        self.create_service(Trigger, "~/stop", self._service(self._stop))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._publish_state()
        if self._settings.start:
            self._topics.open()
        else:
            self._topics.follow_episodes()
        if not self._topics.has_episodes:  # not recorded, but followed all the same
            self.create_subscription(String, messages.EPISODE.name, self._on_episode, messages.EPISODE.qos)
        self._discover()
        self._attendance = Attendance(self, self._topics.unmatched, self._topics.expect_all)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self.batch_s, self._answer, clock=steady)
        self.create_timer(DISCOVERY_S, self._discover, clock=steady)
        self.create_timer(STATE_S, self._publish_state, clock=steady)
        begins = "recording" if self._recording else "waiting for the service start; records"
        self.get_logger().info(f"{begins} {len(self._topics)} topics into {self._directory}")

    def close(self) -> None:
        """Write the queue, close the bag and report lost messages."""
        self._note_lost()
        if not self._writer.close():
            print(f"recorder: {self._directory} did not take what is queued within 30 s", file=sys.stderr, flush=True)
        if self._writer.failure and not self._failure_logged:
            print(f"recorder: {self._writer.failure}", file=sys.stderr, flush=True)
        if self._recording:
            self._missing.end_bag(self._topics.expected_images())
        for name, reason in self._missing.bags.items():
            print(f"recorder: {self._directory / name}: {reason}", file=sys.stderr, flush=True)
        if self._attendance is not None and self._attendance.fault:
            print(f"recorder: {self._attendance.fault}", file=sys.stderr, flush=True)
        dropped = self._dropped()
        total = self._writer.written.total()
        lost = ", ".join(f"{name} {count}" for name, count in sorted(dropped.items())) or "none"
        bags = len(self._writer.bags)
        print(f"recorder: {total} messages in {bags} bags, dropped: {lost}", file=sys.stderr, flush=True)

    # ---- start, stop and label ----

    def _service(self, operation: Callable[[], str]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def call(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.success, response.message = True, operation()
            except ConfigurationError as error:
                response.success, response.message = False, str(error)
            self._publish_state()
            return response

        return call

    def _start(self) -> str:
        """Begin a bag that `_stop` ends."""
        if self._recording and not self._writer.failure:
            raise ConfigurationError(f"{self._bag.name} is being recorded already; stop it first")
        self._folder.make()
        self._folder.check_room()
        self._topics.close()
        self._writer.retry()
        self._recording, self._by_hand, self._idle, self._failure_logged = True, True, False, False
        self._begin_bag(self._folder.numbered_name())
        for topic, data, published, sequence in self._announced:
            self._write(topic, data, time.time_ns(), published, sequence)
        self._topics.open()
        self._discover()
        return f"recording {self._bag.name}"

    def _stop(self) -> str:
        if not self._recording:
            raise ConfigurationError("nothing is being recorded")
        self._recording = self._by_hand = False
        self._topics.close()
        self._missing.end_bag(self._topics.expected_images())
        self._note_lost()
        closed = threading.Event()
        self._bag.end(time.monotonic())
        self._writer.roll(None, self._and_list(closed.set))
        if not closed.wait(ANSWER_S):
            return f"{self._bag.name} is being closed"
        if self._writer.failure:
            raise ConfigurationError(self._writer.failure)
        if not (self._directory / self._bag.name).exists():
            raise ConfigurationError("no message came, so there is no bag")
        return f"{self._bag.name}: {self._counts().messages} messages, {self._bag.duration_s:.1f} s"

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            if change.name == "label" and change.type_ == Parameter.Type.STRING:
                try:
                    self._label(change.value)
                except ConfigurationError as error:
                    return SetParametersResult(successful=False, reason=str(error))
                self._publish_state()
        return SetParametersResult(successful=True)

    def _label(self, text: str) -> None:
        if self._labelling.begin(text, self._bag.name).wait(ANSWER_S):  # otherwise recorder/state has the answer later
            self._take_labels()
            if self._labelling.fault:
                raise ConfigurationError(self._labelling.fault)

    def _take_labels(self) -> None:
        before = self._labelling.fault
        for name, label in self._labelling.ended():
            self._listing_is_old = True
            if name == self._bag.name:
                self._bag.label = label
            self._publish_state()
        if self._labelling.fault not in ("", before):
            self.get_logger().error(self._labelling.fault)
            self._publish_state()

    # ---- state ----

    def _publish_state(self) -> None:
        counts = self._counts()
        state = RecorderState(
            recording=self._recording and not self._writer.failure,
            bag=self._bag.name,
            duration_s=self._bag.duration_s,
            messages=counts.messages,
            megabytes=counts.bytes / 1e6,
            dropped=counts.dropped,
            label=self._bag.label,
            fault=self._writer.failure or self._labelling.fault,
            directory=str(self._directory),
        )
        self._state.publish(String(data=state.model_dump_json()))
        if self._listing_is_old and self._bags.get_subscription_count():
            self._listing_is_old = False
            self._bags.publish(String(data=self._folder.listing().model_dump_json()))

    def _counts(self) -> Totals:
        """Return what the bag holds and lost."""
        return self._totals() - self._bag.totals_before

    def _totals(self) -> Totals:
        return Totals(self._writer.written.total(), self._writer.bytes_written, self._dropped().total())

    def _and_list(self, then: Callable[[], None] | None) -> Callable[[], None]:
        """Return `then`, after which the list of bags is published again. It runs in the writer's thread."""

        def closed() -> None:
            self._listing_is_old = True
            if then is not None:
                then()

        return closed

    # ---- topics ----

    def _on_subscribed(self) -> None:
        if self._attendance is not None:
            self._attendance.renew()

    def _discover(self) -> None:
        """Log what the writer reports, and follow publishers."""
        if self._writer.failure and not self._failure_logged:
            self._failure_logged = True
            self.get_logger().error(self._writer.failure)
            self.diagnostics.publish()
            self._publish_state()
        for name in self._writer.refused.keys() - self._refused_logged:
            self._refused_logged.add(name)
            self.get_logger().error(f"topic {name} is not recorded: {self._writer.refused[name]}")
        self._topics.look()
        if self._recording:
            self._look_for_images()

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
        if self._topics.is_episode(topic):
            try:
                self._remember(self._on_episode(deserialize_message(data, String)), (topic, data, published, sequence))
            except ConfigurationError as error:  # worth recording all the same
                self.get_logger().error(str(error))
        self._idle = self._idle and self._topics.is_diagnostics(topic)
        if self._recording and not self._idle:
            self._write(topic, data, received, published, sequence)

    def _write(self, topic: RecordedSubscriptions, data: bytes, received: int, published: int, sequence: int) -> None:
        now = time.monotonic()
        self._missing.message(now, topic.type in IMAGE_TYPES)
        self._bag.begin(now)
        self._writer.write(topic.name, topic.type, topic.qos, data, received, published, sequence & 0xFFFFFFFF)

    def _remember(self, episode: Episode, message: _Announcement) -> None:
        """Keep the announcements of the episode that runs, for a bag that is begun in its middle."""
        if episode.phase is not Phase.RUNNING:
            self._announced.clear()
        if episode.phase is not Phase.FINISHED:
            self._announced.append(message)

    def _on_episode(self, message: String) -> Episode:
        episode = decode.episode_from_message(message)
        success = (episode.outcome or {}).get("success")
        if self._recording and episode.phase is Phase.FINISHED and isinstance(success, bool):
            self._bag.outcomes["won" if success else "lost"] += 1
            self._writer.custom["episodes"] = self._bag.outcomes_in_words()
        if episode.phase is Phase.RESET and self._settings.per_episode and self._recording and not self._by_hand:
            self._missing.end_bag(self._topics.expected_images())
            self._begin_bag(f"episode_{episode.id:04d}", lambda: self._closed.put(episode))
        else:
            self._closed.put(episode)
            self._answer()
        return episode

    def _answer(self) -> None:
        """Answer what the writer has done. In the node's thread: the writer's must not end with ROS."""
        self._take_labels()
        while self._attendance is not None and not self._closed.empty():
            self._attendance.on_episode(self._closed.get())

    # ---- images ----

    def _look_for_images(self) -> None:
        """Report once why the bag holds no image, if it should."""
        names = self._topics.expected_images()
        if self._missing.look(names, [name for name in names if self.count_publishers(name)]):
            self.get_logger().warn(self._missing.reason)
            self.diagnostics.publish()

    def _begin_bag(self, name: str, then: Callable[[], None] | None = None) -> None:
        self._note_lost()
        folder = self._folder.free_name(name)
        self._missing.begin_bag(folder.name)
        self._writer.roll(folder, self._and_list(then))
        self._bag = CurrentBag(folder.name, self._totals())

    # ---- diagnostics ----

    def _dropped(self) -> Counter[str]:
        """Return the messages per topic that never arrived or could not be written."""
        self._note_lost()
        return self._writer.never_arrived + self._writer.dropped

    def _note_lost(self) -> None:
        """Give the writer the counts of messages that never arrived, for metadata.yaml."""
        self._writer.never_arrived = self._topics.lost()

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
        return Report(Level.OK, "recording" if self._recording else "waiting for the service start", values)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(RecorderNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
