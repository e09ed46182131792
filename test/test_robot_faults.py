"""Tests of the controller with faults that stop the arm: joint states, heartbeat, effort, and errors inside."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import ARM, SIMULATED, Rig, contract

from rlfp_ros.control.arm import JointState
from rlfp_ros.control.base_controllers.base_controller import Wanted
from rlfp_ros.control.residual_controller import ControllerSettings, Reason, State


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stale", Reason.JOINT_STATE_STALE),
        ("nan", Reason.JOINT_STATE_NOT_FINITE),
        ("jump", Reason.JOINT_STATE_JUMP),
        ("drift", Reason.TRACKING_ERROR),
        ("estop", Reason.ESTOP),
    ],
)
def test_robot_faults_stop_the_arm_and_latch(fault: str, reason: Reason) -> None:
    rig = Rig().run(1.0)
    before = rig.tool
    if fault == "stale":
        rig.joints_alive = False
    elif fault == "nan":
        rig.offset = np.full(7, np.nan)
    elif fault == "jump":
        rig.offset = np.full(7, 0.3)
    elif fault == "drift":
        for _ in range(60):
            rig.offset = rig.offset + 0.004
            rig.run(1 / 240)
    elif fault == "estop":
        rig.controller.estop()
    rig.run(0.4)
    assert rig.state() is State.STOPPED
    assert reason in rig.reasons()
    assert rig.speed == 0.0
    assert 0.0 < np.linalg.norm(rig.tool - before) < 0.06
    rig.joints_alive, rig.offset = True, np.zeros(7)
    rig.run(0.5)
    assert rig.state() is State.STOPPED
    assert rig.commands[-1].trajectory is None
    assert not rig.controller.enable()[0]
    assert rig.controller.reset()[0]
    assert rig.state() in (State.STOPPED, State.DISABLED)
    rig.run(0.05)
    assert rig.state() is State.DISABLED
    assert rig.controller.enable()[0]
    rig.run(0.6)
    assert rig.state() is State.ACTIVE
    assert rig.speed > 0.01


def test_a_frozen_measurement_is_noticed_although_it_is_fresh() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, tracking_error_rad=2.0)).run(1.0)
    frozen = rig.joint_state()
    rig.joints_alive = False
    for _ in range(120):
        rig.run(1 / 240)
        state = JointState(rig.now, frozen.positions, frozen.velocities, frozen.efforts, 0.04)
        rig.controller.on_joint_state(state, rig.now)
    assert Reason.JOINT_STATE_FROZEN in rig.reasons()


def test_a_lost_heartbeat_stops_the_arm_if_a_heartbeat_is_required() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, require_heartbeat=True))
    for _ in range(120):
        rig.controller.on_heartbeat(rig.now)
        rig.run(1 / 240)
    assert rig.state() is State.ACTIVE
    rig.run(1.0)
    assert rig.reasons() == (Reason.HEARTBEAT_LOST,)
    assert rig.speed == 0.0


def test_an_arm_that_requires_a_heartbeat_is_enabled_only_while_one_comes() -> None:
    rig = Rig(ControllerSettings(require_heartbeat=True)).run(0.1)
    assert "no heartbeat" in rig.controller.enable().message
    assert "no heartbeat" in rig.controller.step().message
    rig.controller.on_heartbeat(rig.now)
    rig.run(1.0)  # a heartbeat that ended is none
    assert not rig.controller.enable().ok
    assert rig.state() is State.DISABLED
    rig.controller.on_heartbeat(rig.now)
    assert rig.controller.enable().ok
    rig.run(0.1)
    assert rig.state() is State.ACTIVE


def test_a_fault_inside_stops_the_arm_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig().run(1.0)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(rig.controller.base, "wanted", broken)
    rig.run(0.5)
    assert rig.reasons() == (Reason.INTERNAL_ERROR,)
    assert "ZeroDivisionError" in rig.controller.last_error
    assert rig.speed == 0.0


def test_efforts_beyond_the_arms_limit_stop_it_after_a_while_and_shorter_ones_do_not() -> None:
    rig = Rig().run(1.0)
    limits = np.array(ARM.limits.effort)
    for sign, joint in ((1.0, 3), (-1.0, 5)):
        rig.effort = np.where(np.arange(7) == joint, sign * 1.2 * limits, 0.9 * limits)
        rig.run(SIMULATED.effort_time_s - 0.02)
        assert rig.state() is State.ACTIVE
        rig.effort = limits  # a simulator saturates at exactly the limit
        rig.run(0.1)
    rig.effort = -1.2 * limits
    rig.run(SIMULATED.effort_time_s + 0.02)
    assert rig.state() is State.STOPPED
    assert rig.reasons() == (Reason.EFFORT,)
    rig.run(0.4)
    assert rig.speed == 0.0


@pytest.mark.parametrize("late", ["joint_state", "heartbeat", "percept"])
def test_an_input_that_is_late_slows_the_arm_down_before_it_stops_it(late: str) -> None:
    settings = ControllerSettings(
        start_enabled=True,
        require_heartbeat=True,
        heartbeat_timeout_s=0.4,
        joint_state_timeout_s=0.4,
        joint_state_max_age_s=5.0,
        percept_timeout_s=0.4,
        hold_ramp_s=0.05,
    )
    rig = Rig(settings, contract("servo"))
    rig.controller.on_object_pose(np.array([0.45, 0.3, 0.3]), None, rig.now, rig.now)
    for _ in range(240):
        rig.controller.on_object_pose(np.array([0.45, 0.3, 0.3]), None, rig.now, rig.now)
        rig.controller.on_heartbeat(rig.now)
        rig.run(1 / 240)
    assert rig.controller.gain == 1.0
    full, gains, speeds, states = rig.speed, [], [], []
    rig.joints_alive = late != "joint_state"
    for _ in range(120):
        if late != "percept":
            rig.controller.on_object_pose(np.array([0.45, 0.3, 0.3]), None, rig.now, rig.now)
        if late != "heartbeat":
            rig.controller.on_heartbeat(rig.now)
        rig.run(1 / 240)
        gains.append(rig.controller.gain)
        speeds.append(rig.speed)
        states.append(rig.state())
    half, end = 48, states.index(State.HOLDING if late == "percept" else State.STOPPED)
    assert end == pytest.approx(96, abs=2)
    assert gains[half - 3] == 1.0
    assert gains[(half + end) // 2] == pytest.approx(0.5, abs=0.1)
    assert (np.diff(gains[half:end]) <= 0).all()
    assert speeds[end - 4] < 0.35 * full  # and the base controller with it


def test_an_input_that_was_late_and_comes_back_lets_the_arm_speed_up_again() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, joint_state_timeout_s=0.4, joint_state_max_age_s=0.4)).run(1.0)
    rig.joints_alive = False
    rig.run(0.3)
    assert rig.reasons() == (Reason.INPUT_LATE,)
    assert rig.state() is State.ACTIVE
    rig.joints_alive = True
    rig.run(0.5)
    assert rig.reasons() == ()
    assert rig.controller.gain == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_base_controller_that_asks_for_no_number_brings_the_arm_to_rest(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig().run(1.0)
    assert rig.speed > 0.05
    command = rig.commands[-1].trajectory
    assert command is not None
    monkeypatch.setattr(rig.controller.base, "wanted", lambda *_: Wanted(np.full(6, bad), np.zeros(7)))
    rig.run(command.times[-1] + 2 / 240)
    assert rig.controller.filter.resting
    assert not rig.controller.filter.now.rows[1:].any()
    rig.run(4 / 240)  # the arm's controller plays the last points
    assert rig.speed < 1e-9  # rounding of its interpolation
    assert rig.controller.internal_errors == 0
