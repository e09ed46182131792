"""Tests of the driver for Feetech servos on a simulated bus, which Feetech's own SDK exercises first."""

from __future__ import annotations

import ast
import functools
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scservo_sdk
from conftest import wait_until
from feetech_bench import ARM, FINEST, NAMES, ROOT, STEP_S, Bench, simulated_bus

from rlfp_ros.drivers.arm_driver import make_arm_driver
from rlfp_ros.drivers.feetech_bus import load_sdk
from rlfp_ros.drivers.servo_calibration import STEP_RAD, load_arm_calibration, narrower_ranges
from rlfp_ros.drivers.simulated_feetech_bus import SimulatedFeetechBus, default_calibration
from rlfp_ros.schema import ConfigurationError


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SimulatedFeetechBus]:
    with simulated_bus(tmp_path) as made:
        yield made


# --- the simulated bus -----------------------------------------------------------------------------------------------


def test_simulated_bus_shares_no_code_with_the_driver() -> None:
    for name in ("simulated_feetech_bus", "simulated_servo"):
        tree = ast.parse((ROOT / "rlfp_ros" / "drivers" / f"{name}.py").read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        ours = {module for module in modules if module.startswith("rlfp_ros")}
        assert ours <= {"rlfp_ros.drivers.simulated_servo", "rlfp_ros.paths"}
        assert not modules & {"serial", "scservo_sdk"}


@pytest.fixture
def sdk(bus: SimulatedFeetechBus) -> Iterator[Any]:
    """Feetech's own packet handler on Feetech's own port."""
    port = scservo_sdk.PortHandler(str(bus.link))
    assert port.openPort()
    yield scservo_sdk.sms_sts(port)
    port.closePort()


def until(call: Callable[[], Any], expected: Any) -> None:
    """Ask until the answer is the expected one: the SDK waits 50 ms for an answer, which a busy machine exceeds."""
    wait_until(lambda: call() == expected, what=f"{expected}, not {call()}")


def test_feetechs_sdk_finds_reads_and_moves_the_simulated_servos(bus: SimulatedFeetechBus, sdk: Any) -> None:
    for number in range(1, 7):
        until(functools.partial(sdk.ping, number), (777, scservo_sdk.COMM_SUCCESS, 0))
    assert sdk.ping(7)[1] == scservo_sdk.COMM_RX_TIMEOUT
    joint = bus.wiring[2]
    position = round(joint.zero + 0.30 / STEP_RAD)
    until(lambda: sdk.ReadPosSpeed(joint.id), (position, 0, scservo_sdk.COMM_SUCCESS, 0))
    until(lambda: sdk.write1ByteTxRx(joint.id, 40, 1), (scservo_sdk.COMM_SUCCESS, 0))
    until(lambda: sdk.WritePosEx(joint.id, 2500, 1000, 50), (scservo_sdk.COMM_SUCCESS, 0))
    for _ in range(20):
        bus.advance(STEP_S)
    until(lambda: sdk.ReadMoving(joint.id)[0], 1)
    until(lambda: sdk.ReadSpeed(joint.id)[0] > 300, True)
    for _ in range(300):
        bus.advance(STEP_S)
    until(lambda: sdk.ReadPosSpeed(joint.id)[:2], (2500, 0))
    until(lambda: sdk.ReadMoving(joint.id), (0, scservo_sdk.COMM_SUCCESS, 0))


def test_feetechs_sdk_reads_and_writes_several_simulated_servos_at_once(bus: SimulatedFeetechBus, sdk: Any) -> None:
    goals = {1: 2100, 2: 1900, 6: 1500}
    writer = scservo_sdk.GroupSyncWrite(sdk, 42, 2)
    reader = scservo_sdk.GroupSyncRead(sdk, 42, 2)
    for number, goal in goals.items():
        assert writer.addParam(number, [goal & 255, goal >> 8])
        assert reader.addParam(number)
    assert writer.txPacket() == scservo_sdk.COMM_SUCCESS
    until(reader.txRxPacket, scservo_sdk.COMM_SUCCESS)
    assert {number: reader.getData(number, 42, 2) for number in goals} == goals
    bus.silent = {2}
    reader.txRxPacket()
    assert not reader.last_result


def test_feetechs_sdk_writes_registered_goals_with_one_action(sdk: Any) -> None:
    until(lambda: sdk.RegWritePosEx(4, 2222, 100, 5), (scservo_sdk.COMM_SUCCESS, 0))
    until(lambda: sdk.read2ByteTxRx(4, 42), (0, scservo_sdk.COMM_SUCCESS, 0))
    sdk.RegAction()
    until(lambda: sdk.read2ByteTxRx(4, 42)[0], 2222)
    until(lambda: sdk.read2ByteTxRx(4, 46)[0], 100)


def test_simulated_servo_keeps_permanent_registers_only_while_they_are_unlocked(
    bus: SimulatedFeetechBus, sdk: Any
) -> None:
    servo = bus.servos[5]
    confirmed = (scservo_sdk.COMM_SUCCESS, 0)
    before = bus.wiring[4].range_min
    until(lambda: sdk.write2ByteTxRx(5, 9, before + 7), confirmed)
    servo.restart()
    until(lambda: sdk.read2ByteTxRx(5, 9)[0], before)
    until(lambda: sdk.unLockEprom(5), confirmed)
    until(lambda: sdk.write2ByteTxRx(5, 9, before + 7), confirmed)
    position = servo.position
    until(lambda: sdk.write2ByteTxRx(5, 56, 999), confirmed)  # what it measures cannot be written
    servo.restart()
    until(lambda: sdk.read2ByteTxRx(5, 9)[0], before + 7)
    until(lambda: sdk.ReadPos(5)[0], round(position) - servo.offset)


def test_a_user_can_run_the_simulated_arm(tmp_path: Path) -> None:
    port, calibration = tmp_path / "so101", tmp_path / "so101.json"
    document = json.loads((ROOT / "sim" / "servos" / "so101.json").read_text())
    for name in ("elbow_flex", "gripper"):  # as if they were mounted the other way round
        document[name]["drive_mode"] = 1
    calibration.write_text(json.dumps(document))
    module = "rlfp_ros.drivers.simulated_feetech_bus"
    words = [sys.executable, "-m", module, "--link", str(port), "--calibration", str(calibration)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f"a simulated SO-101 is on {port}" in process.stdout.readline()
        driver = make_arm_driver("feetech", "", ARM, str(port), str(calibration))
        driver.connect()
        np.testing.assert_allclose(driver.read().positions, [*ARM.home, 0.3], atol=FINEST)
        driver.close()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert not port.is_symlink()


def test_simulated_bus_takes_the_place_of_no_file_and_of_no_real_port(tmp_path: Path) -> None:
    port = tmp_path / "ttyACM0"
    port.write_text("a real port")
    bus = SimulatedFeetechBus(port, default_calibration())
    with pytest.raises(FileExistsError, match="it exists and is no simulated port"):
        bus.start()
    bus.close()
    assert port.read_text() == "a real port"


# --- calibration -----------------------------------------------------------------------------------------------------


def test_angles_follow_lerobots_calibration_and_a_reversed_motor_turns_the_other_way(tmp_path: Path) -> None:
    entry = {"id": 1, "drive_mode": 0, "homing_offset": -12, "range_min": 1000, "range_max": 3000}
    document = {name: entry | {"id": number} for number, name in enumerate((*NAMES, "head"), start=1)}
    document["elbow_flex"]["drive_mode"] = 1
    (tmp_path / "arm.json").write_text(json.dumps(document))
    calibration = load_arm_calibration(tmp_path / "arm.json", ARM)
    angles = calibration.angles(np.array([2000, 2512, 2512, 1488, 1000, 1000]))
    quarter = math.pi / 4
    assert ARM.gripper is not None
    closed = float(ARM.gripper.positions(ARM.gripper.closed_width)[0])
    np.testing.assert_allclose(angles, [0, quarter, -quarter, -quarter, -1000 * STEP_RAD, closed], atol=1e-12)
    np.testing.assert_array_equal(calibration.steps(angles), [2000, 2512, 2512, 1488, 1000, 1000])
    np.testing.assert_array_equal(calibration.steps(np.full(6, 9.0)), [3000, 3000, 1000, 3000, 3000, 3000])
    narrow = narrower_ranges(calibration, ARM)
    assert [sentence.partition(" was calibrated from -1.53 to 1.53 rad")[0] for sentence in narrow] == [
        *ARM.joint_names
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda document: document.pop("elbow_flex"), "elbow_flex is missing, found shoulder_pan, "),
        (lambda document: document["gripper"].pop("range_min"), "gripper: range_min is missing; add it"),
        (lambda document: document["gripper"].update(range_max=4096), "gripper: range_max is 4096, but it should be "),
        (lambda document: document["gripper"].update(range_max=600), "range_max to be at least 100 steps larger"),
        (lambda document: document["gripper"].update(id=2), "shoulder_lift and gripper have the same id 2"),
        (lambda document: document["gripper"].update(drive_mode=2), "gripper: drive_mode is 2, but it should be "),
        (lambda document: document["gripper"].update(offset=2), "gripper: offset is not a known field"),
    ],
)
def test_a_wrong_calibration_file_is_one_sentence(
    tmp_path: Path, change: Callable[[Any], object], sentence: str
) -> None:
    document = json.loads((ROOT / "sim" / "servos" / "so101.json").read_text())
    change(document)
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=r"wrong\.json") as caught:
        load_arm_calibration(tmp_path / "wrong.json", ARM)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no such file; give the JSON file that lerobot-calibrate wrote"),
        ("{", "is not JSON"),
        ("[]", "is list, expected an entry for each motor"),
        ('{"gripper": 1, "gripper": 2}', "a name is given twice"),
    ],
)
def test_a_file_that_is_no_calibration_is_one_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "arm.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_arm_calibration(path, ARM)
    assert f"{path}: {sentence}" in str(caught.value)


