"""A node's report on /diagnostics, once a second: a level, one sentence, counters and latencies."""

from __future__ import annotations

import enum
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node

from rlfp_ros.nodes.messages import DIAGNOSTICS

PERIOD_S = 1.0


class Level(enum.Enum):
    """diagnostic_msgs' levels."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True)
class Report:
    """One node's state at one time."""

    level: Level = Level.OK
    message: str = "running"
    values: Mapping[str, object] = field(default_factory=dict)  # floats are written with 4 digits


def status_name(namespace: str, name: str) -> str:
    """Return the name under which the node `name` in `namespace` reports: its full name without the first slash.

    All robots share the topic /diagnostics, and this name distinguishes them.
    """
    return f"{namespace}/{name}".strip("/").replace("//", "/")


def name_exception(error: BaseException) -> str:
    """Describe an exception in one line, with the file and line that raised it."""
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({place[-1].filename.rsplit('/', 1)[-1]}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"


class Diagnostics:
    """Publishes a node's Report once a second, on the steady clock: a frozen /clock must not silence it.

    Exceptions that a callback raised are counted here by `spin.run` and turn the level to ERROR for 10 s.
    """

    def __init__(self, node: Node, report: Callable[[], Report], hardware_id: str = "") -> None:
        self._node = node
        self._report = report
        self._hardware_id = hardware_id
        self._publisher = node.create_publisher(DIAGNOSTICS.type, DIAGNOSTICS.name, DIAGNOSTICS.qos)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.exceptions = 0
        self._last_exception = ""
        self._last_exception_time = -np.inf

    def count_exception(self, error: BaseException) -> None:
        """Log an exception of a callback in one line with its place, with the traceback at debug level; count it."""
        self.exceptions += 1
        self._last_exception = name_exception(error)
        self._last_exception_time = time.monotonic()
        logger = self._node.get_logger()
        logger.error(f"exception in a callback: {self._last_exception}", throttle_duration_sec=1.0)
        logger.debug("".join(traceback.format_exception(error)))

    def publish(self) -> None:
        """Publish now; also called once a second."""
        report = self._report()
        level, message, values = report.level, report.message, dict(report.values)
        values["exceptions"] = self.exceptions
        if self._last_exception:
            values["last_exception"] = self._last_exception
            if time.monotonic() - self._last_exception_time < 10.0:
                level, message = Level.ERROR, f"exception in a callback: {self._last_exception}"
        status = DiagnosticStatus(
            level=level.value,
            name=status_name(self._node.get_namespace(), self._node.get_name()),
            message=message,
            hardware_id=self._hardware_id,
            values=[
                KeyValue(key=key, value=f"{value:.4g}" if isinstance(value, float) else str(value))
                for key, value in values.items()
            ],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


class Streams:
    """Counts the missed deadlines and lost publishers that DDS reports for topics between our own nodes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._missed: dict[str, int] = {}
        self._alive: dict[str, int] = {}

    def watch(self, name: str) -> SubscriptionEventCallbacks:
        """Callbacks for the subscription of a topic with a deadline and a lease."""
        self._missed[name], self._alive[name] = 0, 0
        return SubscriptionEventCallbacks(
            deadline=lambda event: self._on_deadline(name, event.total_count),
            liveliness=lambda event: self._on_liveliness(name, event.alive_count, event.alive_count_change),
        )

    def _on_deadline(self, name: str, total: int) -> None:
        self._missed[name] = total

    def _on_liveliness(self, name: str, alive: int, change: int) -> None:
        self._alive[name] = alive
        if change < 0:
            self._node.get_logger().warning(f"topic {name}: a publisher is gone, {alive} left")

    def values(self) -> dict[str, int]:
        """Return `{topic}_deadlines_missed` and `{topic}_publishers_alive` for a Report."""
        missed = {f"{name}_deadlines_missed": count for name, count in self._missed.items()}
        return missed | {f"{name}_publishers_alive": count for name, count in self._alive.items()}


class Durations:
    """Count, rate and percentiles of a duration, over the last `window` values."""

    def __init__(self, window: int = 300) -> None:
        self.count = 0
        self._seconds: deque[float] = deque(maxlen=window)
        self._moments: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Add a duration that ends now."""
        self.count += 1
        self._seconds.append(seconds)
        self._moments.append(time.monotonic())

    def rate_hz(self) -> float:
        """The rate over the last second; 0 if there was none."""
        recent = time.monotonic() - 1.0
        return float(sum(moment > recent for moment in self._moments))

    def values(self, name: str) -> dict[str, object]:
        """Return `{name}_count`, `{name}_rate_hz`, `{name}_ms_p50`, `_p99` and `_max` for a Report."""
        result: dict[str, object] = {f"{name}_count": self.count, f"{name}_rate_hz": self.rate_hz()}
        if self._seconds:
            milliseconds = 1e3 * np.array(self._seconds)
            p50, p99 = np.percentile(milliseconds, [50, 99])
            result |= {
                f"{name}_ms_p50": float(p50),
                f"{name}_ms_p99": float(p99),
                f"{name}_ms_max": float(milliseconds.max()),
            }
        return result
