"""Joint states whose joints come in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import JointState


def in_order(message: JointState, order: Sequence[int] | np.ndarray) -> JointState:
    """Return the message with its joints in another order: their places in the given message."""
    return JointState(
        header=message.header,
        name=[message.name[place] for place in order],
        position=[message.position[place] for place in order],
        velocity=[message.velocity[place] for place in order],
        effort=[message.effort[place] for place in order],
    )
