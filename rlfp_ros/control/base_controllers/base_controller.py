"""The interface of a base controller, and the registry from which a bundle chooses one by name.

A base controller also works without a policy. It computes a wanted tool twist (base frame) and joint velocities for the
joints that the tool pose leaves free. The safety filter enforces the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from rlfp_ros import plugins, schema
from rlfp_ros.contract import BaseControllerContract, Contract
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError, Schema


@dataclass
class Situation:
    """Inputs of a base controller at one tick. Joints are commanded, not measured, so they have no delay and no noise.

    Attributes
    ----------
    joints
        [J] rad.
    jacobian
        [6, J] of the tool in the base frame.
    position
        [3] m, tool in the base frame.
    rotation
        [3, 3], T_base_tool.
    object_position
        [3] m in the base frame, of the last accepted percept; None before there is one.
    goal
        [3] m in the base frame; None if there is none.
    dt
        s since the last tick.
    """

    joints: np.ndarray
    jacobian: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    object_position: np.ndarray | None
    goal: np.ndarray | None
    dt: float


@dataclass
class Wanted:
    """A tool twist [6] (m/s, rad/s, base frame), and joint velocities [J] rad/s for the joints that it leaves free."""

    twist: np.ndarray
    posture: np.ndarray


class BaseController(Protocol):
    """Moves the arm, alone or with a policy's residual added. Each residual controller has its own instance."""

    def start(self, situation: Situation) -> None:
        """Store the pose to keep. Called whenever the arm is initialised from measured joints."""

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        """Return the motion for this tick; `residual` [6] is the twist that will be added to it."""


class NoParameters(Schema):
    """For controllers without parameters."""


class BaseControllerClass(Protocol):
    """What the registry holds: a class that makes a base controller from a bundle's parameters.

    Attributes
    ----------
    Parameters
        Schema of `base_controller.parameters` in the bundle.
    follows_object
        Whether it uses `Situation.object_position`: training then supplies the object's pose.
    """

    Parameters: ClassVar[type[Schema]]
    follows_object: ClassVar[bool]

    def __call__(self, parameters: Any, arm: Arm, settings: ControllerSettings) -> BaseController:
        """Make the controller; `parameters` is an instance of `Parameters`."""


BASE_CONTROLLERS = Registry[BaseControllerClass](
    "base controller",
    builtin="rlfp_ros.control.base_controllers",
    members=("Parameters", "follows_object", "start", "wanted"),
)


def check_follows(contract: Contract, source: str) -> None:
    """Check that perception finds the object if the base controller follows it.

    Raises
    ------
    ConfigurationError
        If the encoder of the bundle `source` gives no object pose for a base controller that needs it.
    """
    name = contract.base_controller.name
    if contract.encoder.finds_object or name not in BASE_CONTROLLERS or not BASE_CONTROLLERS[name].follows_object:
        return
    raise ConfigurationError(
        f"{source}: base_controller.name is {name!r}, which follows the object, but encoder.outputs has no "
        "object_pose; use hold, or an encoder that finds the object"
    )


def choose_base_controller(bundles: BaseControllerContract, settings: ControllerSettings) -> BaseControllerContract:
    """Return the bundle's base controller, or the one that the settings name instead.

    Raises
    ------
    ConfigurationError
        If the parameters in the settings are not a mapping, or are given without a name.
    """
    name, text = settings.base_controller, settings.base_parameters
    if not name and not text:
        return bundles
    if not name:
        raise ConfigurationError(
            f"base_parameters is {schema.shown(text)} without a base_controller; name the controller that takes them"
        )
    parameters = schema.named_values(text, "base_parameters", "{duration_s: 30}")
    return schema.validate({"name": name, "parameters": parameters}, BaseControllerContract, "base_parameters")


def make_base_controller(
    name: str, parameters: dict[str, Any], arm: Arm, settings: ControllerSettings
) -> BaseController:
    """Make the controller that a bundle or the settings name.

    Raises
    ------
    ConfigurationError
        If no base controller has this name, or it does not take these parameters.
    """
    given = bool(settings.base_controller)
    if name not in BASE_CONTROLLERS:
        where = "base_controller" if given else "bundle.yaml: base_controller.name"
        raise ConfigurationError(
            f"{where} is {name!r}, expected one of {', '.join(BASE_CONTROLLERS)}; if it "
            f"comes from a plugin, name its file in the environment variable {plugins.VARIABLE} or install its package"
        )
    controller = BASE_CONTROLLERS[name]
    where = "base_parameters" if given else "bundle.yaml: base_controller.parameters"
    return controller(schema.validate(parameters, controller.Parameters, where), arm, settings)


def limited(vector: np.ndarray, length: float) -> np.ndarray:
    """Return `vector` [3], shortened to `length` if it is longer."""
    x, y, z = vector.tolist()
    found = (x * x + y * y + z * z) ** 0.5
    return vector * (length / found) if found > length else vector
