"""Tests of the checklist before an arm may move: each line alone, and through the real graph with the twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlfp_ros.commissioning.checklist import Checklist, ChecklistSettings, CommandTaker, Flow, Line
from rlfp_ros.contract import Contract, load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.schema import ConfigurationError

ARM = load_arm("panda")


NOW = 50_000_000_000  # ns, steady


CLOCK = 1_800_000_000_000_000_000  # ns, what stamps are taken by


TOPIC = "/joint_trajectory_controller/joint_trajectory"


LIMIT_S = 60.0  # for anything to happen: an arm at its workspace's edge waits for the next episode to move again


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_bundle(tiny_bundle).contract


@pytest.fixture
def checklist(contract: Contract) -> Checklist:
    """A checklist that has seen a healthy arm and camera for two seconds."""
    made = Checklist(contract, ARM, ChecklistSettings(), "bundle", TOPIC)
    feed(made)
    made.camera, made.shift = "160 x 120 -> 64 x 48, resized by area", 0.1
    made.joints = JointState(CLOCK, np.array(ARM.home) + 0.01, np.zeros(7), np.zeros(7))
    made.command = CommandTaker(("arm",))
    return made


def feed(made: Checklist, camera_hz: float = 30.0, joints_hz: float = 240.0, ahead_s: float = 0.0) -> None:
    """Two seconds of messages up to NOW, each 10 ms old on arrival, stamped by a clock that is `ahead_s` ahead."""
    rates = {"features": camera_hz, "residual": camera_hz, "joint_states": joints_hz, "heartbeat": 10.0}
    for name, rate in rates.items():
        flow = Flow(getattr(made, name).topic)
        setattr(made, name, flow)
        for back in np.arange(2.0, 0.0, -1.0 / rate) * 1e9:
            stamp = CLOCK - int(back) + int(ahead_s * 1e9) - 10_000_000
            flow.saw(stamp, NOW - int(back), CLOCK - int(back))


def red(checklist: Checklist) -> list[Line]:
    return [line for line in checklist.report(NOW).lines if not line.ok]


def test_healthy_arm_and_camera_are_green(checklist: Checklist) -> None:
    report = checklist.report(NOW)
    assert report.ready, report.refusal
    assert report.refusal == ""
    assert {line.name for line in report.lines} == {
        "camera",
        "images",
        "scene",
        "extrinsics",
        "joint_states",
        "home",
        "policy",
        "controller",
        "heartbeat",
    }


def test_nothing_heard_is_red_in_every_line_but_the_extrinsics(contract: Contract) -> None:
    nothing = Checklist(contract, ARM, ChecklistSettings(), "bundle", TOPIC)
    assert [line.name for line in nothing.report(NOW).lines if line.ok] == ["extrinsics"]
    assert all(line.fix for line in red(nothing))


@pytest.mark.parametrize(
    ("spoil", "name", "found"),
    [
        (lambda c: setattr(c, "perception", "encoding is '16UC1'"), "camera", "16UC1"),
        (lambda c: setattr(c, "camera", ""), "camera", "the perception node reports nothing"),
        (lambda c: setattr(c, "shift", 0.99), "scene", "domain shift 0.99, expected at most 0.95"),
        (lambda c: setattr(c, "shift", None), "scene", "no domain shift yet"),
        (lambda c: setattr(c, "policy", "no joint state is as old as the image"), "policy", "as old as the image"),
        (lambda c: setattr(c, "command", CommandTaker(())), "controller", f"no node takes commands on {TOPIC}"),
        (lambda c: setattr(c, "command", CommandTaker(("arm",), ("moveit",))), "controller", "moveit sends commands"),
        (
            lambda c: setattr(c, "command", CommandTaker((), (), "std_msgs/msg/Float64MultiArray")),
            "controller",
            "is taken as std_msgs/msg/Float64MultiArray",
        ),
    ],
)
def test_one_thing_wrong_is_one_red_line(
    checklist: Checklist, spoil: Callable[[Checklist], None], name: str, found: str
) -> None:
    spoil(checklist)
    (line,) = red(checklist)
    assert line.name == name
    assert found in line.found
    assert "\n" not in str(line)


@pytest.mark.parametrize(
    ("fed", "names", "found"),
    [
        ({"camera_hz": 15.0}, {"images", "policy"}, "comes at 15.0 Hz, expected 24 to 36 Hz"),
        ({"joints_hz": 20.0}, {"joint_states"}, "comes at 20.0 Hz, expected at least 50 Hz"),
        ({"ahead_s": 3.0}, {"images", "joint_states", "policy"}, "2.990 s ahead of this machine's clock"),
        ({"ahead_s": -3.0}, {"images", "joint_states", "policy"}, "3.010 s behind this machine's clock"),
    ],
)
def test_wrong_rate_and_another_clock_are_said(
    checklist: Checklist, fed: dict[str, float], names: set[str], found: str
) -> None:
    feed(checklist, **fed)
    lines = red(checklist)
    assert {line.name for line in lines} == names
    assert all(found in line.found for line in lines)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"positions": np.array(ARM.home) + 0.5 * np.eye(7)[3]}, "panda_joint4 is 0.500 rad from home"),
        ({"positions": np.degrees(ARM.home)}, "expected -"),  # degrees
        ({"velocities": np.full(7, 0.3)}, "the arm moves at 0.30 rad/s"),
        ({"velocities": np.full(7, np.nan)}, "the velocity of panda_joint1 is nan"),
        ({"velocities": np.where(np.arange(7) == 5, np.inf, 0.0)}, "the velocity of panda_joint6 is inf"),
        ({"positions": np.where(np.arange(7) == 2, np.nan, ARM.home)}, "the position of panda_joint3 is nan"),
    ],
)
def test_arm_away_from_home_or_moving_is_red(checklist: Checklist, change: dict[str, Any], found: str) -> None:
    assert checklist.joints is not None
    checklist.joints = replace(checklist.joints, **change)
    (line,) = red(checklist)
    assert line.name == "home"
    assert found in line.found


def test_a_fault_of_the_arms_driver_is_the_line_of_the_joint_states(checklist: Checklist) -> None:
    checklist.driver = "servo 3 (elbow_flex) does not answer"
    (line,) = red(checklist)
    assert (line.name, line.found) == ("joint_states", "servo 3 (elbow_flex) does not answer")


def test_a_silent_topic_reports_the_error_of_its_last_message(checklist: Checklist) -> None:
    checklist.joints_fault = "joint fr3_joint1 is missing"
    later = NOW + 3_000_000_000
    lines = {line.name: line for line in checklist.report(later).lines}
    assert lines["joint_states"].found == "joint fr3_joint1 is missing"
    assert lines["images"].found == "nothing comes on perception/features"
    assert lines["heartbeat"].found == "silent"


def test_extrinsics_are_measured_against_the_bundle(contract: Contract, tmp_path: Path) -> None:
    pose = contract.camera.T_base_camera

    def line(extrinsics: str) -> Line:
        report = Checklist(contract, ARM, ChecklistSettings(), extrinsics, TOPIC).report(NOW)
        return next(line for line in report.lines if line.name == "extrinsics")

    assert not line("").ok
    assert "./rlfp calibrate extrinsics" in line("").fix
    near, far = tmp_path / "near.yaml", tmp_path / "far.yaml"
    for path, shift in ((near, 0.01), (far, 0.05)):
        moved = {"xyz": [pose.xyz[0] + shift, *pose.xyz[1:]], "quaternion_xyzw": list(pose.quaternion_xyzw)}
        path.write_text(yaml.safe_dump({"T_base_camera": moved}))
    assert line(str(near)).ok
    assert line(str(near)).found.startswith("0.0100 m and 0.00 deg")
    with pytest.raises(ConfigurationError, match=r"0.050 m and 0.000 rad from the bundle's, expected at most 0.03 m"):
        line(str(far))


@pytest.mark.graph
@pytest.mark.parametrize("own", ["/arm_1", "/"], ids=["in a namespace", "in the root"])
def test_only_statuses_of_its_own_namespace_count(
    start_node: Callable[..., Any], test_node: Any, tiny_bundle: Path, own: str
) -> None:
    """Two robots report on /diagnostics: neither the other's fault nor its health is this one's."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from std_msgs.msg import String

    from rlfp_ros.nodes import messages as m

    mine, other = ("arm_1/", "") if own == "/arm_1" else ("", "arm_1/")
    reports = test_node.publisher(m.DIAGNOSTICS)
    lists: list[String] = []
    topic = m.CHECKLIST.name if own == "/" else f"{own}/{m.CHECKLIST.name}"
    test_node.node.create_subscription(String, topic, lists.append, m.CHECKLIST.qos)
    start_node("checklist", {"bundle": tiny_bundle, "extrinsics": "bundle"}, __ns=own)
    test_node.connected(reports)

    def status(prefix: str, node: str, fault: str) -> DiagnosticStatus:
        values = [KeyValue(key="preprocessing", value=f"that of {prefix}{node}")]
        level = DiagnosticStatus.ERROR if fault else DiagnosticStatus.OK
        return DiagnosticStatus(level=level, name=f"{prefix}{node}", message=fault or "running", values=values)

    def seen_with(my_fault: str, other_fault: str) -> set[str]:
        """What `camera` and `policy` say while both robots report, this one first and then the other."""
        for _ in range(8):
            for prefix, fault in ((mine, my_fault), (other, other_fault)):
                statuses = [status(prefix, node, fault) for node in ("perception", "policy")]
                reports.publish(DiagnosticArray(status=statuses))
            test_node.spin_for(0.3)
        newest = [json.loads(message.data)["lines"] for message in lists[-2:]]
        return {line["found"] for lines in newest for line in lines if line["name"] in ("camera", "policy")}

    test_node.spin_until(lambda: lists, LIMIT_S, "a checklist")
    healthy = seen_with("", "the other's lens is covered")
    assert healthy == {f"that of {mine}perception", f"nothing comes on {own.rstrip('/')}/policy/residual"}
    assert seen_with("my lens is covered", "") == {"my lens is covered"}


