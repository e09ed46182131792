"""Tests of the data of the page's plots, with a node that publishes as the safety controller and the policy do."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from conftest import TestNode
from operator_robot import NotedRobot
from rclpy.node import Node

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.nodes.image_feed import ViewedCell
from rlfp_ros.nodes.plot_feed import PlotFeed
from rlfp_ros.operator.desk import Desk

pytestmark = pytest.mark.graph

ARM = load_arm("panda")
LIMIT_S = 60.0


def test_residual_admitted_residual_and_command_are_plotted_as_shares_of_their_limits(
    test_node: TestNode, ros_context: Any
) -> None:
    contract = load_bundle("push_panda").contract
    desk = Desk(NotedRobot())
    controller, plotter = Node("residual_controller", context=ros_context), Node("operator", context=ros_context)
    feed = PlotFeed(plotter, desk)
    executor = NodeExecutor(plotter)
    opened = {
        topic.name: controller.create_publisher(topic.type, topic.name, topic.qos)
        for topic in (m.RESIDUAL, m.RESIDUAL_APPLIED, m.ARM_COMMAND, m.GRIPPER_COMMAND)
    }
    page = desk.join()
    feed.look()
    assert feed.polled == ()  # the bundle is not known yet
    feed.use(ViewedCell(contract, ARM, Kinematics(ARM), np.eye(4), "camera", "auto"), "joint_trajectory")

    upper = np.array(ARM.limits.upper)
    half = 0.5 * np.array(ARM.limits.velocity)
    twist = np.zeros(6)
    twist[0] = contract.action.scale[0]  # vx at its limit
    command = Trajectory(0, np.array([0.1]), np.stack([upper, half, np.zeros(7)])[None])
    gripper = Trajectory.to_rest(0, 0.1, ARM.gripper.positions(0.04)) if ARM.gripper else command
    found: dict[str, list[float | None]] = {}
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and len(found) < 4:
        opened[m.RESIDUAL.name].publish(m.residual_message(Residual(1, twist), ARM.base_frame))
        opened[m.RESIDUAL_APPLIED.name].publish(m.twist_message(1, 0.5 * twist, ARM.base_frame))
        opened[m.ARM_COMMAND.name].publish(m.trajectory_message(command, ARM.driver_names(ARM.joint_names)))
        if ARM.gripper:
            names = ARM.driver_names(ARM.gripper.joint_names)
            opened[m.GRIPPER_COMMAND.name].publish(m.trajectory_message(gripper, names))
        feed.look()
        plotter.polled = feed.polled
        executor.spin_once(0.02)
        for point in desk.status(page)["plots"]["points"]:
            found |= {name: values for name, values in point.items() if name != "t" and values is not None}
    assert found["asked"][0] == pytest.approx(1.0)
    assert found["applied"][0] == pytest.approx(0.5)
    assert found["position"] == pytest.approx([1.0] * 7)
    assert found["velocity"] == pytest.approx([0.5] * 7)
    desk.leave(page)
    feed.look()
    assert feed.polled == ()  # nothing is read while no page is open
    executor.close()
    plotter.destroy_node()
    controller.destroy_node()
