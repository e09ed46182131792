"""`operator`: serves the operator's page, and joins it with the graph.

The heartbeat is published only when one comes from the page of the person who operates, never by a timer. Everything
that moves the arm goes through the services of the residual controller.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterEvent, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes import spin
from rlfp_ros.nodes.diagnostics import Diagnostics, Level, Report, status_name
from rlfp_ros.nodes.image_feed import PERCEPTION, ImageFeed, ViewedCell
from rlfp_ros.nodes.operator_link import CONTROLLER, OperatorLink
from rlfp_ros.nodes.parameters import declare
from rlfp_ros.nodes.plot_feed import PlotFeed
from rlfp_ros.nodes.recorder_link import RecorderLink
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.page_address import PAGE_LINE, TOKEN_VARIABLE, AccessSettings, check_packages
from rlfp_ros.operator.robot import Controller
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.schema import ConfigurationError

LOOK_S = 0.25  # between looks at the graph
LEAVE_S = 1.0  # longest wait at the end for the arm to come to rest
OF_CONTROLLER = (
    "bundle",
    "arm",
    "extrinsics",
    "optical_frame",
    "residual_gain",
    "dry_run",
    "step_by_step",
    "require_heartbeat",
    "heartbeat_timeout_s",
    "shift_slow",
    "shift_hold",
    "jog_scale",
    "output",
)


class OperatorNodeSettings(AccessSettings):
    """Parameters of this node."""


class OperatorNode(Node):
    """Joins `operator.desk.Desk` and its server with topics, services and parameters."""

    def __init__(self) -> None:
        super().__init__("operator")
        settings = declare(self, OperatorNodeSettings)
        check_packages()
        from rlfp_ros.operator.server import OperatorServer

        self._link = OperatorLink(self, self._on_state, self._on_checklist)
        self._desk = Desk(self._link)
        panel = self._desk.recording
        panel.recorder = RecorderLink(self, lambda state: panel.on_state(state, self._desk.clock()), panel.on_listing)
        self._server = OperatorServer(self._desk, settings)
        self._feed = ImageFeed(self, self._desk, self._server.wake)
        self._plots = PlotFeed(self, self._desk)
        self._values: dict[str, Any] = {}  # the controller's parameters, once they are known
        self._asked_at: float | None = None
        self._leaving_at: float | None = None
        self._ask_values = self.create_client(GetParameters, f"{CONTROLLER}/get_parameters")
        self._ask_limits = self.create_client(DescribeParameters, f"{CONTROLLER}/describe_parameters")
        self._ask_kind = self.create_client(GetParameters, f"{PERCEPTION}/get_parameters")
        self._kind = "auto"
        self._cell: ViewedCell | None = None
        self._note = ""
        self.create_subscription(ParameterEvent, "/parameter_events", self._on_parameter_event, 10)
        self.create_subscription(DiagnosticArray, m.DIAGNOSTICS.name, self._on_diagnostics, m.DIAGNOSTICS.qos)
        self.diagnostics = Diagnostics(self, self._report)
        self.create_timer(LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # rclpy's own handlers would close the topics before the arm is disabled.
        uninstall_signal_handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._server.start()
        shown = self._server.address if os.environ.get(TOKEN_VARIABLE) else self._server.address_with_token
        print(f"{PAGE_LINE}{shown}", flush=True)
        if settings.is_loopback:
            port = self._server.address.rstrip("/").rpartition(":")[2]
            print(
                f"from another computer: ssh -L {port}:127.0.0.1:{port} to this one, then the same address", flush=True
            )

    @property
    def polled(self) -> tuple[Any, ...]:
        """Subscriptions that the executor leaves to this node."""
        return (*self._feed.polled, *self._plots.polled)

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    # --- from the graph ----------------------------------------------------------------------------------------------

    def _on_state(self, state: SafetyState) -> None:
        self._desk.on_state(state)
        self._server.wake()

    def _on_checklist(self, report: ChecklistReport) -> None:
        self._desk.on_checklist(report)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if any(status.name == status_name(self.get_namespace(), CONTROLLER) for status in message.status):
            self._desk.on_report()

    def _on_parameter_event(self, event: ParameterEvent) -> None:
        if event.node != f"{self.get_namespace().rstrip('/')}/{CONTROLLER}" or not self._values:
            return
        for parameter in event.changed_parameters:
            if parameter.name == "residual_gain":
                self._values["residual_gain"] = _value(parameter.value)
                self._publish_controller()

    def _look(self) -> None:
        if not self._server.is_serving:
            raise spin.Finished(1, "operator: the page's server ended; the heartbeat ends and the arm stops")
        self._leave_if_asked()
        self._look_for_controller()
        self._feed.look()
        self._plots.look()

    def _look_for_controller(self) -> None:
        """Ask for the controller's parameters when it comes, again when it comes back."""
        if not self._ask_values.service_is_ready() or not self._ask_limits.service_is_ready():
            self._asked_at, self._values = None, {}
            return
        now = time.monotonic()
        if self._values or (self._asked_at is not None and now - self._asked_at < 2.0):
            return
        self._asked_at = now
        if self._ask_kind.service_is_ready():
            kind = GetParameters.Request(names=["image_kind"])
            self._ask_kind.call_async(kind).add_done_callback(self._on_kind)
        request = GetParameters.Request(names=list(OF_CONTROLLER))
        self._ask_values.call_async(request).add_done_callback(self._on_values)

    def _on_kind(self, future: Any) -> None:
        values = future.result().values
        if values and values[0].type == ParameterType.PARAMETER_STRING:
            self._kind = values[0].string_value

    def _on_values(self, future: Any) -> None:
        values = dict(zip(OF_CONTROLLER, map(_value, future.result().values), strict=False))
        request = DescribeParameters.Request(names=["residual_gain"])

        def described(answer: Any) -> None:
            descriptor = answer.result().descriptors[0]
            limits = descriptor.floating_point_range[0]
            values["gain_range"] = (limits.from_value, limits.to_value)
            values["gain_description"] = descriptor.description
            self._values = values
            self._load_cell()
            self._publish_controller()

        self._ask_limits.call_async(request).add_done_callback(described)

    def _load_cell(self) -> None:
        values = self._values
        self._cell, self._note = None, ""
        try:
            bundle = load_bundle(values["bundle"])
            arm = choose_arm(bundle, values["arm"])
            T_base_camera = load_extrinsics(values["extrinsics"], bundle.contract.camera)
            kind: Any = self._kind
            self._cell = ViewedCell(bundle.contract, arm, Kinematics(arm), T_base_camera, values["optical_frame"], kind)
        except ConfigurationError as error:
            self._note = f"the image is shown without overlay, and clicks set no goal: {error}"
            self.get_logger().warning(self._note)
        self._link.base_frame = self._cell.arm.base_frame if self._cell else ""
        self._feed.use(self._cell)
        self._plots.use(self._cell, str(values["output"]))

    def _publish_controller(self) -> None:
        values, cell = self._values, self._cell
        contract = cell.contract if cell else None
        self._desk.on_controller(
            Controller(
                bundle=contract.name if contract else str(values["bundle"]).rstrip("/").rpartition("/")[2],
                task=contract.task if contract else "",
                takes_goal=contract is not None and contract.goal == "point",
                arm=cell.arm if cell else None,
                gain=values["residual_gain"],
                gain_range=values["gain_range"],
                gain_description=values["gain_description"],
                dry_run=values["dry_run"],
                step_by_step=values["step_by_step"],
                require_heartbeat=values["require_heartbeat"],
                heartbeat_timeout_s=values["heartbeat_timeout_s"],
                shift_slow=values["shift_slow"],
                shift_hold=values["shift_hold"],
                jog_scale=values["jog_scale"],
                note=self._note,
            )
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    def _on_signal(self, *_: object) -> None:
        if self._leaving_at is None:
            self._leaving_at = time.monotonic()

    def _leave_if_asked(self) -> None:
        """Disable the arm and end, after a signal: it comes to rest as after `disable`."""
        if self._leaving_at is None:
            return
        state = self._desk.state
        if state is None or not state.enabled or time.monotonic() - self._leaving_at > LEAVE_S:
            raise spin.Finished
        self._link.call(Action.DISABLE, lambda ok, text: None)

    def _report(self) -> Report:
        image = self._desk.current
        values = {
            "pages": len(self._desk.pages),
            "images": image.number if image else 0,
            "address": self._server.address,
        }
        return Report(Level.OK, f"{len(self._desk.pages)} pages open", values)


def _value(value: ParameterValue) -> Any:
    """Return a parameter's value; None for types that are not needed here."""
    return {
        ParameterType.PARAMETER_BOOL: value.bool_value,
        ParameterType.PARAMETER_INTEGER: value.integer_value,
        ParameterType.PARAMETER_DOUBLE: value.double_value,
        ParameterType.PARAMETER_STRING: value.string_value,
    }.get(value.type)


def main() -> None:
    """Entry point of the executable `operator`."""
    sys.exit(spin.run(OperatorNode))


if __name__ == "__main__":
    main()
