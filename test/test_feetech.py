"""Tests of the driver for Feetech servos on a simulated bus, which Feetech's own SDK exercises first."""

from __future__ import annotations

import ast
import contextlib
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

from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.drivers.arm_driver import ArmLost, NoAnswer, make_arm_driver
from rlfp_ros.drivers.driven_arm import DrivenArm, DrivenArmSettings
from rlfp_ros.drivers.feetech_bus import FeetechBus, load_sdk
from rlfp_ros.drivers.servo_calibration import STEP_RAD, load_arm_calibration, narrower_ranges
from rlfp_ros.drivers.simulated_feetech_bus import SimulatedFeetechBus
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]
ARM = load_arm("so101")
NAMES = (*ARM.joint_names, "gripper")
STEP_S = 0.005  # of the servos' motion
FINEST = 1.01 * STEP_RAD  # rad


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SimulatedFeetechBus]:
    made = SimulatedFeetechBus(tmp_path / "port", moves_itself=False)
    made.write_calibration(tmp_path / "arm.json")
    made.start()
    yield made
    made.close()


class Bench:
    """A driven arm before the simulated bus, in simulated time: each cycle is 10 ms long."""

    def __init__(self, bus: SimulatedFeetechBus, parameters: str = "", **settings: Any) -> None:
        self.bus, self.now_ns, self.reports = bus, 1_000_000_000, list[str]()
        folder = bus.link.parent
        self.driver: Any = make_arm_driver("feetech", parameters, ARM, str(bus.link), str(folder / "arm.json"))
        self.arm = DrivenArm(self.driver, ARM, DrivenArmSettings(**settings), self.reports.append)

    def run(self, seconds: float) -> list[JointState]:
        """Run cycles and return the joint states that they give."""
        states = []
        for _ in range(round(seconds * 100)):
            state = self.arm.cycle(self.now_ns)
            states += [] if state is None else [state]
            for _ in range(2):
                self.bus.advance(STEP_S)
            self.now_ns += 10_000_000
        return states

    def begin(self) -> JointState:
        """Run until joint states come: on a busy machine a reading may be missed."""
        states: list[JointState] = []

        def come() -> bool:
            states.extend(self.run(0.02))
            return bool(states)

        wait_until(come, what="joint states")
        return states[-1]

    def move(self, by: float, seconds: float) -> np.ndarray:
        """Command all joints of the arm to move; return where to, [J] rad."""
        target = np.array(self.bus.angles()[:-1]) + by
        assert self.arm.accept(Trajectory.to_rest(self.now_ns, seconds, target), self.now_ns) == ""
        return target


@pytest.fixture
def bench(bus: SimulatedFeetechBus) -> Iterator[Bench]:
    made = Bench(bus)
    made.begin()
    yield made
    made.arm.close()


# --- the simulated bus -----------------------------------------------------------------------------------------------


