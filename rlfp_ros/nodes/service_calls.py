"""Calls of other nodes' services without waiting: the answer comes to a function, success first, then a sentence."""

from __future__ import annotations

from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.task import Future
from std_srvs.srv import Trigger

from rlfp_ros.operator.robot import Answered


def call_trigger(client: Client, absent: str, answered: Answered) -> None:
    """Call a service of type Trigger.

    Parameters
    ----------
    client
        Of the service.
    absent
        The answer if the service is not there.
    answered
        Gets success and message, in the executor's thread, or at once if the service is not there.
    """
    if not client.service_is_ready():
        answered(False, absent)
        return

    def done(future: Future) -> None:
        response = future.result()
        answered(bool(response.success), str(response.message))

    client.call_async(Trigger.Request()).add_done_callback(done)


def set_parameter(client: Client, absent: str, parameter: Parameter, answered: Answered, done_text: str) -> None:
    """Set a parameter of another node.

    Parameters
    ----------
    client
        Of the node's service `set_parameters`.
    absent
        The answer if the node is not there.
    parameter
        Name and value.
    answered
        Gets success and the node's reason, as in `call_trigger`.
    done_text
        The sentence if the node gives no reason.
    """
    if not client.service_is_ready():
        answered(False, absent)
        return

    def done(future: Future) -> None:
        result = future.result().results[0]
        answered(bool(result.successful), str(result.reason) or done_text)

    client.call_async(SetParameters.Request(parameters=[parameter])).add_done_callback(done)
