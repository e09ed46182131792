"""Tests of the controller's node with an arm under a forward controller: its commands and its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Process, TestNode
from controller_driver import ARM, Driver
from std_msgs.msg import Bool, Float64MultiArray

from rlfp_ros.control.arm import JointState
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.nodes import messages as m


@pytest.mark.parametrize("output", ["forward_position", "forward_velocity"])
def test_forward_controllers_get_plain_numbers_and_a_stop_to_its_end(
    start_controller: Callable[..., Driver], output: str, tmp_path: Path
) -> None:
    named = ARM.model_dump(mode="json") | {"name": "left"}
    named["topics"][output] = "left_arm/commands"
    (tmp_path / "left.yaml").write_text(yaml.safe_dump(named))
    driver = start_controller(
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
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path, signal_number: int
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
        "residual_controller",
        {"bundle": tiny_bundle, "output": "forward_velocity", "start_enabled": True, "settle_s": 0.0},
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
