"""Finds values of a joint state that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlfp_ros.control.arm import JointState


def not_finite(joint_state: JointState, joint_names: Sequence[str]) -> str:
    """Return which position or velocity is NaN or infinite, or an empty string if all are finite.

    Some drivers send NaN for quantities that they do not measure. Efforts are not checked, because no policy uses them.
    """
    for quantity, values, unit in (
        ("position", joint_state.positions, "rad"),
        ("velocity", joint_state.velocities, "rad/s"),
    ):
        unknown = np.flatnonzero(~np.isfinite(values))
        if len(unknown):
            joint = unknown[0]
            return f"the {quantity} of {joint_names[joint]} is {values[joint]}, expected a number in {unit}"
    return ""