def test_servos_that_hold_another_calibration_are_refused_until_the_file_is_written_into_them(
    bus: SimulatedFeetechBus,
) -> None:
    bus.servos[3].put(31, 5)
    bus.servos[3].saved = bytes(bus.servos[3].memory[:40])
    bench = Bench(bus)
    with pytest.raises(ConfigurationError, match=r"servo 3 \(elbow_flex\) holds homing_offset 5 instead of -986"):
        bench.arm.cycle(0)
    bench = Bench(bus, "{write_calibration: true}")
    bench.begin()
    bench.arm.close()
    for servo in bus.servos.values():
        servo.restart()
    bench = Bench(bus)
    np.testing.assert_allclose(bench.begin().positions, bus.angles()[:5], atol=FINEST)


def test_driver_without_a_port_or_a_file_or_with_a_wrong_parameter_is_refused(tmp_path: Path) -> None:
    for arguments, sentence in (
        (("feetech", "", ARM, "", "arm.json"), "address is empty, expected a serial port"),
        (("feetech", "", ARM, "/dev/ttyACM0", ""), "calibration is empty, expected the JSON file"),
        (("feetech", "{torque: 2}", ARM, "/dev/ttyACM0", "arm.json"), "torque is not a known field"),
        (("feetech", "much", ARM, "/dev/ttyACM0", "arm.json"), "driver_parameters is 'much', expected names and"),
        (("dynamixel", "", ARM, "/dev/ttyACM0", "arm.json"), "arm driver is 'dynamixel', expected one of: feetech"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make_arm_driver(*arguments)
        assert sentence in str(caught.value)


def test_lerobots_older_sdk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scservo_sdk, "sms_sts")
    with pytest.raises(ConfigurationError, match="older feetech-servo-sdk"):
        load_sdk()
