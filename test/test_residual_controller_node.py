"""The residual controller's node over real DDS: what it publishes, on which stamp, and what its services do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from fixture_bundle import make_bundle  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from std_msgs.msg import Bool, Float32  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from rlfp_ros.control.arm import JointState, load_arm  # noqa: E402
from rlfp_ros.control.trajectory import Residual  # noqa: E402
from rlfp_ros.episode import Episode, Phase  # noqa: E402
from rlfp_ros.nodes import messages as m  # noqa: E402
from rlfp_ros.nodes.residual_controller import ResidualControllerNode  # noqa: E402
from rlfp_ros.schema import ConfigurationError  # noqa: E402

ARM = load_arm("panda")
LIMIT_S = 20.0  # for anything to happen, on a busy machine


def stamp(tick: int) -> int:
    """ns of a tick."""
    return 3_000_000_000 + tick * 1_000_000_000 // 240


class Driver:
    """The node under test and a client of its topics, spun together."""

    def __init__(self, bundle: Path, *parameters: str) -> None:
        arguments = ["--ros-args"]
        for parameter in (f"bundle:={bundle}", *parameters):
            arguments += ["-p", parameter]
        self.context = rclpy.Context()
        rclpy.init(args=arguments, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        try:
            self.node = ResidualControllerNode(context=self.context)
        except BaseException:
            rclpy.shutdown(context=self.context)
            raise
        self.client = Node("driver", context=self.context, use_global_arguments=False)
        self.executor.add_node(self.node)
        self.executor.add_node(self.client)
        self.seen: dict[str, list] = {}
        commands = (m.ARM_COMMAND, m.GRIPPER_COMMAND)
        for topic in (*commands, m.RESIDUAL_APPLIED, m.SAFETY_STATE, m.EPISODE_READY, m.DIAGNOSTICS):
            self.seen[topic.name] = []
            self.client.create_subscription(topic.type, topic.name, self.seen[topic.name].append, topic.qos)
        self.publishers = {
            topic.name: self.client.create_publisher(topic.type, topic.name, topic.qos)
            for topic in (m.JOINT_STATES, m.RESIDUAL, m.GRIPPER, m.DOMAIN_SHIFT, m.EPISODE, m.ESTOP)
        }
        self.until(lambda: all(self.publishers[name].get_subscription_count() for name in self.publishers))
        self.until(lambda: self.client.count_publishers(m.ARM_COMMAND.name) > 0)

    def until(self, happened: Callable[[], object]) -> None:
        """Spin until something is so."""
        limit = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < limit, "nothing happened"
            self.executor.spin_once(timeout_sec=0.05)

    def tick(self, tick: int, positions: np.ndarray | None = None) -> object:
        """One joint state; the command that answers it."""
        measured = np.array(ARM.home) if positions is None else positions
        commands = self.seen[m.ARM_COMMAND.name]
        before = len(commands)
        state = JointState(stamp(tick), measured, np.zeros(7), np.zeros(7), 0.04)
        self.publishers[m.JOINT_STATES.name].publish(m.joint_state_message(state, ARM))
        self.until(lambda: len(commands) > before)
        return commands[-1]

    def residual(self, at_ns: int, twist: np.ndarray) -> np.ndarray:
        """A residual and its gripper width; what was admitted of it."""
        applied = self.seen[m.RESIDUAL_APPLIED.name]
        before = len(applied)
        self.publishers[m.GRIPPER.name].publish(m.gripper_message(at_ns, 0.02, ARM))
        self.publishers[m.RESIDUAL.name].publish(m.residual_message(Residual(at_ns, twist), ARM.base_frame))
        self.until(lambda: len(applied) > before)
        assert m.stamp_ns(applied[-1].header.stamp) == at_ns
        return m.twist_from_message(applied[-1], ARM.base_frame)

    @property
    def state(self) -> dict:
        """Newest safety/state."""
        self.until(lambda: self.seen[m.SAFETY_STATE.name])
        return json.loads(self.seen[m.SAFETY_STATE.name][-1].data)

    def call(self, service: str) -> Trigger.Response:
        """One of the node's services."""
        client = self.client.create_client(Trigger, f"residual_controller/{service}")
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        """End both nodes."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.client.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models")).directory


@pytest.fixture
def start(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Driver]]:
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "SHM")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(20 + os.getpid() % 60))
    made: list[Driver] = []

    def make(*parameters: str) -> Driver:
        made.append(Driver(bundle, *parameters))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def test_lock_step_answers_every_joint_state_and_admits_residuals(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true", "settle_s:=0.0", "gain_ramp_s:=0.01")
    for tick in range(16):
        command = driver.tick(tick)
        assert m.stamp_ns(command.header.stamp) == stamp(tick)
        driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
    admitted = driver.residual(stamp(15), np.array([0.0, 0.12, 0.0, 0.0, 0.0, 0.0]))
    assert admitted == pytest.approx([0.0, 0.1, 0.0, 0.0, 0.0, 0.0])  # clipped to the bundle's scale
    assert driver.residual(stamp(15) + 1, np.full(6, np.nan)).tolist() == [0.0] * 6
    trajectory = m.trajectory_from_message(driver.tick(16), ARM.joint_names)
    assert np.abs(trajectory.velocities[0]).max() > 0
    assert not trajectory.velocities[-1].any()
    driver.until(lambda: driver.seen[m.GRIPPER_COMMAND.name])
    assert driver.state["state"] == "ACTIVE"
    driver.until(lambda: driver.seen[m.DIAGNOSTICS.name])


def test_estop_topic_latches_until_reset_and_enable(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    driver.publishers[m.ESTOP.name].publish(Bool(data=True))
    driver.until(lambda: driver.node.controller.supervisor.latched)
    driver.tick(1)
    driver.until(lambda: driver.state["state"] == "STOPPED")
    assert driver.state["reasons"] == ["estop"]
    assert not driver.call("enable").success
    assert driver.call("reset").success
    driver.tick(500)
    driver.until(lambda: driver.state["state"] == "DISABLED")
    assert driver.call("enable").success
    driver.tick(501)
    driver.until(lambda: driver.state["state"] == "ACTIVE")


def test_an_episode_is_answered_and_starts_anew(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    episode = Episode(id=4, phase=Phase.RESET, stamp=stamp(0))
    driver.publishers[m.EPISODE.name].publish(m.episode_message(episode))
    driver.until(lambda: driver.seen[m.EPISODE_READY.name])
    ready = m.ready_from_message(driver.seen[m.EPISODE_READY.name][-1])
    assert (ready.node, ready.id) == ("residual_controller", 4)
    elsewhere = np.array(ARM.home) + 0.03
    trajectory = m.trajectory_from_message(driver.tick(1, elsewhere), ARM.joint_names)
    assert trajectory.positions[0] == pytest.approx(elsewhere)


def test_on_a_timer_it_sends_nothing_while_disabled_and_evenly_stamped_commands_when_enabled(
    start: Callable[..., Driver],
) -> None:
    driver = start("tick_on:=timer")
    joints = driver.publishers[m.JOINT_STATES.name]

    def publish() -> None:
        now = driver.client.get_clock().now().nanoseconds
        state = JointState(now, np.array(ARM.home), np.zeros(7), np.zeros(7), 0.04)
        joints.publish(m.joint_state_message(state, ARM))

    timer = driver.client.create_timer(0.01, publish)
    driver.until(lambda: driver.state["state"] == "DISABLED")
    assert not driver.seen[m.ARM_COMMAND.name]
    assert driver.call("enable").success
    driver.until(lambda: len(driver.seen[m.ARM_COMMAND.name]) > 50)
    stamps = np.array([m.stamp_ns(command.header.stamp) for command in driver.seen[m.ARM_COMMAND.name]])
    ticks = np.diff(stamps) * 240 / 1e9
    assert ticks == pytest.approx(np.round(ticks), abs=0.01)
    timer.cancel()
    driver.until(lambda: driver.state["reasons"] == ["joint_state_stale"])


def test_a_message_that_cannot_be_read_is_refused_and_said(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    wrong = m.twist_message(stamp(0), np.zeros(6), "world")
    driver.publishers[m.RESIDUAL.name].publish(wrong)
    driver.until(lambda: driver.seen[m.RESIDUAL_APPLIED.name])
    driver.publishers[m.DOMAIN_SHIFT.name].publish(Float32(data=float("nan")))
    driver.tick(1)
    driver.tick(2)
    assert driver.node.controller.state.value == "ACTIVE"
    assert driver.node.controller.supervisor.counts["residual_wrong_width"] == 1


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (("bananas:=1",), "bananas"),
        (("residual_timeout_s:=-1.0",), "residual_timeout_s"),
        (("arm:=no_such_arm",), "no_such_arm"),
        (("tick_on:=sometimes",), "tick_on"),
    ],
)
def test_wrong_parameters_are_refused_with_one_sentence(
    start: Callable[..., Driver], parameters: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        start(*parameters)
