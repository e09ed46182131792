"""The interface of an arm that needs no ROS driver, and the registry from which `driver:=` chooses one by name.

A driver reads and writes joint positions, and nothing else. What commands are accepted, how they are followed between
two writes, and what happens in a fault is the same for every arm: `rlfp_ros.drivers.driven_arm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from rlfp_ros import schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import Schema


class ArmLost(Exception):
    """Raised if the arm cannot be reached or used now; the message says what was seen and what to do, in one sentence.

    `DrivenArm` then closes the driver and connects it again until that succeeds.
    """


class NoAnswer(Exception):
    """Raised by `read` and `write` if some joints did not answer once; the message names them."""


@dataclass(frozen=True, eq=False)
class JointReading:
    """Measurement of all joints at one time: the arm's joints and then its gripper's, J in all.

    Attributes
    ----------
    positions
        [J] rad (fingers that slide: m).
    velocities
        [J] rad/s.
    efforts
        [J] N m, as far as the hardware can tell.
    loads
        [J] share of each motor's stall torque, from -1 to 1; NaN if it is not measured.
    temperatures
        [J] degrees Celsius; NaN if it is not measured.
    faults
        What the hardware itself reports, a sentence each.
    """

    positions: np.ndarray
    velocities: np.ndarray
    efforts: np.ndarray
    loads: np.ndarray
    temperatures: np.ndarray
    faults: tuple[str, ...] = ()


class ArmDriver(Protocol):
    """Reads and moves the joints of one arm. One thread calls all methods.

    The hardware must hold its last written position while nothing is written: it is then at rest if this process stalls
    or dies.
    """

    def connect(self) -> None:
        """Connect, check that the hardware is the one that was configured, and set its limits. Moves nothing.

        Raises
        ------
        ArmLost
            If it is not there; connecting is tried again.
        ConfigurationError
            If it is another one, or if it is set up in another way.
        """

    def read(self) -> JointReading:
        """Measure all joints. Raises ArmLost and NoAnswer."""

    def write(self, positions: np.ndarray) -> None:
        """Set the positions [J] to move to at once. Raises ArmLost and NoAnswer."""

    def set_torque(self, on: bool) -> None:
        """Switch the motors on, holding the arm where it is, or off, so that it can be moved by hand.

        Raises ArmLost and NoAnswer.
        """

    def remarks(self) -> list[str]:
        """Return what the user should know about the configuration, a sentence each."""

    def counts(self) -> dict[str, object]:
        """Return further values for the node's diagnostics, by name."""

    def close(self) -> None:
        """Disconnect. The motors stay on or off as they are. May be called twice, and before `connect`."""


class ArmDriverClass(Protocol):
    """What the registry holds: a class that makes a driver.

    Attributes
    ----------
    Parameters
        Schema of the launch argument `driver_parameters`.
    """

    Parameters: ClassVar[type[Schema]]

    def __call__(self, parameters: Any, arm: Arm, address: str, calibration: Path | None) -> ArmDriver:
        """Make a driver without connecting it. Raises ConfigurationError if the arm or a file does not suit it."""


ARM_DRIVERS: Registry[ArmDriverClass] = Registry(
    "arm driver",
    builtin="rlfp_ros.drivers.arms",
    members=("Parameters", "connect", "read", "write", "set_torque", "remarks", "counts", "close"),
)


def make_arm_driver(name: str, parameters: str, arm: Arm, address: str, calibration: str) -> ArmDriver:
    """Make the driver `name` for an arm, not connected.

    Parameters
    ----------
    name
        A name in `ARM_DRIVERS`.
    parameters
        YAML of names and values, such as "{torque_limit: 0.5}"; empty for the defaults.
    arm
        The arm that it drives.
    address
        A serial port, or a network address.
    calibration
        Path of the arm's calibration file; empty if the driver needs none.

    Raises
    ------
    ConfigurationError
        If a name, a parameter or a file is wrong.
    """
    made: Callable[..., ArmDriver] = ARM_DRIVERS[name]
    file = Path(calibration).expanduser() if calibration else None
    return made(driver_parameters(name, parameters), arm, address, file)


def driver_parameters(name: str, text: str) -> Schema:
    """Parse the launch argument `driver_parameters` for the driver `name`. Raises ConfigurationError."""
    values = schema.named_values(text, "driver_parameters", "{torque_limit: 0.5}")
    return schema.validate(values, ARM_DRIVERS[name].Parameters, source="driver_parameters")
