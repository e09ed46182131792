"""The ROS name of a message's type."""

from __future__ import annotations


def type_name(message: object) -> str:
    """Return the name of the type, for example sensor_msgs/msg/Image."""
    kind = type(message)
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
