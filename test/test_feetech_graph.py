"""Tests of the driver for Feetech servos in the graph of a real arm, with the twin's simulated bus as the hardware."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load_or_skip
from fixture_bundle import make_bundle
from graph_run import run_of

from rlfp_ros.drivers.simulated_feetech_bus import default_calibration
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.schema import ConfigurationError

LIMIT_S = 60.0  # for anything to happen on a busy machine
# Only the pulled cable stops the arm here, not a busy machine.
PATIENT = """
arm_driver:
  ros__parameters: {missed_readings: 50}
checklist:
  ros__parameters: {home_tolerance_rad: 3.0, joint_max_age_s: 0.7, joint_rate_hz: 5.0}
residual_controller:
  ros__parameters: {joint_state_max_age_s: 3.0, joint_state_timeout_s: 3.0, joint_frozen_s: 5.0, percept_timeout_s: 5.0,
                    percept_max_age_s: 5.0, clock_jump_s: 5.0, tracking_error_rad: 1.0}
"""
CAMERA_SIDE = ("perception", "policy")  # a busy machine has no time for 30 images a second


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


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_graph_moves_the_simulated_servos_and_stops_if_their_cable_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = load_or_skip("so101")
    from conftest import TestNode
    from rcl_interfaces.srv import SetParameters
    from rclpy.context import Context
    from rclpy.parameter import Parameter
    from std_srvs.srv import Trigger

    from rlfp_ros.graph.dds import environment
    from rlfp_ros.graph.domains import reserved_domain
    from rlfp_ros.graph.runner import Runner
    from rlfp_ros.nodes import messages as m

    (tmp_path / "patient.yaml").write_text(PATIENT)
    with reserved_domain() as domain:
        for name, value in environment("local", str(domain)).items():
            monkeypatch.setenv(name, value)
        resolved = resolve(
            REAL_ARM,
            {
                "arm": "so101",
                "bundle": str(make_bundle(tmp_path, arm_name="so101").directory),
                "base_controller": "excite",
                "driver": "feetech",
                "driver_address": str(tmp_path / "port"),
                "driver_parameters": "{answer_s: 0.2}",
                "use_mock_hardware": True,
                "require_heartbeat": False,
                "transport": "local",
                "domain_id": str(domain),
                "params_file": str(tmp_path / "patient.yaml"),
            },
        )
        arm_side = [process for process in resolved.processes if process.name not in CAMERA_SIDE]
        for process in arm_side:
            if process.name == "residual_controller":
                process.parameters["require_checklist"] = False
            if process.name == "arm_twin":
                process.parameters["images"] = False
        with Runner(replace(resolved, processes=tuple(arm_side)), console="quiet", handle_signals=False) as runner:
            context = Context()
            context.init()
            node = TestNode(context)
            joints, states = node.listen(m.JOINT_STATES), node.listen(m.SAFETY_STATE)
            diagnostics, lists = node.listen(m.DIAGNOSTICS), node.listen(m.CHECKLIST)

            def until(happened: Callable[[], Any], what: str) -> None:
                try:
                    node.spin_until(happened, LIMIT_S)
                except AssertionError:
                    state = states[-1].data if states else "no safety/state"
                    pytest.fail(f"{what}; {state}; {runner.failure}; {runner.tail('arm_driver')[-5:]}")

            def call(service: Any, name: str, request: Any) -> Any:
                client = node.node.create_client(service, name)
                until(client.service_is_ready, name)
                future = client.call_async(request)
                until(future.done, name)
                return future.result()

            def pull(unplugged: bool) -> None:
                wanted = Parameter("unplugged", value=unplugged).to_parameter_msg()
                call(SetParameters, "arm_twin/set_parameters", SetParameters.Request(parameters=[wanted]))

            def green(*names: str) -> bool:
                lines = {line["name"]: line for line in json.loads(lists[-1].data)["lines"]} if lists else {}
                return all(name in lines and lines[name]["ok"] for name in names)

            def moved() -> bool:
                positions = [message.position[: len(arm.joint_names)] for message in joints]
                return len(positions) > 1 and bool(np.ptp(np.array(positions), axis=0).min() > 0.03)

            def said(words: str) -> bool:
                statuses = [status for message in diagnostics for status in message.status]
                return any(words in status.message for status in statuses if status.name == "arm_driver")

            until(lambda: green("joint_states", "home", "controller"), "the arm's lines of the checklist are green")
            joints.clear()
            answer = call(Trigger, "residual_controller/enable", Trigger.Request())
            assert answer.success, answer.message
            until(moved, "all joints move")
            pull(True)
            until(lambda: json.loads(states[-1].data)["state"] == "STOPPED", "STOPPED")
            assert set(json.loads(states[-1].data)["reasons"]) & {"joint_state_stale", "joint_state_old"}
            until(lambda: said("plug the arm's adapter in"), "the reason in the diagnostics")
            assert any("was unplugged; plug the arm's adapter in again" in line for line in runner.tail("arm_driver"))
            joints.clear()
            pull(False)
            until(lambda: joints, "joint states come back")
            assert call(Trigger, "residual_controller/reset", Trigger.Request()).success
            until(lambda: green("joint_states"), "joint states are green again")
            node.close()
            context.try_shutdown()
    assert not (tmp_path / "port").is_symlink()
