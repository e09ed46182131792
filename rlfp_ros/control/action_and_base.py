"""The part of a bundle's contract that the residual controller reads, and its check against an arm."""

from __future__ import annotations

from typing import Protocol

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError


class ActionAndBase(Protocol):
    """The fields of `Contract` that the controller needs."""

    @property
    def action(self) -> ActionContract:
        """Components and scale of the residual."""

    @property
    def base_controller(self) -> BaseControllerContract:
        """The controller that the residual is added to."""


def check_arm(contract: ActionAndBase, arm: Arm) -> None:
    """Check that an arm has the joints and the gripper of a contract.

    Raises
    ------
    ConfigurationError
        If the joints' names differ, or if the policy moves a gripper that the arm does not have.
    """
    wanted = getattr(contract, "arm", None)
    if wanted is not None and tuple(wanted.joint_names) != arm.joint_names:
        raise ConfigurationError(
            f"bundle.yaml: arm.joint_names is {list(wanted.joint_names)}, but {arm.origin} "
            f"has {list(arm.joint_names)}; use the arm that the policy was trained with"
        )
    if "gripper" in contract.action.components and arm.gripper is None:
        raise ConfigurationError(
            f"bundle.yaml: action.components has a gripper, but {arm.origin} has none; "
            "use another arm or add its gripper"
        )
