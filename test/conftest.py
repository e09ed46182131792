"""Fixtures for all tests: each test has its own ROS domain and uses shared memory only, apart from other graphs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import lanes
import pytest

from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.compiled import prepare
from rlfp_ros.graph.dds import dds_environment
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.shared_memory import remove_leftovers
from rlfp_ros.schema import ConfigurationError

TIMEOUT_S = 15.0  # for an event between processes; a loaded machine starts a node in 5 s
_held = contextlib.ExitStack()  # closed by the end of the process


# At import: before any test module can start a context.
_domain = _held.enter_context(reserved_domain())
os.environ |= dds_environment("local", str(_domain))  # opens no port, sees no other machine
os.environ["RCUTILS_COLORIZED_OUTPUT"] = "0"
os.environ.pop("ROS_NAMESPACE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Choose what this process runs, if several share the suite."""
    lanes.configure(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that differ in every process: the suite's processes could not agree on their tests."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: has an address in its name; give the parameters `ids`")


def pytest_sessionstart() -> None:
    """Compile the control core before the first test: no test's limit has room for it."""
    prepare()


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Give every test the processor's own arithmetic: a training in this process flushes denormal numbers to zero."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


def load_or_skip(name: str | Path) -> Arm:
    """An arm that ships; skips the test where its model's package, of the requirement set `arms`, is not installed."""
    arm = load_arm(name)
    try:
        arm.urdf_path  # noqa: B018
    except ConfigurationError as error:
        if "requirement set 'arms'" not in str(error):
            raise
        pytest.skip(str(error))
    return arm


def wait_until(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S, what: str = "") -> Any:
    """Ask until `condition` is true and return what it gave; fail after `timeout_s`."""
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        result = condition()
        if result:
            return result
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s: {what or condition}")


def longer_than(items: Sized, count: int) -> Callable[[], bool]:
    """Return a condition for `wait_until` and `spin_until`: more than `count` items have arrived."""
    return lambda: len(items) > count


class TestNode:
    """A node of the test's own: publishers, what it received, and waiting for it."""

    __test__ = False

    def __init__(self, context: Any, name: str = "test") -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.node = Node(name, context=context)
        self.received: dict[str, list[Any]] = {}
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)

    def publisher(self, topic: Any, qos: Any = None) -> Any:
        """A publisher for one of `nodes.messages`' topics."""
        return self.node.create_publisher(topic.type, topic.name, qos or topic.qos)

    def listen(self, topic: Any, qos: Any = None) -> list[Any]:
        """The list that the topic's messages go into."""
        heard = self.received.setdefault(topic.name, [])
        self.node.create_subscription(topic.type, topic.name, heard.append, qos or topic.qos)
        return heard

    def spin_until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S, what: str = "") -> Any:
        """Take messages until `condition` is true; fail after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            result = condition()
            if result:
                return result
            self._executor.spin_once(timeout_sec=0.02)
        raise AssertionError(f"not within {timeout_s} s: {what or condition}")

    def spin_for(self, seconds: float) -> None:
        """Take messages for a while: to see that something does not come."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            self._executor.spin_once(timeout_sec=0.02)

    def connected(self, *publishers: Any) -> None:
        """Wait until each publisher has a subscriber."""
        for publisher in publishers:
            self.spin_until(publisher.get_subscription_count, what=f"subscriber of {publisher.topic}")

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def ros_context() -> Iterator[Any]:
    """A ROS context of the test's own."""
    from rclpy.context import Context

    remove_leftovers(int(os.environ["ROS_DOMAIN_ID"]))  # of a test that killed a node
    context = Context()
    context.init()
    yield context
    context.try_shutdown()


@pytest.fixture
def test_node(ros_context: Any) -> Iterator[TestNode]:
    """A node to talk to the graph with."""
    node = TestNode(ros_context)
    yield node
    node.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser; tests without one are skipped."""
    from browser import browser

    with browser() as started:
        yield started


@pytest.fixture
def opened(chromium: Any, cell: Any) -> Iterator[Callable[..., Any]]:
    """Open operator's pages of `cell`; at the end none may have had an error in its scripts or broken its policy."""
    from served_page import watched_pages

    with watched_pages(chromium, cell) as open_one:
        yield open_one


class Process:
    """A node in a process of its own."""

    def __init__(self, executable: str, parameters: dict[str, Any], remappings: dict[str, str], folder: Path) -> None:
        arguments = ["--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["-p", f"{name}:={text}"]
        for old, new in remappings.items():
            arguments += ["-r", f"{old}:={new}"]
        self._log = folder / f"{executable}_{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", f"rlfp_ros.nodes.{executable}", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything it has printed."""
        return self._log.read_text()

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Its exit code."""
        return self.popen.wait(timeout_s)

    def stop(self, signal_number: int = signal.SIGTERM, timeout_s: float = 5.0) -> int:
        """End it and return its exit code; killed where it does not listen."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal_number)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """start_node("perception", {"bundle": path}): a process, ended with the test."""
    processes: list[Process] = []

    def start(executable: str, parameters: dict[str, Any] | None = None, **remappings: str) -> Process:
        processes.append(Process(executable, parameters or {}, remappings, tmp_path))
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.stop()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of test/fixture_bundle.py's bundle, without a goal."""
    from fixture_bundle import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles")).directory


@pytest.fixture(scope="session")
def tiny_goal_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with a goal point."""
    from fixture_bundle import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles"), name="tiny_goal", goal="point").directory


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test's graph a ROS domain that no other process uses."""
    with reserved_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


@pytest.fixture
def start_controller(tiny_bundle: Path) -> Iterator[Callable[..., Any]]:
    """start_controller("dry_run:=true"): a `controller_driver.Driver`, closed with the test."""
    from controller_driver import Driver

    drivers: list[Driver] = []

    def start(*parameters: str) -> Driver:
        drivers.append(Driver(tiny_bundle, *parameters))  # of one parameter given twice, the last counts
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


@pytest.fixture
def seeded_torch() -> None:
    """Make torch draw the same numbers in every run, on one thread."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
