"""Tests of the residual controller's node over real DDS: its topics, stamps and services."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from conftest import Process, TestNode, longer_than  # noqa: E402
from fixture_bundle import make_bundle  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from std_msgs.msg import Bool, Float32, Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from rlfp_ros.commissioning.checklist import ChecklistReport  # noqa: E402
from rlfp_ros.control.arm import JointState, load_arm  # noqa: E402
from rlfp_ros.control.safety.verdict import Reason  # noqa: E402
from rlfp_ros.control.trajectory import Residual  # noqa: E402
from rlfp_ros.episode import Episode, Phase  # noqa: E402
from rlfp_ros.nodes import messages as m  # noqa: E402
from rlfp_ros.nodes.residual_controller import ResidualControllerNode  # noqa: E402
from rlfp_ros.recording import decode  # noqa: E402
from rlfp_ros.recording.reader import BagReader  # noqa: E402
from rlfp_ros.schema import ConfigurationError  # noqa: E402

ARM = load_arm("panda")
BAG = Path(__file__).parent / "data" / "camera_dead_then_estop.mcap"
LIMIT_S = 20.0  # for anything to happen, on a busy machine
QUICK = ("tick_on:=joint_states", "start_enabled:=true", "settle_s:=0.0", "gain_ramp_s:=0.01")  # moves from the start


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
        residual = m.JOINT_RESIDUAL if self.node.controller.in_joint_space else m.RESIDUAL
        self.publishers = {
            topic.name: self.client.create_publisher(topic.type, topic.name, topic.qos)
            for topic in (m.JOINT_STATES, residual, m.GRIPPER, m.DOMAIN_SHIFT, m.EPISODE, m.ESTOP)
        }
        self.until(lambda: all(self.publishers[name].get_subscription_count() for name in self.publishers))
        self.until(lambda: self.client.count_publishers(m.SAFETY_STATE.name) > 0)

    def until(self, happened: Callable[[], object]) -> None:
        """Spin until something is so."""
        limit = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < limit, "nothing happened"
            self.executor.spin_once(timeout_sec=0.05)

    def joint_state(self, tick: int, positions: np.ndarray | None = None, efforts: np.ndarray | None = None) -> None:
        """Publish one, at home and without effort unless told otherwise."""
        measured = np.array(ARM.home) if positions is None else positions
        state = JointState(stamp(tick), measured, np.zeros(7), np.zeros(7) if efforts is None else efforts, 0.04)
        self.publishers[m.JOINT_STATES.name].publish(m.joint_state_message(state, ARM))

    def tick(
        self, tick: int, positions: np.ndarray | None = None, efforts: np.ndarray | None = None
    ) -> JointTrajectory:
        """One joint state; the command that answers it."""
        commands = self.seen[m.ARM_COMMAND.name]
        before = len(commands)
        self.joint_state(tick, positions, efforts)
        self.until(lambda: len(commands) > before)
        return commands[-1]

    def speed(self, tick: int) -> float:
        """The same; largest joint speed that the command tells the arm, rad/s."""
        command = self.tick(tick)
        return float(np.abs(command.points[0].velocities).max()) if command.points else 0.0

    def residual(self, at_ns: int, twist: np.ndarray) -> np.ndarray:
        """A residual and its gripper width; what was admitted of it."""
        applied = self.seen[m.RESIDUAL_APPLIED.name]
        before = len(applied)
        self.publishers[m.GRIPPER.name].publish(m.gripper_message(at_ns, 0.02, ARM))
        self.publishers[m.RESIDUAL.name].publish(m.residual_message(Residual(at_ns, twist), ARM.base_frame))
        self.until(lambda: len(applied) > before)
        assert decode.stamp_ns(applied[-1].header.stamp) == at_ns
        return decode.twist_from_message(applied[-1], ARM.base_frame)

    @property
    def state(self) -> dict:
        """Newest safety/state."""
        self.until(lambda: self.seen[m.SAFETY_STATE.name])
        return json.loads(self.seen[m.SAFETY_STATE.name][-1].data)

    def call(self, service: str) -> Trigger.Response:
        """Call a service of the node."""
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
def start(bundle: Path) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(*parameters: str) -> Driver:
        made.append(Driver(bundle, *parameters))  # of one parameter given twice, the last counts
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def test_lock_step_answers_every_joint_state_and_admits_residuals(start: Callable[..., Driver]) -> None:
    driver = start(*QUICK)
    for tick in range(16):
        command = driver.tick(tick)
        assert decode.stamp_ns(command.header.stamp) == stamp(tick)
        driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
    admitted = driver.residual(stamp(15), np.array([0.0, 0.12, 0.0, 0.0, 0.0, 0.0]))
    assert admitted == pytest.approx([0.0, 0.1, 0.0, 0.0, 0.0, 0.0])  # clipped to the bundle's scale
    assert driver.residual(stamp(15) + 1, np.full(6, np.nan)).tolist() == [0.0] * 6
    trajectory = decode.trajectory_from_message(driver.tick(16), ARM.joint_names)
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


def test_a_checklist_from_before_its_start_enables_nothing(start: Callable[..., Driver], bundle: Path) -> None:
    green = String(data=ChecklistReport(lines=()).model_dump_json())
    first = start("tick_on:=joint_states")  # stands for a controller that was enabled and died: the list is silent then
    checklist = first.client.create_publisher(m.CHECKLIST.type, m.CHECKLIST.name, m.CHECKLIST.qos)
    checklist.publish(green)
    driver = start("tick_on:=joint_states", "require_checklist:=true")
    heard: list[String] = []
    driver.client.create_subscription(m.CHECKLIST.type, m.CHECKLIST.name, heard.append, m.CHECKLIST.qos)
    driver.until(lambda: heard)  # it asked later than the controller did
    refused = driver.call("enable")
    assert not refused.success
    assert "nothing comes on safety/checklist" in refused.message
    checklist.publish(green)
    driver.until(lambda: driver.call("enable").success)


def test_an_episode_is_answered_and_starts_anew(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    episode = Episode(id=4, phase=Phase.RESET, stamp=stamp(0))
    driver.publishers[m.EPISODE.name].publish(m.episode_message(episode))
    driver.until(lambda: driver.seen[m.EPISODE_READY.name])
    ready = decode.ready_from_message(driver.seen[m.EPISODE_READY.name][-1])
    assert (ready.node, ready.id) == ("residual_controller", 4)
    elsewhere = np.array(ARM.home) + 0.03
    assert not driver.tick(1, elsewhere).points  # one joint state is nothing to start from
    trajectory = decode.trajectory_from_message(driver.tick(2, elsewhere), ARM.joint_names)
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
    stamps = np.array([decode.stamp_ns(command.header.stamp) for command in driver.seen[m.ARM_COMMAND.name]])
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
    assert driver.node.controller.supervisor.counts[Reason.RESIDUAL_SHAPE] == 1


def test_a_dry_run_admits_residuals_and_sends_no_command(start: Callable[..., Driver]) -> None:
    driver = start(
        "tick_on:=joint_states", "start_enabled:=true", "settle_s:=0.0", "gain_ramp_s:=0.01", "dry_run:=true"
    )
    admitted = np.zeros(6)
    for tick in range(24):
        assert not driver.tick(tick).points
        admitted = driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
    assert admitted == pytest.approx([0.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    driver.until(lambda: driver.state["state"] == "ACTIVE")
    assert not driver.seen[m.GRIPPER_COMMAND.name]
    assert driver.node.controller.commanded != pytest.approx(ARM.home, abs=1e-6)


def test_step_lets_one_action_through_and_enable_leaves_that_mode(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "settle_s:=0.0", "gain_ramp_s:=0.01")
    driver.tick(0)
    assert driver.call("step").success
    gains = []
    for tick in range(1, 33):
        driver.tick(tick)
        driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
        gains.append(driver.node.controller.gain)
    assert 1.0 in gains[:8]
    assert not any(gains[16:])
    assert driver.state["reasons"] == ["waiting_for_step"]
    assert driver.call("enable").success
    driver.tick(33)
    driver.tick(36)
    assert driver.node.controller.gain > 0.0


def test_the_residual_gain_is_a_live_parameter_that_ramps(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true", "gain_ramp_s:=0.1", "residual_gain:=0.0")

    def gains(first: int, count: int) -> list[float]:
        found = []
        for tick in range(first, first + count):
            driver.tick(tick)
            driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
            found.append(driver.node.controller.gain)
        return found

    assert not any(gains(0, 8))
    assert driver.node.set_parameters([Parameter("residual_gain", value=0.5)])[0].successful
    rising = gains(8, 30)
    assert max(np.diff(rising)) <= 1 / 240 / 0.1 + 1e-9
    assert rising[-1] == 0.5
    assert not driver.node.set_parameters([Parameter("residual_gain", value=1.5)])[0].successful


def test_a_scene_unlike_training_lowers_the_gain_then_holds_and_clears_itself(start: Callable[..., Driver]) -> None:
    driver = start(*QUICK, "shift_time_s:=0.02")

    def run(first: int, count: int, shift: float) -> None:
        for tick in range(first, first + count):
            driver.publishers[m.DOMAIN_SHIFT.name].publish(Float32(data=shift))
            driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
            driver.tick(tick)

    run(0, 10, 0.0)
    assert driver.node.controller.gain == 1.0
    run(10, 10, 0.825)
    assert driver.node.controller.gain == pytest.approx(0.5, abs=0.01)
    assert driver.node.controller.state.value == "ACTIVE"
    run(20, 60, 1.0)
    driver.until(lambda: driver.state["state"] == "HOLDING")
    assert driver.state["reasons"] == ["domain_shift"]
    run(80, 40, 0.0)
    driver.until(lambda: driver.state["state"] == "ACTIVE" and driver.state["gain"] == 1.0)


def test_efforts_beyond_the_arms_limit_stop_it(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states", "start_enabled:=true", "effort_time_s:=0.05")
    efforts = 1.1 * np.array(ARM.limits.effort)
    for tick in range(12):
        driver.tick(tick, efforts=efforts if tick % 2 else None)  # now and then is not too much
    assert driver.node.controller.state.value == "ACTIVE"
    for tick in range(12, 27):
        driver.tick(tick, efforts=-efforts)
    driver.until(lambda: driver.state["state"] == "STOPPED")
    assert driver.state["reasons"] == ["effort_limit"]


@pytest.mark.parametrize("output", ["forward_position", "forward_velocity"])
def test_forward_controllers_get_plain_numbers_and_a_stop_to_its_end(
    start: Callable[..., Driver], output: str, tmp_path: Path
) -> None:
    named = ARM.model_dump(mode="json") | {"name": "left"}
    named["topics"][output] = "left_arm/commands"
    (tmp_path / "left.yaml").write_text(yaml.safe_dump(named))
    driver = start(
        "tick_on:=timer",
        "start_enabled:=true",
        "settle_s:=0.0",
        # Only the e-stop is to stop the arm, on a loaded machine too.
        "joint_state_timeout_s:=5.0",
        "joint_state_max_age_s:=5.0",
        f"output:={output}",
        f"arm:={tmp_path}/left.yaml",
    )
    controller = driver.node.controller
    told: list[Float64MultiArray] = []
    driver.client.create_subscription(Float64MultiArray, "left_arm/commands", told.append, m.EVENTS)
    driver.until(lambda: driver.client.count_publishers("left_arm/commands"))

    def publish() -> None:
        now = driver.client.get_clock().now().nanoseconds
        state = JointState(now, controller.commanded, np.zeros(7), np.zeros(7), 0.04)
        driver.publishers[m.JOINT_STATES.name].publish(m.joint_state_message(state, ARM))
        driver.publishers[m.GRIPPER.name].publish(m.gripper_message(now, 0.02, ARM))
        residual = Residual(now, np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0]))
        driver.publishers[m.RESIDUAL.name].publish(m.residual_message(residual, ARM.base_frame))

    driver.client.create_timer(0.01, publish)
    driver.until(lambda: np.abs(controller.commanded - ARM.home).max() > 0.02)
    driver.publishers[m.ESTOP.name].publish(Bool(data=True))
    driver.until(lambda: controller.filter.resting)
    last = controller.filter.end.position.tolist() if output == "forward_position" else [0.0] * 7
    driver.until(lambda: list(told[-1].data) == last)
    assert driver.state["state"] == "STOPPED"
    rows = np.array([list(message.data) for message in told])
    assert not driver.seen[m.ARM_COMMAND.name]
    assert len(rows) > 60
    if output == "forward_position":
        assert np.abs(rows[-1] - rows[0]).max() > 0.02
    else:
        assert (np.abs(rows) <= ARM.limits.velocity).all()
        assert np.abs(rows).max() > 0.01


@pytest.mark.graph
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_once_an_arm_under_a_forward_controller_is_at_rest(
    test_node: TestNode, start_node: Callable[..., Process], bundle: Path, signal_number: int
) -> None:
    positions, told = np.array(ARM.home), [np.zeros(7)]

    def follow(message: Float64MultiArray) -> None:
        nonlocal positions
        told.append(np.array(message.data))
        positions = positions + told[-1] / 240

    joints, residuals = test_node.publisher(m.JOINT_STATES), test_node.publisher(m.RESIDUAL)
    gripper = test_node.publisher(m.GRIPPER)
    test_node.node.create_subscription(Float64MultiArray, "forward_velocity_controller/commands", follow, m.EVENTS)
    process = start_node(
        "residual_controller", {"bundle": bundle, "output": "forward_velocity", "start_enabled": True, "settle_s": 0.0}
    )
    test_node.connected(joints, residuals, gripper)

    def publish() -> None:
        now = test_node.node.get_clock().now().nanoseconds
        joints.publish(m.joint_state_message(JointState(now, positions, told[-1], np.zeros(7), 0.04), ARM))
        gripper.publish(m.gripper_message(now, 0.02, ARM))
        residuals.publish(m.residual_message(Residual(now, np.array([0, 0.1, 0, 0, 0, 0.0])), ARM.base_frame))

    test_node.node.create_timer(0.01, publish)
    test_node.spin_until(lambda: np.abs(told[-1]).max() > 0.05, what="motion")
    process.popen.send_signal(signal_number)
    process.popen.send_signal(signal_number)  # a terminal's Ctrl-C and a launcher's both arrive
    test_node.spin_until(lambda: process.popen.poll() is not None, what="its end")
    assert process.popen.returncode == 0
    assert not told[-1].any()


def test_a_joint_space_bundle_gets_its_residual_as_joint_velocities(
    start: Callable[..., Driver], tmp_path: Path
) -> None:
    joints = make_bundle(tmp_path, name="joints", in_joint_space=True).directory
    driver = start(*QUICK, f"bundle:={joints}")
    applied = driver.seen[m.RESIDUAL_APPLIED.name]
    asked = np.array([0.08, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for tick in range(40):
        driver.tick(tick, driver.node.controller.commanded)
        before = len(applied)
        driver.publishers[m.GRIPPER.name].publish(m.gripper_message(stamp(tick) - 1, 0.02, ARM))
        residual = m.joint_residual_message(Residual(stamp(tick) - 1, asked), ARM.joint_names)
        driver.publishers[m.JOINT_RESIDUAL.name].publish(residual)
        driver.until(longer_than(applied, before))
    jacobian = driver.node.controller.kinematics.jacobian(driver.node.controller.commanded)
    told = decode.twist_from_message(applied[-1], ARM.base_frame)  # as the twist that it makes of the tool
    assert told == pytest.approx(jacobian @ asked, abs=1e-4)
    assert driver.node.controller.commanded[0] > ARM.home[0] + 1e-3


def test_dds_reports_a_missing_residual_and_the_end_of_its_publisher(start: Callable[..., Driver]) -> None:
    driver = start("tick_on:=joint_states")
    name = m.RESIDUAL.name
    values = driver.node.streams.values
    driver.publishers[name].publish(m.residual_message(Residual(1, np.zeros(6)), ARM.base_frame))
    driver.until(lambda: values()[f"{name}_publishers_alive"] == 1)
    driver.until(lambda: values()[f"{name}_deadlines_missed"] >= 2)
    driver.client.destroy_publisher(driver.publishers.pop(name))
    driver.until(lambda: values()[f"{name}_publishers_alive"] == 0)
    driver.until(
        lambda: any(
            value.key == f"{name}_deadlines_missed" and int(value.value) >= 2
            for array in driver.seen[m.DIAGNOSTICS.name]
            for value in array.status[0].values
        )
    )


def test_a_recorded_run_replayed_through_the_node_holds_resumes_and_stops_in_time(start: Callable[..., Driver]) -> None:
    """`test/data/camera_dead_then_estop.mcap`: the camera dies, comes back, then an e-stop. Times are the joints'."""
    driver = start("tick_on:=joint_states", "start_enabled:=true")
    controller = driver.node.controller
    object_pose = driver.client.create_publisher(m.OBJECT_POSE.type, m.OBJECT_POSE.name, m.OBJECT_POSE.qos)
    driver.until(object_pose.get_subscription_count)
    commands = driver.seen[m.ARM_COMMAND.name]

    def has_pose(stamp_ns: int) -> bool:
        return controller.object_stamp_ns >= stamp_ns

    ticks: list[tuple[float, str, float, float]] = []  # s, state, gain, largest speed told
    poses: list[float] = []
    residuals: list[float] = []
    estop, reset = 0.0, 0
    with BagReader(BAG) as bag:
        for recorded in bag.messages():
            topic = recorded.topic.lstrip("/")
            now = ticks[-1][0] if ticks else 0.0
            if topic == "episode":
                episode = Episode.from_json(bag.decode(recorded).data)
                if episode.phase is not Phase.RESET:
                    continue
                before = len(driver.seen[m.EPISODE_READY.name])
                driver.publishers[topic].publish(m.episode_message(episode))
                driver.until(longer_than(driver.seen[m.EPISODE_READY.name], before))
                ticks, poses, residuals, reset = [], [], [], episode.stamp
            elif topic == "joint_states":
                message = deserialize_message(recorded.data, m.JOINT_STATES.type)
                before = len(commands)
                driver.publishers[topic].publish(message)
                driver.until(longer_than(commands, before))
                points = commands[-1].points
                speed = float(np.abs(points[0].velocities).max()) if points else 0.0
                at = decode.stamp_ns(message.header.stamp) * 1e-9
                ticks.append((at, controller.state.value, controller.gain, speed))
            elif topic == "perception/object_pose":
                message = deserialize_message(recorded.data, m.OBJECT_POSE.type)
                object_pose.publish(message)
                stamp_ns = decode.stamp_ns(message.header.stamp)
                if stamp_ns > reset:
                    driver.until(partial(has_pose, stamp_ns))
                poses.append(now)
            elif topic == "policy/residual":
                message = deserialize_message(recorded.data, m.RESIDUAL.type)
                twist = np.clip(decode.twist_from_message(message, ARM.base_frame), -0.1, 0.1)  # this bundle's scale
                driver.residual(decode.stamp_ns(message.header.stamp), twist)
                residuals.append(now)
            elif topic == "safety/estop":
                driver.publishers[topic].publish(Bool(data=True))
                driver.until(lambda: controller.supervisor.latched)
                estop = now

    def after(since: float, condition: Callable[[str, float, float], bool]) -> float:
        return next(at - since for at, state, gain, speed in ticks if at > since and condition(state, gain, speed))

    gap = int(np.argmax(np.diff(poses)))
    dark, light = poses[gap], poses[gap + 1]
    assert "STOPPED" not in {state for at, state, *_ in ticks if at <= estop}  # no false stop
    assert "HOLDING" not in {state for at, state, *_ in ticks if ticks[10][0] < at <= dark}  # and no false hold
    assert after(dark, lambda state, gain, speed: gain == 0.0) <= 0.15
    assert after(dark, lambda state, gain, speed: state == "HOLDING") <= 0.15 + 2.1 / 240  # it had slowed down before
    assert after(dark, lambda state, gain, speed: state == "HOLDING" and speed < 1e-3) <= 0.35
    resumed = next(at for at in residuals if at >= light)
    assert after(resumed, lambda state, gain, speed: gain > 0.0) <= 0.3
    assert after(estop, lambda state, gain, speed: state == "STOPPED") <= 2.1 / 240
    assert after(estop, lambda state, gain, speed: speed == 0.0) <= 0.25
    assert ticks[-1][1] == "STOPPED"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (("bananas:=1",), "bananas"),
        (("residual_timeout_s:=-1.0",), "residual_timeout_s"),
        (("arm:=no_such_arm",), "no_such_arm"),
        (("tick_on:=sometimes",), "tick_on"),
        (("tick_on:=joint_states", "output:=forward_velocity"), "tick_on is joint_states, expected timer"),
    ],
)
def test_wrong_parameters_are_refused_with_one_sentence(
    start: Callable[..., Driver], parameters: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        start(*parameters)
