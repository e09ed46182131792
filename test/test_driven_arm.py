"""Tests of an arm that a driver of this package moves: commands, faults and cables, on a simulated Feetech bus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from feetech_bench import ARM, FINEST, STEP_S, Bench, simulated_bus

from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.drivers.arm_driver import ArmLost, NoAnswer
from rlfp_ros.drivers.feetech_bus import FeetechBus
from rlfp_ros.drivers.servo_calibration import STEP_RAD
from rlfp_ros.drivers.simulated_feetech_bus import SimulatedFeetechBus


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SimulatedFeetechBus]:
    with simulated_bus(tmp_path) as made:
        yield made


@pytest.fixture
def hasty(bus: SimulatedFeetechBus) -> Iterator[Bench]:
    """A bench that does not wait longer for answers than on an arm."""
    made = Bench(bus, "")
    made.begin()
    yield made
    made.arm.close()


@pytest.fixture
def bench(bus: SimulatedFeetechBus) -> Iterator[Bench]:
    made = Bench(bus)
    made.begin()
    yield made
    made.arm.close()


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
    bench.driver.read()  # the last goal has come, too
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


def test_corrupted_answers_never_become_joint_states(hasty: Bench, bus: SimulatedFeetechBus) -> None:
    bus.corruption = 0.2
    states = hasty.run(1.0)
    assert hasty.driver.counts()["bad_answers"] > 20
    assert states
    for state in states:
        np.testing.assert_allclose(state.positions, bus.angles()[:5], atol=FINEST)
        assert np.abs(state.velocities).max() < 0.05
    bus.corruption = 0.0
    hasty.begin()


def test_a_lost_servo_is_named_and_the_arm_takes_no_commands(hasty: Bench, bus: SimulatedFeetechBus) -> None:
    bus.silent = {3, 4}
    assert hasty.run(0.1) == []
    expected = "servos 3 (elbow_flex), 4 (wrist_flex) on"
    assert expected in hasty.reports[-1]
    assert "check the cables" in hasty.reports[-1]
    assert expected in hasty.arm.accept(Trajectory.to_rest(hasty.now_ns, 1.0, np.zeros(5)), hasty.now_ns)
    bus.silent = set()
    hasty.begin()
    assert hasty.reports[-1] == "joint states come, and commands are taken"


def test_motion_ends_at_rest_although_a_servo_is_lost(hasty: Bench, bus: SimulatedFeetechBus) -> None:
    target = hasty.move(0.2, 0.3)
    hasty.run(0.1)
    bus.silent = {5}
    hasty.run(0.6)
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


def test_a_servo_that_lost_its_power_gets_its_limits_and_its_torque_again(
    bench: Bench, bus: SimulatedFeetechBus
) -> None:
    servo = bus.servos[3]
    bench.move(0.4, 1.0)
    bench.run(0.3)
    servo.restart()
    assert bench.run(0.1) == []
    assert "servo 3 (elbow_flex) has lost its settings" in bench.arm.refusal()
    at_rest = bus.angles()[2]
    bench.run(1.0)
    assert bench.begin().positions[2] == pytest.approx(at_rest, abs=2 * FINEST)
    assert (servo.torque_is_on, servo.word(48)) == (True, 800)


def test_an_intermittent_servo_gives_joint_states_only_after_it_has_been_there_for_a_while(
    hasty: Bench, bus: SimulatedFeetechBus
) -> None:
    for _ in range(4):
        bus.silent = {3}
        hasty.run(0.08)
        bus.silent = set()
        assert hasty.run(0.1) == []
    assert hasty.reports.count("joint states come, and commands are taken") == 1  # at the start


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
    assert bench.run(1.7)


def test_a_hot_motor_is_a_fault_until_it_has_cooled_down(bench: Bench, bus: SimulatedFeetechBus) -> None:
    bus.servos[2].memory[63] = 66
    bench.run(0.05)
    assert bench.run(0.05) == []
    assert "the motor of shoulder_lift reached 65 degrees Celsius" in bench.arm.refusal()
    bus.servos[2].memory[63] = 60
    assert bench.run(0.05) == []
    bus.servos[2].memory[63] = 54
    assert bench.run(0.4) == []
    assert bench.run(0.2)


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


def test_no_old_answer_is_taken_for_a_new_one(hasty: Bench, bus: SimulatedFeetechBus) -> None:
    """Feetech's SDK keeps the last answers: without new ones they must not be read again."""
    bus.silent = set(bus.servos)
    with pytest.raises(NoAnswer):
        hasty.driver.read()
