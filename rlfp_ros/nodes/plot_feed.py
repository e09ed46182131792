"""Residual, admitted residual and command for the page's plots. Subscribes only while a page is open."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.control.actions import action_of
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.executor import take
from rlfp_ros.nodes.image_feed import ViewedCell
from rlfp_ros.nodes.operator_link import CONTROLLER
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.plots import PERIOD_S, PlotPoint, position_share, velocity_share
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

COMMANDS = {"trajectory_msgs/msg/JointTrajectory": JointTrajectory, "std_msgs/msg/Float64MultiArray": Float64MultiArray}


class PlotFeed:
    """Takes the newest residual, admitted residual and command ten times a second, and gives them to the desk.

    The subscriptions are polled: a message on them does not wake the process.
    """

    def __init__(self, node: Node, desk: Desk) -> None:
        self._node, self._desk = node, desk
        self._cell: ViewedCell | None = None
        self._output = "joint_trajectory"
        self._asked: Any = None
        self._applied: Any = None
        self._commands: list[Any] = []
        node.create_timer(PERIOD_S, self._take, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def use(self, cell: ViewedCell | None, output: str) -> None:
        """Take the bundle's and the arm's data, and the controller's `output`; None if they are not known."""
        self._close()
        self._cell, self._output = cell, output
        if cell is not None:
            self._desk.plots.name(cell.contract.action.components, cell.arm.joint_names)

    @property
    def polled(self) -> tuple[Any, ...]:
        """Subscriptions that the executor leaves to this object."""
        return tuple(self._subscriptions())

    def look(self) -> None:
        """Open or close the subscriptions; call it regularly."""
        if not self._desk.is_watched or self._cell is None:
            self._close()
        elif self._asked is None:
            self._open(self._cell)
        if self._asked is not None and not self._commands:
            self._open_commands()

    def _subscriptions(self) -> list[Any]:
        return [one for one in (self._asked, self._applied, *self._commands) if one is not None]

    def _open(self, cell: ViewedCell) -> None:
        subscribe, contract = self._node.create_subscription, cell.contract
        in_joint_space = contract.action.kind == "joint_velocity"
        asked = m.JOINT_RESIDUAL if in_joint_space else m.RESIDUAL
        self._asked = subscribe(asked.type, asked.name, _nothing, m.LATEST)
        if contract.policy.past_actions:
            self._applied = subscribe(JointState, m.ACTION_APPLIED.name, _nothing, m.LATEST)
        elif not in_joint_space:
            self._applied = subscribe(TwistStamped, m.RESIDUAL_APPLIED.name, _nothing, m.LATEST)

    def _open_commands(self) -> None:
        """Subscribe to what the controller publishes to drivers, whatever the names are."""
        try:
            found = self._node.get_publisher_names_and_types_by_node(CONTROLLER, self._node.get_namespace())
        except Exception:  # rclpy.node.NodeNameNonExistentError, RCLError: the node is not there
            return
        kinds = [(name, COMMANDS[types[0]]) for name, types in found if types[0] in COMMANDS]
        self._commands = [self._node.create_subscription(kind, name, _nothing, m.LATEST) for name, kind in kinds]

    def _close(self) -> None:
        for subscription in self._subscriptions():
            self._node.destroy_subscription(subscription)
        self._asked, self._applied, self._commands = None, None, []

    # --- values ------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        cell = self._cell
        if cell is None or self._asked is None:
            return
        position, velocity = self._command(cell)
        self._desk.plots.add(
            PlotPoint(
                self._desk.clock(),
                self._action(self._asked, cell),
                self._action(self._applied, cell),
                None if position is None else position_share(position, cell.arm),
                None if velocity is None else velocity_share(velocity, cell.arm),
            )
        )

    def _action(self, subscription: Any, cell: ViewedCell) -> np.ndarray | None:
        """Return the newest action in action units, with NaN for a gripper that the message does not carry."""
        message = _newest(subscription)
        contract, joints = cell.contract.action, cell.arm.joint_names
        with contextlib.suppress(ConfigurationError):  # the controller reports it
            if isinstance(message, JointState):
                return decode.action_from_message(message, contract.components)[1]
            if isinstance(message, JointTrajectory):
                twist = decode.joint_velocities_from_message(message, joints)
            elif isinstance(message, TwistStamped):
                twist = decode.twist_from_message(message, cell.arm.base_frame)
            else:
                return None
            action = action_of(Residual(0, twist), contract, joints)
            if "gripper" in contract.components:
                action[contract.components.index("gripper")] = np.nan
            return action
        return None

    def _command(self, cell: ViewedCell) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return position rad and velocity rad/s [J] of the newest command, as far as it has them."""
        names, joints = cell.arm.driver_names(cell.arm.joint_names), len(cell.arm.joint_names)
        for subscription in self._commands:
            message = _newest(subscription)
            if isinstance(message, JointTrajectory) and message.points and set(message.joint_names) == set(names):
                with contextlib.suppress(ConfigurationError):
                    trajectory = decode.trajectory_from_message(message, names)
                    return trajectory.positions[0], trajectory.velocities[0]
            if isinstance(message, Float64MultiArray) and len(message.data) == joints:
                values = np.array(message.data)
                return (values, None) if self._output == "forward_position" else (None, values)
        return None, None


def _newest(subscription: Any) -> Any:
    taken = take(subscription) if subscription is not None else None
    return None if taken is None else taken[0]


def _nothing(message: Any) -> None:
    """Do nothing: the subscription is polled."""
