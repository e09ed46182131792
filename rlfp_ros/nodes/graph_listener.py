"""A listener that measures the graph from outside: outcomes of episodes, and latency from image to command.

Not a process of the graph: `./rlfp demo` and `./rlfp evaluate --graph` spin it beside the graph they started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.episode import Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.recording import decode

NAME = "observer"
HEARTBEAT_S = 0.1  # between heartbeats; the controller allows 0.5 s
BATCH_S = 0.02  # between two reads of the queues, because every wake-up disturbs the measured nodes
DEPTH, IMAGE_DEPTH = 200, 30  # queue lengths; lock step sends several times as many messages as real time
ATTEND_EVERY_S = 1.0  # between checks whether the arm is enabled


@dataclass
class ObservedEpisode:
    """The observed messages of one episode. Times are ns of the system's clock, by the images' stamps."""

    seed: int
    start: int  # stamp at its start, ns
    outcome: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    images: dict[int, int] = field(default_factory=dict)  # stamp -> when it was published
    applied: dict[int, int] = field(default_factory=dict)  # stamp -> when the controller admitted its residual
    residuals: dict[int, np.ndarray] = field(default_factory=dict)  # stamp -> twist [6] that the policy asked for
    commands: list[tuple[int, int]] = field(default_factory=list)  # (published, received)

    def camera_to_command_ms(self) -> list[float]:
        """Return the time from each image's publication to the reception of the first command with its residual.

        The controller says `residual_applied` before it next sends a command, so the first command published after
        that contains it.
        """
        commands = np.array(sorted(self.commands), dtype=np.int64).reshape(-1, 2)
        latencies = []
        for stamp, admitted in self.applied.items():
            place = int(np.searchsorted(commands[:, 0], admitted, side="right"))
            if stamp in self.images and place < len(commands):
                latencies.append((int(commands[place, 1]) - self.images[stamp]) * 1e-6)
        return latencies


class GraphListener:
    """Listens to a graph on the ROS domain and transport of this process's environment. A context manager.

    With `always`, everything is one episode from the start, for a graph without a simulator that announces episodes.
    With `operates`, it also acts as the person beside the arm: heartbeats, `enable` when residuals come, and `reset`
    after a stop (counted in `resets`). For mock hardware only: no program may decide that a real arm is safe to move.
    """

    def __init__(
        self, on_episode: Callable[[ObservedEpisode], None], always: bool = False, operates: bool = False
    ) -> None:
        self._on_episode, self._operates = on_episode, operates
        self._seen_residual, self.resets = False, 0
        self._state: State | None = None  # of the controller
        self._leaving = threading.Event()
        self.episodes: list[ObservedEpisode] = []
        self.current: ObservedEpisode | None = ObservedEpisode(seed=0, start=0) if always else None

    def __enter__(self) -> GraphListener:
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = node = Node(NAME, context=self._context)
        # The large messages stay serialised: only their stamps are read.
        for topic, callback, qos, raw in (
            (m.EPISODE, self._on_phase, m.EPISODES, False),
            (m.IMAGE, self._on_image, IMAGE_DEPTH, True),
            (m.RESIDUAL, self._on_residual, DEPTH, False),
            (m.RESIDUAL_APPLIED, self._on_applied, DEPTH, False),
            (m.ARM_COMMAND, self._on_command, DEPTH, True),
        ):
            node.create_subscription(topic.type, topic.name, callback, qos, raw=raw)
        node.create_subscription(String, m.SAFETY_STATE.name, self._on_safety_state, m.LATCHED)
        if self._operates:
            self._heartbeat = node.create_publisher(m.HEARTBEAT.type, m.HEARTBEAT.name, m.HEARTBEAT.qos)
            # Heartbeats have their own thread, so that they do not wait for the handling of messages.
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()
            self._services = {
                name: node.create_client(Trigger, f"residual_controller/{name}") for name in ("enable", "reset")
            }
            node.create_timer(ATTEND_EVERY_S, self._attend)
        self._attendance = Attendance(node)
        self._executor = NodeExecutor(node, BATCH_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        if self._operates:
            self._heart.join()
        self._executor.close()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Handle the messages that arrive during that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._executor.spin_once(left)
            except ExternalShutdownException:
                return

    def _beat(self) -> None:
        while not self._leaving.wait(HEARTBEAT_S):
            self._heartbeat.publish(m.header_message(time.time_ns()))

    def _attend(self) -> None:
        wanted = {None: None, State.DISABLED: "enable", State.STOPPED: "reset"}.get(self._state)
        if not self._seen_residual or wanted is None or not self._services[wanted].service_is_ready():
            return
        self.resets += wanted == "reset"
        self._services[wanted].call_async(Trigger.Request())

    def _on_safety_state(self, message: String) -> None:
        self._state = SafetyState.from_json(message.data).state

    def _on_phase(self, message: String) -> None:
        episode = decode.episode_from_message(message)
        self._attendance.on_episode(episode)
        if episode.phase is Phase.RUNNING:
            self.current = ObservedEpisode(episode.seed, episode.stamp, sample=episode.sample or {})
        elif episode.phase is Phase.FINISHED and self.current is not None:
            ended, self.current = self.current, None
            ended.outcome = episode.outcome or {}
            self.episodes.append(ended)
            self._on_episode(ended)

    def _episode_of(self, stamp: int) -> ObservedEpisode | None:
        """Return the episode of a stamp; at the end of an episode, messages of different topics are not in order."""
        current = self.current
        return current if current is not None and stamp >= current.start else None

    def _on_image(self, data: bytes, info: dict[str, int]) -> None:
        stamp = decode.serialised_stamp_ns(data)
        if episode := self._episode_of(stamp):
            episode.images[stamp] = info["source_timestamp"]

    def _on_residual(self, message: TwistStamped) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        self._seen_residual = True
        if episode := self._episode_of(stamp):
            episode.residuals[stamp] = decode.twist_from_message(message, message.header.frame_id)  # in whichever frame

    def _on_applied(self, message: TwistStamped, info: dict[str, int]) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        if episode := self._episode_of(stamp):
            episode.applied[stamp] = info["source_timestamp"]

    def _on_command(self, data: bytes, info: dict[str, int]) -> None:
        if self.current is not None:
            self.current.commands.append((info["source_timestamp"], info["received_timestamp"]))
