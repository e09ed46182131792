"""Tests of the driver for Feetech servos in the graph of a real arm, with the twin's simulated bus as the hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import load_or_skip
from graph_run import run_of

from rlfp_ros.drivers.simulated_feetech_bus import default_calibration
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]


def parameters(**overrides: Any) -> dict[str, dict[str, Any]]:
    return {process.name: process.parameters for process in run_of(REAL_ARM, **overrides).processes}


def test_driver_is_a_node_of_the_real_arms_graph_only_if_it_is_chosen() -> None:
    assert "arm_driver" not in parameters()
    chosen = parameters(driver="feetech", driver_address="/dev/ttyACM0", driver_calibration="arm.json", arm="so101")
    assert chosen["arm_driver"] == {
        "driver": "feetech",
        "bundle": "reach_so101",
        "arm": "so101",
        "address": "/dev/ttyACM0",
        "calibration": "arm.json",
        "parameters": "",
    }


def test_the_twin_simulates_the_hardware_of_the_driver_on_a_port_of_its_own() -> None:
    mock = parameters(driver="feetech", use_mock_hardware=True, domain_id=7, namespace="arm_1")
    port = mock["arm_twin"]["servo_bus"]
    assert port == mock["arm_driver"]["address"]
    assert port.endswith("servo_bus-7_arm_1")
    assert mock["arm_twin"]["servo_calibration"] == mock["arm_driver"]["calibration"] == str(default_calibration())
    assert mock["arm_twin"]["referee"] is False
    assert "servo_bus" not in parameters(use_mock_hardware=True)["arm_twin"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"driver": "dynamixel"}, "arm driver is 'dynamixel', expected one of: feetech"),
        ({"driver": "feetech"}, "address is empty, expected a serial port"),
        ({"driver": "feetech", "driver_address": "/dev/ttyACM0"}, "calibration is empty"),
        ({"driver": "feetech", "driver_address": "/dev/ttyACM0", "driver_calibration": "no.json"}, "no.json: no such"),
        (
            {"driver": "feetech", "use_mock_hardware": True, "driver_parameters": "{torque_limit: 3}"},
            "torque_limit is 3",
        ),
        (
            {"driver": "feetech", "use_mock_hardware": True, "mock_episodes": 2},
            "mock_episodes is 2, but the twin cannot",
        ),
        ({"driver": "feetech", "robot_ip": "10.0.0.2"}, "only one of them can start the arm's driver"),
        ({"driver": "feetech", "command_interface": "forward_position"}, "take joint_trajectory only"),
        ({"driver_address": "/dev/ttyACM0"}, "driver_address is given without a driver; add driver:=NAME"),
    ],
)
def test_arguments_of_the_driver_that_do_not_fit_are_refused_before_a_node_starts(
    overrides: dict[str, Any], sentence: str
) -> None:
    load_or_skip("so101")
    with pytest.raises(ConfigurationError) as caught:
        resolve(REAL_ARM, {"arm": "so101", **overrides})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
