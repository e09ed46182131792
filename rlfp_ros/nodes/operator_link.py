"""The operator's side of the graph: heartbeat, e-stop, services and gain of the residual controller, goal, record.

`operator_terminal` and `operator` both use it. Publishing and calling is allowed in any thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.takeover import Jog, Shares
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.service_calls import call_trigger, set_parameter
from rlfp_ros.operator.action import SERVICES, Action
from rlfp_ros.operator.robot import Answered

CONTROLLER = "residual_controller"  # name of the node
NOT_THERE = "the residual controller is not there; is the graph running?"


class OperatorLink:
    """Publishers, clients and subscriptions of an operator.

    Parameters
    ----------
    node
        Their owner.
    on_state, on_checklist
        Called with each message of safety/state and safety/checklist.
    """

    def __init__(
        self,
        node: Node,
        on_state: Callable[[SafetyState], None],
        on_checklist: Callable[[ChecklistReport], None],
    ) -> None:
        self.base_frame = ""  # of goals; empty until the controller's bundle is known
        self._heartbeat = node.create_publisher(m.HEARTBEAT.type, m.HEARTBEAT.name, m.HEARTBEAT.qos)
        self._estop = node.create_publisher(m.ESTOP.type, m.ESTOP.name, m.ESTOP.qos)
        self._commands = node.create_publisher(m.OPERATOR_COMMAND.type, m.OPERATOR_COMMAND.name, m.OPERATOR_COMMAND.qos)
        self._node = node
        self._jogs: Any = None  # opened with the first jog
        self._goal: Any = None  # opened with the first goal: a latched topic must not have an idle publisher
        self._triggers = {action: node.create_client(Trigger, f"{CONTROLLER}/{action.value}") for action in SERVICES}
        self._set_parameters = node.create_client(SetParameters, f"{CONTROLLER}/set_parameters")

        def state(message: String) -> None:
            on_state(SafetyState.from_json(message.data))

        def checklist(message: String) -> None:
            on_checklist(ChecklistReport.model_validate_json(message.data))

        node.create_subscription(String, m.SAFETY_STATE.name, state, m.LATCHED)
        node.create_subscription(String, m.CHECKLIST.name, checklist, m.LATCHED)

    def beat(self, lease: str = "") -> None:
        """Publish one heartbeat; `lease` names the operator's place, and only jogs with the same one count."""
        self._heartbeat.publish(m.header_message(time.time_ns(), lease))

    def jog(self, lease: str, linear: Shares, angular: Shares) -> None:
        """Publish a person's velocity for the tool, as shares of the highest jog speeds."""
        stamp = self._node.get_clock().now().nanoseconds
        jog = Jog(stamp=stamp, lease=lease, linear=linear, angular=angular)
        if self._jogs is None:
            self._jogs = self._node.create_publisher(m.JOG.type, m.JOG.name, m.JOG.qos)
        self._jogs.publish(String(data=jog.to_json()))

    def stop(self) -> None:
        """Publish the e-stop."""
        self._estop.publish(Bool(data=True))

    def call(self, action: Action, answered: Answered) -> None:
        """Call a service of the controller; `answered` gets success and message."""
        call_trigger(self._triggers[action], NOT_THERE, answered)

    def set_gain(self, value: float, answered: Answered) -> None:
        """Set the controller's `residual_gain`."""
        given = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        set_parameter(self._set_parameters, NOT_THERE, Parameter(name="residual_gain", value=given), answered, "set")

    def send_goal(self, point: np.ndarray, stamp_ns: int) -> None:
        """Publish a goal [3] m in the base frame, stamped with the image that it was chosen in."""
        if self._goal is None:
            self._goal = self._node.create_publisher(m.GOAL.type, m.GOAL.name, m.GOAL.qos)
        self._goal.publish(m.goal_message(stamp_ns, point, self.base_frame))

    def record(self, line: dict[str, Any]) -> None:
        """Publish a line about a command, for the recorder."""
        self._commands.publish(String(data=json.dumps(line)))
