"""Refuses commands as joint_trajectory_controller (JTC) does, in nodes that are an arm's drivers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

STILL = float(np.finfo(np.float32).eps)  # rad/s; JTC treats a larger last velocity as non-zero


def refusal(message: JointTrajectory, joint_names: tuple[str, ...], now_ns: int) -> str | None:
    """Return why JTC with its defaults (no partial goals, rest at the end) would refuse a message, or None."""
    if sorted(message.joint_names) != sorted(joint_names):
        return f"joints on incoming trajectory are {list(message.joint_names)}, expected all of {list(joint_names)}"
    if not message.points:
        return "empty trajectory received"
    last = message.points[-1]
    stamp, ahead = decode.stamp_ns(message.header.stamp), decode.stamp_ns(last.time_from_start)
    if stamp != 0 and stamp + ahead < now_ns:
        return f"trajectory with non-zero start time ends in the past, by {(now_ns - stamp - ahead) * 1e-9:.3f} s"
    if any(abs(velocity) > STILL for velocity in last.velocities):
        return f"velocity of last trajectory point is {max(map(abs, last.velocities)):.3g} rad/s, expected zero"
    return None


def command_from_message(message: JointTrajectory, joint_names: tuple[str, ...], now_ns: int) -> Trajectory:
    """Decode a command that arrives at `now_ns`; without a stamp it begins then.

    Raises
    ------
    ConfigurationError
        If JTC would refuse it, or if it cannot be decoded.
    """
    why = refusal(message, joint_names, now_ns)
    if why is not None:
        raise ConfigurationError(why)
    trajectory = decode.trajectory_from_message(message, joint_names)
    return replace(trajectory, stamp_ns=now_ns) if trajectory.stamp_ns == 0 else trajectory
