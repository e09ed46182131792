"""The operator's side of the recorder: start, stop and label, its state and its list of bags."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.service_calls import call_trigger, set_parameter
from rlfp_ros.operator.robot import Answered
from rlfp_ros.recording.bag_list import BagListing, LabelRequest, RecorderState

RECORDER = "recorder"  # name of the node
NOT_THERE = "the recorder is not there; is it running?"


class RecorderLink:
    """Clients and subscriptions of an operator. Implements `operator.robot.Recorder`.

    Parameters
    ----------
    node
        Their owner.
    on_state, on_listing
        Called with each message of recorder/state and recorder/bags.
    """

    def __init__(
        self, node: Node, on_state: Callable[[RecorderState], None], on_listing: Callable[[BagListing], None]
    ) -> None:
        self._start = node.create_client(Trigger, f"{RECORDER}/start")
        self._stop = node.create_client(Trigger, f"{RECORDER}/stop")
        self._set_parameters = node.create_client(SetParameters, f"{RECORDER}/set_parameters")

        def state(message: String) -> None:
            on_state(RecorderState.from_json(message.data))

        def listing(message: String) -> None:
            on_listing(BagListing.from_json(message.data))

        node.create_subscription(String, m.RECORDER_STATE.name, state, m.LATCHED)
        node.create_subscription(String, m.RECORDER_BAGS.name, listing, m.LATCHED)

    def start(self, answered: Answered) -> None:
        """Begin a bag."""
        call_trigger(self._start, NOT_THERE, answered)

    def stop(self, answered: Answered) -> None:
        """End the bag."""
        call_trigger(self._stop, NOT_THERE, answered)

    def label(self, request: LabelRequest, answered: Answered) -> None:
        """Label a bag through the recorder's parameter `label`, because std_srvs has no service with a text."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=request.model_dump_json())
        parameter = Parameter(name="label", value=value)
        set_parameter(self._set_parameters, NOT_THERE, parameter, answered, request.bag or "the newest bag")