@pytest.mark.graph
def test_another_robot_s_controller_on_the_same_command_topic_is_said(
    start_node: Callable[..., Any], test_node: Any, tiny_bundle: Path
) -> None:
    from rclpy.node import Node
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from rlfp_ros.nodes import messages as m

    lists: list[String] = []
    test_node.node.create_subscription(String, f"/arm_1/{m.CHECKLIST.name}", lists.append, m.CHECKLIST.qos)
    shared = "/shared_controller/joint_trajectory"
    test_node.node.create_subscription(JointTrajectory, shared, lambda _: None, 1)
    remapped = {"__ns": "/arm_1", m.ARM_COMMAND.name: shared}
    start_node("checklist", {"bundle": tiny_bundle, "extrinsics": "bundle"}, **remapped)

    def controller_line() -> str:
        lines = json.loads(lists[-1].data)["lines"] if lists else []
        return next((str(line["found"]) for line in lines if line["name"] == "controller"), "")

    context = test_node.node.context
    own = Node("residual_controller", namespace="/arm_1", context=context)
    own.create_publisher(JointTrajectory, shared, 1)
    test_node.spin_until(lambda: controller_line().endswith(f"takes commands on {shared}"), LIMIT_S, "a taker")
    other = Node("residual_controller", namespace="/arm_2", context=context)
    other.create_publisher(JointTrajectory, shared, 1)
    test_node.spin_until(
        lambda: "arm_2/residual_controller sends commands" in controller_line(), LIMIT_S, "the other controller"
    )
    own.destroy_node()
    other.destroy_node()


