"""The launch arguments of an arm's driver from this package, and the simulated bus that stands in for the hardware."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from rlfp_ros.control.arm import Arm
from rlfp_ros.drivers.arm_driver import ARM_DRIVERS, make_arm_driver
from rlfp_ros.drivers.simulated_feetech_bus import default_calibration
from rlfp_ros.graph.description import Argument, Arguments, Node, Respawn
from rlfp_ros.schema import ConfigurationError

SIMULATED = "feetech"  # the driver whose hardware the twin can simulate

DRIVER = (
    Argument(
        "driver",
        "",
        "the arm's driver in this package, for an arm without a ROS driver, such as feetech for the SO-101; "
        "`./rlfp plugins` lists them; empty: a ROS driver runs already, or robot_ip starts it",
        pattern=r"[A-Za-z0-9_.-]*",
    ),
    Argument(
        "driver_address",
        "",
        "the serial port or network address of the arm, for driver, such as /dev/ttyACM0; with use_mock_hardware the "
        "port that the twin makes, empty for one in the folder for temporary files",
    ),
    Argument(
        "driver_calibration",
        "",
        "the arm's calibration file, for drivers that need one (feetech: the JSON file of lerobot-calibrate); with "
        "use_mock_hardware that of the simulated servos, empty for sim/servos/so101.json",
    ),
    Argument(
        "driver_parameters", "", "the driver's own parameters, such as '{torque_limit: 0.5}'; empty: their defaults"
    ),
)


def simulated_port(arguments: Arguments) -> str:
    """Return the port that the twin makes for the driver, or an empty text if it makes none."""
    if not arguments["use_mock_hardware"] or not arguments["driver"]:
        return ""
    domain = arguments["domain_id"] or os.environ.get("ROS_DOMAIN_ID") or "0"
    robot = "_".join(["", *arguments["namespace"].strip("/").split("/")]).rstrip("_")
    name = f"rlfp_ros-{os.getuid()}-servo_bus-{domain}{robot}"
    return str(arguments["driver_address"] or Path(tempfile.gettempdir()) / name)


def calibration_file(arguments: Arguments) -> str:
    """Return the calibration file of the arm, or that of the twin's simulated servos."""
    simulated = bool(simulated_port(arguments)) and not arguments["driver_calibration"]
    return str(default_calibration() if simulated else arguments["driver_calibration"])


def simulated_bus(arguments: Arguments) -> dict[str, Any]:
    """Return the twin's parameters that make it simulate the driver's hardware."""
    port = simulated_port(arguments)
    return {"servo_bus": port, "servo_calibration": calibration_file(arguments)} if port else {}


def _parameters(arguments: Arguments) -> dict[str, Any]:
    return {
        "driver": arguments["driver"],
        "bundle": arguments["bundle"],
        "arm": arguments["arm"],
        "address": simulated_port(arguments) or arguments["driver_address"],
        "calibration": calibration_file(arguments),
        "parameters": arguments["driver_parameters"],
    }


ARM_DRIVER = Node(
    "arm_driver",
    "the arm, through a driver of this package instead of a ROS driver (driver:=NAME)",
    parameters=_parameters,
    condition=lambda a: bool(a["driver"]),
    respawn=Respawn(),  # the controller stops the arm while joint states are missing
)


def check_driver(source: str, arguments: dict[str, Any], arm: Arm) -> None:
    """Check the arguments of the arm's driver; make the path of the calibration file absolute.

    Raises
    ------
    ConfigurationError
        If an argument contradicts another one, or if the driver refuses what it is given.
    """
    name = arguments["driver"]
    if not name:
        given = [key for key in ("driver_address", "driver_calibration", "driver_parameters") if arguments[key]]
        if given:
            raise ConfigurationError(f"{source}: {given[0]} is given without a driver; add driver:=NAME")
        return
    if arguments["robot_ip"]:
        raise ConfigurationError(
            f"{source}: driver is {name!r} and robot_ip is {arguments['robot_ip']!r}, but only one of them can start "
            "the arm's driver; leave the other empty"
        )
    if arguments["command_interface"] != "joint_trajectory":
        raise ConfigurationError(
            f"{source}: command_interface is {arguments['command_interface']!r}, but the drivers of this package take "
            "joint_trajectory only; leave it out"
        )
    _ = ARM_DRIVERS[name]
    if arguments["use_mock_hardware"]:
        _check_simulated(source, arguments, name)
    if arguments["driver_calibration"]:
        arguments["driver_calibration"] = str(Path(arguments["driver_calibration"]).expanduser().resolve())
    address = simulated_port(arguments) or arguments["driver_address"]
    make_arm_driver(name, arguments["driver_parameters"], arm, address, calibration_file(arguments))


def _check_simulated(source: str, arguments: Arguments, name: str) -> None:
    if name != SIMULATED:
        raise ConfigurationError(
            f"{source}: driver is {name!r}, but use_mock_hardware simulates the hardware of {SIMULATED!r} only; leave "
            "driver empty, and the twin publishes the arm's topics itself"
        )
    if arguments["mock_episodes"]:
        raise ConfigurationError(
            f"{source}: mock_episodes is {arguments['mock_episodes']}, but the twin cannot put servos back between "
            "episodes; leave it out, or leave driver empty"
        )