def test_simulated_bus_shares_no_code_with_the_driver() -> None:
    for name in ("simulated_feetech_bus", "simulated_servo"):
        tree = ast.parse((ROOT / "rlfp_ros" / "drivers" / f"{name}.py").read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        ours = {module for module in modules if module.startswith("rlfp_ros")}
        assert ours <= {"rlfp_ros.drivers.simulated_servo"}
        assert not modules & {"serial", "scservo_sdk"}


@pytest.fixture
def sdk(bus: SimulatedFeetechBus) -> Iterator[Any]:
    """Feetech's own packet handler on Feetech's own port."""
    port = scservo_sdk.PortHandler(str(bus.link))
    assert port.openPort()
    yield scservo_sdk.sms_sts(port)
    port.closePort()


def test_feetechs_sdk_finds_reads_and_moves_the_simulated_servos(bus: SimulatedFeetechBus, sdk: Any) -> None:
    assert [sdk.ping(number)[:2] for number in range(1, 7)] == [(777, scservo_sdk.COMM_SUCCESS)] * 6
    assert sdk.ping(7)[1] == scservo_sdk.COMM_RX_TIMEOUT
    joint = bus.wiring[2]
    position, speed, result, error = sdk.ReadPosSpeed(joint.id)
    assert (speed, result, error) == (0, scservo_sdk.COMM_SUCCESS, 0)
    assert position == round(joint.zero + 0.30 / STEP_RAD)
    sdk.write1ByteTxRx(joint.id, 40, 1)
    assert sdk.WritePosEx(joint.id, 2500, 1000, 50) == (scservo_sdk.COMM_SUCCESS, 0)
    for _ in range(20):
        bus.advance(STEP_S)
    assert sdk.ReadPosSpeed(joint.id)[1] > 300
    assert sdk.ReadMoving(joint.id)[0] == 1
    for _ in range(300):
        bus.advance(STEP_S)
    assert sdk.ReadPosSpeed(joint.id)[:2] == (2500, 0)
    assert sdk.ReadMoving(joint.id)[0] == 0


def test_feetechs_sdk_reads_and_writes_several_simulated_servos_at_once(bus: SimulatedFeetechBus, sdk: Any) -> None:
    goals = {1: 2100, 2: 1900, 6: 1500}
    writer = scservo_sdk.GroupSyncWrite(sdk, 42, 2)
    reader = scservo_sdk.GroupSyncRead(sdk, 42, 2)
    for number, goal in goals.items():
        assert writer.addParam(number, [goal & 255, goal >> 8])
        assert reader.addParam(number)
    assert writer.txPacket() == scservo_sdk.COMM_SUCCESS
    assert reader.txRxPacket() == scservo_sdk.COMM_SUCCESS
    assert {number: reader.getData(number, 42, 2) for number in goals} == goals
    bus.silent = {2}
    reader.txRxPacket()
    assert not reader.last_result


def test_feetechs_sdk_writes_registered_goals_with_one_action(bus: SimulatedFeetechBus, sdk: Any) -> None:
    assert sdk.RegWritePosEx(4, 2222, 100, 5)[0] == scservo_sdk.COMM_SUCCESS
    assert sdk.read2ByteTxRx(4, 42)[0] == 0
    sdk.RegAction()
    wait_until(lambda: sdk.read2ByteTxRx(4, 42)[0] == 2222)
    assert sdk.read2ByteTxRx(4, 46)[0] == 100


def test_simulated_servo_keeps_permanent_registers_only_while_they_are_unlocked(
    bus: SimulatedFeetechBus, sdk: Any
) -> None:
    servo = bus.servos[5]
    before = sdk.read2ByteTxRx(5, 9)[0]
    sdk.write2ByteTxRx(5, 9, before + 7)
    servo.restart()
    assert sdk.read2ByteTxRx(5, 9)[0] == before
    sdk.unLockEprom(5)
    sdk.write2ByteTxRx(5, 9, before + 7)
    sdk.write2ByteTxRx(5, 56, 999)  # what it measures cannot be written
    servo.restart()
    assert sdk.read2ByteTxRx(5, 9)[0] == before + 7
    assert sdk.ReadPos(5)[0] != 999


def test_a_user_can_run_the_simulated_arm(tmp_path: Path) -> None:
    port, calibration = tmp_path / "so101", tmp_path / "so101.json"
    module = "rlfp_ros.drivers.simulated_feetech_bus"
    words = [sys.executable, "-m", module, "--link", str(port), "--calibration", str(calibration)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f"a simulated SO-101 is on {port}" in process.stdout.readline()
        driver = make_arm_driver("feetech", "", ARM, str(port), str(calibration))
        driver.connect()
        np.testing.assert_allclose(driver.read().positions[:5], ARM.home, atol=FINEST)
        driver.close()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert not port.is_symlink()


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
    bus: SimulatedFeetechBus, tmp_path: Path, change: Callable[[Any], object], sentence: str
) -> None:
    document = bus.calibration()
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


# --- the driven arm --------------------------------------------------------------------------------------------------


def test_joint_states_are_the_true_angles_and_torque_and_speed_are_limited(
    bench: Bench, bus: SimulatedFeetechBus
) -> None:
    state = bench.run(0.1)[-1]
    np.testing.assert_allclose(state.positions, bus.angles()[:5], atol=FINEST)
    assert ARM.gripper is not None
    assert state.gripper_width == pytest.approx(ARM.gripper.width(bus.angles()[5:]), abs=2e-4)
    assert [servo.word(48) for servo in bus.servos.values()] == [800] * 5 + [500]
    assert {servo.word(46) for servo in bus.servos.values()} == {round(4.71 / STEP_RAD)}
    assert all(servo.torque_is_on for servo in bus.servos.values())


def test_arm_follows_a_trajectory_and_rests_when_commands_stop(bench: Bench, bus: SimulatedFeetechBus) -> None:
    target = bench.move(0.2, 0.5)
    states = bench.run(0.6)
    speeds = np.abs([state.velocities for state in states]).max(axis=0)
    assert speeds == pytest.approx(0.75, abs=0.2)  # of a quintic: 15/8 of the mean; the goals are whole steps
    bench.run(0.5)
    at_rest = np.array(bus.angles())
    np.testing.assert_allclose(at_rest[:5], target, atol=FINEST)
    bench.run(1.0)  # no commands come
    np.testing.assert_array_equal(bus.angles(), at_rest)


def test_arm_comes_to_rest_if_the_process_stalls_in_the_middle_of_a_motion(
    bench: Bench, bus: SimulatedFeetechBus
) -> None:
    target = bench.move(0.4, 0.5)
    bench.run(0.2)
    for _ in range(100):
        bus.advance(STEP_S)  # without cycles
    stopped = np.array(bus.angles())
    for _ in range(100):
        bus.advance(STEP_S)
    np.testing.assert_allclose(bus.angles(), stopped, atol=1e-9)
    assert np.abs(stopped[:5] - target).max() > 0.1


def test_jaw_opens_at_the_grippers_speed(bench: Bench, bus: SimulatedFeetechBus) -> None:
    assert ARM.gripper is not None
    assert bench.arm.accept_width(0.05) == ""
    width = bench.run(0.05)[-1].gripper_width
    assert width < 0.05
    bench.run(0.5)
    assert ARM.gripper.width(bus.angles()[5:]) == pytest.approx(0.05, abs=2e-4)
    assert "not a number" in bench.arm.accept_width(math.nan)


def test_corrupted_answers_never_become_joint_states(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bus.corruption = 0.2
    states = bench.run(1.0)
    assert bench.driver.counts()["bad_answers"] > 20
    assert states
    for state in states:
        np.testing.assert_allclose(state.positions, bus.angles()[:5], atol=FINEST)
        assert np.abs(state.velocities).max() < 0.05
    bus.corruption = 0.0
    bench.begin()


def test_a_lost_servo_is_named_and_the_arm_takes_no_commands(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bus.silent = {3, 4}
    assert bench.run(0.1) == []
    expected = "servos 3 (elbow_flex), 4 (wrist_flex) on"
    assert expected in bench.reports[-1]
    assert "check the cables" in bench.reports[-1]
    assert expected in bench.arm.accept(Trajectory.to_rest(bench.now_ns, 1.0, np.zeros(5)), bench.now_ns)
    bus.silent = set()
    bench.begin()
    assert bench.reports[-1] == "joint states come, and commands are taken"


def test_motion_ends_at_rest_although_a_servo_is_lost(bench: Bench, bus: SimulatedFeetechBus) -> None:
    target = bench.move(0.2, 0.3)
    bench.run(0.1)
    bus.silent = {5}
    bench.run(0.6)
    np.testing.assert_allclose(bus.angles()[:4], target[:4], atol=FINEST)


def test_a_pulled_cable_is_reported_and_the_arm_holds_where_it_was_after_it_is_back(
    bench: Bench, bus: SimulatedFeetechBus
) -> None:
    bench.move(0.4, 1.0)
    bench.run(0.3)
    bus.unplug()
    assert bench.run(0.5) == []
    assert "was unplugged; plug the arm's adapter in again" in bench.reports[-1]
    assert "was unplugged" in bench.arm.refusal()
    assert bench.arm.fault
    at_rest = np.array(bus.angles())
    bus.plug_in()
    bench.run(1.0)
    state = bench.begin()
    np.testing.assert_allclose(state.positions, at_rest[:5], atol=2 * FINEST)  # the old trajectory is forgotten
    assert bench.arm.connections == 2


def test_a_missing_port_and_one_that_is_in_use_are_named(bus: SimulatedFeetechBus, tmp_path: Path) -> None:
    absent = FeetechBus(str(tmp_path / "ttyACM9"))
    with pytest.raises(ArmLost, match=r"ttyACM9 does not exist; plug the arm's adapter in, or give its port"):
        absent.open()
    first, second = FeetechBus(str(bus.link)), FeetechBus(str(bus.link))
    first.open()
    with pytest.raises(ArmLost, match="is used by another program"):
        second.open()
    first.close()


def test_an_arm_without_power_is_tried_again(bus: SimulatedFeetechBus) -> None:
    bus.silent = set(bus.servos)
    bench = Bench(bus)
    assert bench.run(0.1) == []
    assert bench.reports == [
        f"no joint states: no servo answers on {bus.link}; check the power supply, the cables, and that address is the "
        "arm's port; it is tried again every 1 s"
    ]
    bus.silent = set()
    assert bench.run(1.2)


def test_a_hot_motor_is_a_fault_until_it_has_cooled_down(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bus.servos[2].memory[63] = 66
    bench.run(0.05)
    assert bench.run(0.05) == []
    assert "the motor of shoulder_lift reached 65 degrees Celsius" in bench.arm.refusal()
    bus.servos[2].memory[63] = 60
    assert bench.run(0.05) == []
    bus.servos[2].memory[63] = 54
    assert bench.run(0.05)


def test_a_servo_that_protects_itself_is_a_fault_until_its_torque_is_switched(bus: SimulatedFeetechBus) -> None:
    bench = Bench(bus, load_time_s=60)
    bench.begin()
    bus.servos[2].blocked = True
    bench.move(0.3, 0.2)
    bench.run(2.4)
    assert "servo 2 (shoulder_lift) reports an overload; relieve the arm" in bench.arm.refusal()
    bus.servos[2].blocked = False
    bus.servos[2].memory[63] = 71  # beyond the servo's own limit
    bench.arm.set_torque(False)
    bench.run(0.05)
    assert "servo 2 (shoulder_lift) reports overheating" in bench.arm.refusal()
    bus.servos[2].memory[63] = 30
    bench.arm.set_torque(True)
    bench.begin()
    assert bench.arm.refusal() == ""


def test_a_motor_that_pushes_against_something_is_an_overload(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bus.servos[4].blocked = True
    bench.move(-0.3, 0.2)
    states = bench.run(1.0)
    assert states[-1].efforts[3] == pytest.approx(-0.8 * 1.91)  # the limit of its torque
    bench.run(0.7)
    assert "the motor of wrist_flex has borne more than 0.7 of its stall torque for 1.5 s" in bench.arm.refusal()
    bus.servos[4].blocked = False
    bench.begin()


def test_torque_can_be_switched_off_to_move_the_arm_by_hand(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bench.arm.set_torque(False)
    bench.run(0.05)
    assert not any(servo.torque_is_on for servo in bus.servos.values())
    assert "torque is off" in bench.arm.refusal()
    servo = bus.servos[1]
    servo.position += 300
    np.testing.assert_allclose(bench.begin().positions[0], 300 * STEP_RAD, atol=FINEST)
    bench.arm.set_torque(True)
    bench.run(0.3)
    np.testing.assert_allclose(bus.angles()[0], 300 * STEP_RAD, atol=2 * FINEST)  # it does not jump back
    assert servo.torque_is_on
    assert bench.arm.refusal() == ""


def test_torque_stays_off_if_a_joint_is_far_outside_its_range(bus: SimulatedFeetechBus) -> None:
    joint = bus.wiring[1]
    bus.servos[2].position = joint.range_max + 200 + joint.homing_offset
    bench = Bench(bus)
    bench.run(0.1)
    assert "servo 2 (shoulder_lift) is 0.31 rad outside its calibrated range" in bench.arm.fault
    assert not bus.servos[2].torque_is_on
    bus.servos[2].position -= 300
    bench.run(1.0)
    bench.begin()


def test_no_old_answer_is_taken_for_a_new_one(bench: Bench, bus: SimulatedFeetechBus) -> None:
    """Feetech's SDK keeps the last answers: without new ones they must not be read again."""
    bench.driver.read()
    bus.silent = set(bus.servos)
    with pytest.raises(NoAnswer):
        bench.driver.read()
    bus.silent = set()
    with contextlib.suppress(NoAnswer):
        bench.driver.read()
