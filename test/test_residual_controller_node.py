"""Tests of the residual controller's node over real DDS: its topics, stamps, parameters and services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import longer_than
from controller_driver import ARM, QUICK, Driver, stamp
from fixture_bundle import make_bundle
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, Float32, String

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.safety.verdict import Reason
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError


def test_lock_step_answers_every_joint_state_and_admits_residuals(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller(*QUICK)
    for tick in range(16):
        command = driver.tick(tick)
        assert decode.stamp_ns(command.header.stamp) == stamp(tick)
        driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
    admitted = driver.residual(stamp(15), np.array([0.0, 0.12, 0.0, 0.0, 0.0, 0.0]))
    assert admitted == pytest.approx([0.0, 0.1, 0.0, 0.0, 0.0, 0.0])  # clipped to the bundle's scale
    assert driver.residual(stamp(15) + 1, np.full(6, np.nan)).tolist() == [0.0] * 6
    trajectory = decode.trajectory_from_message(driver.tick(16), ARM.joint_names)
    assert np.abs(trajectory.velocities[0]).max() > 0
    assert not trajectory.velocities[-1].any()
    driver.until(lambda: driver.seen[m.GRIPPER_COMMAND.name])
    assert driver.state["state"] == "ACTIVE"
    driver.until(lambda: driver.seen[m.DIAGNOSTICS.name])


def test_estop_topic_latches_until_reset_and_enable(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    driver.publishers[m.ESTOP.name].publish(Bool(data=True))
    driver.until(lambda: driver.node.controller.supervisor.latched)
    driver.tick(1)
    driver.until(lambda: driver.state["state"] == "STOPPED")
    assert driver.state["reasons"] == ["estop"]
    assert not driver.call("enable").success
    assert driver.call("reset").success
    driver.tick(500)
    driver.until(lambda: driver.state["state"] == "DISABLED")
    assert driver.call("enable").success
    driver.tick(501)
    driver.until(lambda: driver.state["state"] == "ACTIVE")


def test_a_checklist_from_before_its_start_enables_nothing(start_controller: Callable[..., Driver]) -> None:
    green = String(data=ChecklistReport(lines=()).model_dump_json())
    first = start_controller(
        "tick_on:=joint_states"
    )  # stands for a controller that was enabled and died: the list is silent then
    checklist = first.client.create_publisher(m.CHECKLIST.type, m.CHECKLIST.name, m.CHECKLIST.qos)
    checklist.publish(green)
    driver = start_controller("tick_on:=joint_states", "require_checklist:=true")
    heard: list[String] = []
    driver.client.create_subscription(m.CHECKLIST.type, m.CHECKLIST.name, heard.append, m.CHECKLIST.qos)
    driver.until(lambda: heard)  # it asked later than the controller did
    refused = driver.call("enable")
    assert not refused.success
    assert "nothing comes on safety/checklist" in refused.message
    checklist.publish(green)
    driver.until(lambda: driver.call("enable").success)


def test_an_episode_is_answered_and_starts_anew(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    episode = Episode(id=4, phase=Phase.RESET, stamp=stamp(0))
    driver.publishers[m.EPISODE.name].publish(m.episode_message(episode))
    driver.until(lambda: driver.seen[m.EPISODE_READY.name])
    ready = decode.ready_from_message(driver.seen[m.EPISODE_READY.name][-1])
    assert (ready.node, ready.id) == ("residual_controller", 4)
    elsewhere = np.array(ARM.home) + 0.03
    assert not driver.tick(1, elsewhere).points  # one joint state is nothing to start from
    trajectory = decode.trajectory_from_message(driver.tick(2, elsewhere), ARM.joint_names)
    assert trajectory.positions[0] == pytest.approx(elsewhere)


def test_on_a_timer_it_sends_nothing_while_disabled_and_evenly_stamped_commands_when_enabled(
    start_controller: Callable[..., Driver],
) -> None:
    driver = start_controller("tick_on:=timer")
    joints = driver.publishers[m.JOINT_STATES.name]

    def publish() -> None:
        now = driver.client.get_clock().now().nanoseconds
        state = JointState(now, np.array(ARM.home), np.zeros(7), np.zeros(7), 0.04)
        joints.publish(m.joint_state_message(state, ARM))

    timer = driver.client.create_timer(0.01, publish)
    driver.until(lambda: driver.state["state"] == "DISABLED")
    assert not driver.seen[m.ARM_COMMAND.name]
    assert driver.call("enable").success
    driver.until(lambda: len(driver.seen[m.ARM_COMMAND.name]) > 50)
    stamps = np.array([decode.stamp_ns(command.header.stamp) for command in driver.seen[m.ARM_COMMAND.name]])
    ticks = np.diff(stamps) * 240 / 1e9
    assert ticks == pytest.approx(np.round(ticks), abs=0.01)
    timer.cancel()
    driver.until(lambda: driver.state["reasons"] == ["joint_state_stale"])


def test_a_message_that_cannot_be_read_is_refused_and_said(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true")
    driver.tick(0)
    wrong = m.twist_message(stamp(0), np.zeros(6), "world")
    driver.publishers[m.RESIDUAL.name].publish(wrong)
    driver.until(lambda: driver.seen[m.RESIDUAL_APPLIED.name])
    driver.publishers[m.DOMAIN_SHIFT.name].publish(Float32(data=float("nan")))
    driver.tick(1)
    driver.tick(2)
    assert driver.node.controller.state.value == "ACTIVE"
    assert driver.node.controller.supervisor.counts[Reason.RESIDUAL_SHAPE] == 1


def test_a_dry_run_admits_residuals_and_sends_no_command(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller(
        "tick_on:=joint_states", "start_enabled:=true", "settle_s:=0.0", "gain_ramp_s:=0.01", "dry_run:=true"
    )
    admitted = np.zeros(6)
    for tick in range(24):
        assert not driver.tick(tick).points
        admitted = driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
    assert admitted == pytest.approx([0.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    driver.until(lambda: driver.state["state"] == "ACTIVE")
    assert not driver.seen[m.GRIPPER_COMMAND.name]
    assert driver.node.controller.commanded != pytest.approx(ARM.home, abs=1e-6)


def test_step_lets_one_action_through_and_enable_leaves_that_mode(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "settle_s:=0.0", "gain_ramp_s:=0.01")
    driver.tick(0)
    assert driver.call("step").success
    gains = []
    for tick in range(1, 33):
        driver.tick(tick)
        driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
        gains.append(driver.node.controller.gain)
    assert 1.0 in gains[:8]
    assert not any(gains[16:])
    assert driver.state["reasons"] == ["waiting_for_step"]
    assert driver.call("enable").success
    driver.tick(33)
    driver.tick(36)
    assert driver.node.controller.gain > 0.0


def test_the_residual_gain_is_a_live_parameter_that_ramps(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true", "gain_ramp_s:=0.1", "residual_gain:=0.0")

    def gains(first: int, count: int) -> list[float]:
        found = []
        for tick in range(first, first + count):
            driver.tick(tick)
            driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
            found.append(driver.node.controller.gain)
        return found

    assert not any(gains(0, 8))
    assert driver.node.set_parameters([Parameter("residual_gain", value=0.5)])[0].successful
    rising = gains(8, 30)
    assert max(np.diff(rising)) <= 1 / 240 / 0.1 + 1e-9
    assert rising[-1] == 0.5
    assert not driver.node.set_parameters([Parameter("residual_gain", value=1.5)])[0].successful


def test_a_scene_unlike_training_lowers_the_gain_then_holds_and_clears_itself(
    start_controller: Callable[..., Driver],
) -> None:
    driver = start_controller(*QUICK, "shift_time_s:=0.02")

    def run(first: int, count: int, shift: float) -> None:
        for tick in range(first, first + count):
            driver.publishers[m.DOMAIN_SHIFT.name].publish(Float32(data=shift))
            driver.residual(stamp(tick) - 1, np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]))
            driver.tick(tick)

    run(0, 10, 0.0)
    assert driver.node.controller.gain == 1.0
    run(10, 10, 0.825)
    assert driver.node.controller.gain == pytest.approx(0.5, abs=0.01)
    assert driver.node.controller.state.value == "ACTIVE"
    run(20, 60, 1.0)
    driver.until(lambda: driver.state["state"] == "HOLDING")
    assert driver.state["reasons"] == ["domain_shift"]
    run(80, 40, 0.0)
    driver.until(lambda: driver.state["state"] == "ACTIVE" and driver.state["gain"] == 1.0)


def test_efforts_beyond_the_arms_limit_stop_it(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true", "effort_time_s:=0.05")
    efforts = 1.1 * np.array(ARM.limits.effort)
    for tick in range(12):
        driver.tick(tick, efforts=efforts if tick % 2 else None)  # now and then is not too much
    assert driver.node.controller.state.value == "ACTIVE"
    for tick in range(12, 27):
        driver.tick(tick, efforts=-efforts)
    driver.until(lambda: driver.state["state"] == "STOPPED")
    assert driver.state["reasons"] == ["effort_limit"]


def test_a_joint_space_bundle_gets_its_residual_as_joint_velocities(
    start_controller: Callable[..., Driver], tmp_path: Path
) -> None:
    joints = make_bundle(tmp_path, name="joints", in_joint_space=True).directory
    driver = start_controller(*QUICK, f"bundle:={joints}")
    applied = driver.seen[m.RESIDUAL_APPLIED.name]
    asked = np.array([0.08, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for tick in range(40):
        driver.tick(tick, driver.node.controller.commanded)
        before = len(applied)
        driver.publishers[m.GRIPPER.name].publish(m.gripper_message(stamp(tick) - 1, 0.02, ARM))
        residual = m.joint_residual_message(Residual(stamp(tick) - 1, asked), ARM.joint_names)
        driver.publishers[m.JOINT_RESIDUAL.name].publish(residual)
        driver.until(longer_than(applied, before))
    jacobian = driver.node.controller.kinematics.jacobian(driver.node.controller.commanded)
    told = decode.twist_from_message(applied[-1], ARM.base_frame)  # as the twist that it makes of the tool
    assert told == pytest.approx(jacobian @ asked, abs=1e-4)
    assert driver.node.controller.commanded[0] > ARM.home[0] + 1e-3


def test_dds_reports_a_missing_residual_and_the_end_of_its_publisher(start_controller: Callable[..., Driver]) -> None:
    driver = start_controller("tick_on:=joint_states")
    name = m.RESIDUAL.name
    values = driver.node.streams.values
    driver.publishers[name].publish(m.residual_message(Residual(1, np.zeros(6)), ARM.base_frame))
    driver.until(lambda: values()[f"{name}_publishers_alive"] == 1)
    driver.until(lambda: values()[f"{name}_deadlines_missed"] >= 2)
    driver.client.destroy_publisher(driver.publishers.pop(name))
    driver.until(lambda: values()[f"{name}_publishers_alive"] == 0)
    driver.until(
        lambda: any(
            value.key == f"{name}_deadlines_missed" and int(value.value) >= 2
            for array in driver.seen[m.DIAGNOSTICS.name]
            for value in array.status[0].values
        )
    )


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (("bananas:=1",), "bananas"),
        (("residual_timeout_s:=-1.0",), "residual_timeout_s"),
        (("arm:=no_such_arm",), "no_such_arm"),
        (("tick_on:=sometimes",), "tick_on"),
        (("tick_on:=joint_states", "output:=forward_velocity"), "tick_on is joint_states, expected timer"),
    ],
)
def test_wrong_parameters_are_refused_with_one_sentence(
    start_controller: Callable[..., Driver], parameters: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        start_controller(*parameters)
