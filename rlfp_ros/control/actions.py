"""Actions in [-1, 1] to residuals in SI units and back, and the images on which a policy decides."""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.control.trajectory import Residual


def residual_of(
    action: np.ndarray, contract: ActionContract, stamp_ns: int, joint_names: tuple[str, ...] = ()
) -> Residual:
    """Convert an action in [-1, 1] to a residual in SI units. No other code applies the action scale.

    `joint_names` of the arm are needed for actions of kind joint_velocity.
    """
    axes = contract.axes(joint_names)
    twist = np.zeros(len(axes))
    gripper_width = None
    for value, component, scale in zip(action.tolist(), contract.components, contract.scale, strict=True):
        if component == "gripper":
            gripper_width = scale * (value + 1)
        else:
            twist[axes.index(component)] = scale * value
    return Residual(stamp_ns, twist, gripper_width)


def action_of(residual: Residual, contract: ActionContract, joint_names: tuple[str, ...] = ()) -> np.ndarray:
    """Convert a residual to action units, the inverse of `residual_of`.

    Parameters
    ----------
    residual
        Such as the admitted part of a residual.
    contract
        Components and scale.
    joint_names
        The arm's, for actions of kind joint_velocity.

    Returns
    -------
    np.ndarray
        [A] float32 in [-1, 1]; the gripper's component is 0 if the residual has no gripper width.
    """
    axes = contract.axes(joint_names)
    values = []
    for component, scale in zip(contract.components, contract.scale, strict=True):
        if component == "gripper":
            values.append(0.0 if residual.gripper_width is None else residual.gripper_width / scale - 1)
        else:
            values.append(float(residual.twist[axes.index(component)]) / scale)
    return np.array(values, np.float32)


def decides(contract: ActionContract, decided_ns: int | None, stamp_ns: int) -> bool:
    """Return whether a policy decides on an image, or holds the action of its last decision.

    The first image of an episode decides. After that an image decides if its stamp is at least `images_per_decision`
    camera periods, less half a period, after that of the last decision. So lost images do not delay the next decision:
    if the image that should decide is lost, the next one that comes decides.

    Parameters
    ----------
    contract
        The rates.
    decided_ns
        Stamp of the image of the last decision; None at the start of an episode.
    stamp_ns
        Stamp of the image.
    """
    images = contract.images_per_decision
    if images == 1 or decided_ns is None or stamp_ns < decided_ns:  # earlier than the last one: another recording
        return True
    return (stamp_ns - decided_ns) * 1e-9 * contract.rate_hz >= images - 0.5
