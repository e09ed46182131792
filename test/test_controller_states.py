"""Tests of the controller's commands and episodes: enable, disable, step, dry run, and the start of an episode."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import ARM, PUSH, SIMULATED, Rig, contract

from rlfp_ros.control.arm import JointState
from rlfp_ros.control.residual_controller import ControllerSettings, Reason, ResidualController, State


def test_on_hardware_nothing_is_sent_before_enable() -> None:
    rig = Rig(ControllerSettings()).run(0.5)
    assert rig.state() is State.DISABLED
    assert all(command.trajectory is None for command in rig.commands)
    assert rig.controller.enable() == (True, "enabled")
    rig.run(0.5)
    assert rig.state() is State.ACTIVE
    assert rig.speed > 0.01


def test_disable_comes_to_rest_and_then_sends_nothing() -> None:
    rig = Rig().run(1.0)
    rig.controller.disable()
    stopping = rig.run(0.02).commands[-1]
    assert stopping.trajectory is not None
    rig.run(0.4)
    assert rig.state() is State.DISABLED
    assert rig.commands[-1].trajectory is None
    assert rig.speed == 0.0


def test_a_new_episode_starts_from_the_measured_joints() -> None:
    rig = Rig().run(1.0)
    rig.controller.on_episode_reset(rig.now)
    elsewhere = np.array(ARM.home) + 0.05
    rig.line.reset(elsewhere)
    rig.run(2 / 240)
    assert rig.controller.commanded == pytest.approx(elsewhere)
    assert rig.controller.gain == 0.0
    rig.run(1.0)
    assert rig.state() is State.ACTIVE


@pytest.mark.parametrize("good", [0, 3])
def test_one_joint_state_that_mixes_up_the_joints_is_nothing_to_start_from(good: int) -> None:
    """It would be commanded: joints that stand still somewhere else look like any others."""
    rig = Rig(SIMULATED.model_copy(update={"start_enabled": False}))
    rig.run(good / 240)
    rig.controller.enable()
    rig.offset = np.array(ARM.home)[::-1] - ARM.home
    rig.run(1 / 240)
    assert rig.commands[-1].trajectory is None
    rig.offset = np.zeros(7)
    rig.run(2 / 240)
    assert rig.controller.commanded == pytest.approx(np.array(ARM.home), abs=1e-6)
    rig.run(1.0)
    assert rig.state() is State.ACTIVE


def test_a_new_episode_clears_a_stop_only_in_simulation_and_never_an_estop() -> None:
    for clears, reason, state in (
        (True, Reason.TRACKING_ERROR, State.ACTIVE),
        (True, Reason.ESTOP, State.STOPPED),
        (False, Reason.TRACKING_ERROR, State.STOPPED),
    ):
        rig = Rig(ControllerSettings(start_enabled=True, episode_reset_clears_stop=clears)).run(0.5)
        rig.controller.supervisor.stop(reason, rig.now)
        rig.run(0.5)
        rig.controller.on_episode_reset(rig.now)
        rig.run(0.5)
        assert rig.state() is state


def test_step_lets_one_action_through_at_a_time() -> None:
    rig = Rig(ControllerSettings(gain_ramp_s=0.01)).run(0.1)
    rig.controller.step()
    rig.run(0.5)
    rested = rig.tool
    assert rig.controller.gain == 0.0
    assert Reason.WAITING_FOR_STEP in rig.reasons()
    rig.controller.step()
    rig.run(0.5)
    assert 1e-4 < np.linalg.norm(rig.tool - rested) < 0.02


def test_enabling_waits_for_joint_states_if_the_last_were_received_long_ago_whatever_their_stamp() -> None:
    """The driver died just before `enable`, and its clock was ahead: its last stamp still looks fresh."""
    controller = ResidualController(ARM, contract(), ControllerSettings())
    second = 1_000_000_000
    stale = JointState(second - 10_000_000, np.array(ARM.home), np.zeros(7), np.zeros(7), 0.04)
    controller.on_joint_state(stale, 0)
    controller.enable()
    assert controller.tick(second, second).trajectory is None
    assert controller.state is State.HOLDING
    assert controller.reasons == (Reason.WAITING_FOR_JOINT_STATE,)
    fresh = JointState(second, np.array(ARM.home), np.zeros(7), np.zeros(7), 0.04)
    controller.on_joint_state(fresh, second)
    assert controller.tick(second + 4_166_667, second + 4_166_667).trajectory is not None


def test_dry_run_computes_and_sends_nothing() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, dry_run=True)).run(1.0)
    assert rig.state() is State.ACTIVE
    assert rig.applied == pytest.approx(PUSH)
    assert all(command.trajectory is None for command in rig.commands)


@pytest.mark.parametrize("field", ["enabled", "latched", "initialised", "gain", "counts"])
def test_nothing_outside_writes_the_supervisors_state(field: str) -> None:
    supervisor = Rig().controller.supervisor
    with pytest.raises(AttributeError):
        setattr(supervisor, field, getattr(supervisor, field))
