"""Test of examples/my_arm_driver.py before an arm that answers over TCP."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import wait_until

from rlfp_ros import plugins
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.drivers.arm_driver import ARM_DRIVERS, make_arm_driver
from rlfp_ros.drivers.driven_arm import DrivenArm, DrivenArmSettings
from rlfp_ros.schema import ConfigurationError

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "my_arm_driver.py"
ARM = load_arm("so101")


@pytest.fixture(scope="module", autouse=True)
def example() -> Iterator[None]:
    plugins.load_file(EXAMPLE)
    yield
    ARM_DRIVERS.remove("json_lines")


class ArmComputer(socketserver.StreamRequestHandler):
    """An arm that is at once where it is told to be."""

    state: ClassVar[dict[str, Any]] = {"positions": [0.0] * 6, "velocities": [0.0] * 6, "faults": []}

    def handle(self) -> None:
        for line in self.rfile:
            self.state["positions"] = json.loads(line).get("goal", self.state["positions"])
            self.wfile.write(json.dumps(self.state).encode() + b"\n")


def test_a_driver_of_ones_own_moves_an_arm_and_reports_its_faults() -> None:
    reports: list[str] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), ArmComputer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            driver = make_arm_driver("json_lines", "{timeout_s: 1.0}", ARM, address, "")
            arm, now_ns = DrivenArm(driver, ARM, DrivenArmSettings(), reports.append), 0

            def cycles(seconds: float) -> list[np.ndarray]:
                nonlocal now_ns
                found = []
                for _ in range(round(100 * seconds)):
                    now_ns += 10_000_000
                    state = arm.cycle(now_ns)
                    found += [] if state is None else [state.positions]
                return found

            wait_until(lambda: cycles(0.1))
            target = np.full(5, 0.2)
            assert arm.accept(Trajectory.to_rest(now_ns, 0.5, target), now_ns) == ""
            np.testing.assert_allclose(cycles(0.7)[-1], target, atol=1e-9)
            ArmComputer.state["faults"] = ["the brake of joint 2 is closed"]
            assert cycles(0.1) == []
            assert "the brake of joint 2 is closed" in arm.refusal()
            arm.close()
        finally:
            ArmComputer.state["faults"] = []
            server.shutdown()


def test_a_driver_of_ones_own_checks_its_address() -> None:
    with pytest.raises(ConfigurationError, match="address is '/dev/ttyACM0', expected host:port"):
        make_arm_driver("json_lines", "", ARM, "/dev/ttyACM0", "")
