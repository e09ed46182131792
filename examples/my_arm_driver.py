"""A driver of your own: an arm behind a computer that takes and sends lines of JSON over TCP.

./rlfp --plugin examples/my_arm_driver.py launch real_arm.launch.py driver:=json_lines driver_address:=10.0.0.7:5000
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.drivers.arm_driver import ARM_DRIVERS, ArmLost, JointReading, NoAnswer
from rlfp_ros.schema import ConfigurationError, Schema


class JsonLinesParameters(Schema):
    """What `driver_parameters:=` may contain."""

    timeout_s: float = Field(default=0.05, gt=0, le=1, description="longest wait for an answer, s")


@ARM_DRIVERS.register("json_lines")
class JsonLinesDriver:
    """An arm behind a computer that takes and sends lines of JSON over TCP."""

    Parameters: ClassVar[type[Schema]] = JsonLinesParameters

    def __init__(self, parameters: JsonLinesParameters, arm: Arm, address: str, calibration: Path | None) -> None:
        self._host, _, port = address.partition(":")
        if not port.isdecimal():
            raise ConfigurationError(f"driver json_lines: address is {address!r}, expected host:port")
        self._port, self._timeout_s = int(port), parameters.timeout_s
        self._joints = len(arm.joint_names) + (len(arm.gripper.joint_names) if arm.gripper else 0)
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        try:
            self._socket = socket.create_connection((self._host, self._port), timeout=1.0)
        except OSError as error:
            raise ArmLost(f"{self._host}:{self._port} does not answer ({error.strerror}); switch the arm on") from None
        self._socket.settimeout(self._timeout_s)

    def read(self) -> JointReading:
        answer = self._ask({"read": True})
        positions = np.array(answer["positions"], dtype=float)
        if positions.shape != (self._joints,):
            raise ConfigurationError(f"the arm has {len(positions)} joints, expected {self._joints}; give its own file")
        unknown = np.full(self._joints, np.nan)
        return JointReading(
            positions=positions,
            velocities=np.array(answer["velocities"], dtype=float),
            efforts=np.zeros(self._joints),
            loads=unknown,
            temperatures=unknown,
            faults=tuple(answer.get("faults", ())),
        )

    def write(self, positions: np.ndarray) -> None:
        self._ask({"goal": positions.tolist()})

    def set_torque(self, on: bool) -> None:
        self._ask({"torque": on})

    def remarks(self) -> list[str]:
        return []

    def counts(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one line and return the answer, one line too."""
        assert self._socket is not None, "connect() comes first"
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                part = self._socket.recv(4096)
                if not part:
                    raise ArmLost("the arm's computer closed the connection; look at its log")
                answer += part
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise ArmLost(f"the connection to the arm broke ({error.strerror})") from None
        return dict(json.loads(answer))