@pytest.mark.graph
def test_nodes_that_only_listen_to_commands_do_not_count_as_the_arm(
    start_node: Callable[..., Any], test_node: Any, tiny_bundle: Path
) -> None:
    """The operator's page plots the commands, and the recorder records them: neither moves an arm."""
    from rclpy.node import Node
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from rlfp_ros.nodes import messages as m

    lists: list[String] = []
    test_node.node.create_subscription(String, m.CHECKLIST.name, lists.append, m.CHECKLIST.qos)
    start_node("checklist", {"bundle": tiny_bundle, "extrinsics": "bundle"})

    def controller_line() -> str:
        lines = json.loads(lists[-1].data)["lines"] if lists else []
        return next((str(line["found"]) for line in lines if line["name"] == "controller"), "")

    def subscriber(name: str) -> Node:
        node = Node(name, context=test_node.node.context)
        node.create_subscription(JointTrajectory, m.ARM_COMMAND.name, lambda _: None, 1)
        return node

    listeners = [subscriber(name) for name in ("operator", "recorder", "live_recorder", "observer")]
    test_node.spin_until(controller_line, LIMIT_S, "a checklist")
    before = len(lists)
    test_node.spin_until(lambda: len(lists) > before + 4, LIMIT_S, "more lists")
    assert controller_line().startswith("no node takes commands on")
    arm = subscriber("driver")
    test_node.spin_until(lambda: controller_line().startswith("driver takes commands on"), LIMIT_S, "the driver")
    for node in (*listeners, arm):
        node.destroy_node()
