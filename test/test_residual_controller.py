"""Tests of the residual controller without faults: its motion under residuals and base controllers, and its bundles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from controller_rig import ARM, PUSH, SIMULATED, Rig, contract, joint_contract

from rlfp_ros.contract import ActionContract
from rlfp_ros.control.base_controllers.base_controller import Wanted
from rlfp_ros.control.residual_controller import Reason, ResidualController, State
from rlfp_ros.schema import ConfigurationError


def test_the_residual_moves_the_tool_as_asked_once_the_gain_has_ramped() -> None:
    rig = Rig().run(1.0)
    assert rig.state() is State.ACTIVE
    assert rig.reasons() == ()
    before = rig.tool
    rig.run(0.5)
    assert rig.tool - before == pytest.approx([0.0, 0.05, 0.0], abs=2e-3)
    assert rig.applied == pytest.approx(PUSH)


def test_gain_starts_at_zero_and_ramps() -> None:
    rig = Rig()
    gains = [rig.run(1 / 240).controller.gain for _ in range(100)]
    assert gains[0] == 0.0
    assert max(np.diff(gains)) <= 1 / 240 / SIMULATED.gain_ramp_s + 1e-9
    assert gains[-1] == 1.0


def test_hold_keeps_the_tools_orientation() -> None:
    rig = Rig()
    rig.run(0.2)
    before = rig.controller.kinematics.forward(rig.line.sample(rig.now)[0])[:3, :3]
    rig.run(2.0)
    after = rig.controller.kinematics.forward(rig.line.sample(rig.now)[0])[:3, :3]
    assert np.arccos(np.clip((np.trace(before.T @ after) - 1) / 2, -1, 1)) < 0.01


def test_the_same_inputs_give_the_same_commands_at_any_absolute_time() -> None:
    first, second = Rig(origin_ns=0).run(1.0), Rig(origin_ns=1_700_000_000_000_000_000).run(1.0)
    for one, other in zip(first.commands, second.commands, strict=True):
        assert (one.trajectory is None) == (other.trajectory is None)
        if one.trajectory is not None and other.trajectory is not None:
            assert np.array_equal(one.trajectory.positions, other.trajectory.positions)


def test_the_gripper_moves_at_its_own_speed_and_inside_its_range() -> None:
    rig = Rig(made_for=contract(gripper=True))
    rig.gripper = -1.0
    rig.run(1.0)
    widths = [command.gripper_width for command in rig.commands if command.gripper_width is not None]
    assert ARM.gripper is not None
    assert min(np.diff(widths)) >= -ARM.gripper.velocity / 240 - 1e-9
    assert widths[-1] == 0.0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("servo", {}), ("mpc", {}), ("scripted", {"waypoints": (0.45, 0.1, 0.3)}), ("servo", {"target": 1.0})],
)
def test_base_controllers_reach_their_target_without_a_policy(name: str, parameters: dict[str, Any]) -> None:
    rig = Rig(made_for=contract(name, **parameters))
    rig.twist = None
    target = np.array([0.45, 0.1, 0.3])
    rig.controller.on_goal(target)
    for _ in range(40):
        rig.controller.on_object_pose(target, None, rig.now, rig.now)
        rig.run(0.1)
    assert rig.tool == pytest.approx(target, abs=3e-3)


def test_joint_pd_goes_home_without_a_policy() -> None:
    rig = Rig(made_for=contract("joint_pd"))
    rig.line.reset(np.array(ARM.home) + 0.1)
    rig.twist = None
    rig.run(5.0)
    assert rig.line.sample(rig.now)[0] == pytest.approx(ARM.home, abs=2e-3)


def test_wrong_bundles_are_refused_with_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match="teleport"):
        ResidualController(ARM, contract("teleport"))
    with pytest.raises(ConfigurationError, match="bananas"):
        ResidualController(ARM, contract("servo", bananas=1.0))
    with pytest.raises(ConfigurationError, match="gripper"):
        ResidualController(ARM.model_copy(update={"gripper": None}), contract(gripper=True))
    wrong = contract()
    wrong.arm = SimpleNamespace(joint_names=("a", "b"))
    with pytest.raises(ConfigurationError, match="joint_names"):
        ResidualController(ARM, wrong)


def test_a_joint_space_residual_turns_the_joints_that_the_bundle_names_and_no_faster_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(made_for=joint_contract("hold"))
    only_residual = Wanted(np.zeros(6), np.zeros(7))
    monkeypatch.setattr(rig.controller.base, "wanted", lambda situation, residual: only_residual)
    rig.twist = np.array([0.4, 0.09, 0.0, 0.0, 0.0, -0.1, 0.0])  # the first beyond its 0.3, within residual_range
    rig.run(1.0)
    before = rig.line.sample(rig.now)[0]
    rig.run(0.5)
    assert rig.line.sample(rig.now)[0] - before == pytest.approx([0.15, 0.045, 0, 0, 0, -0.05, 0], abs=2e-3)
    assert rig.applied == pytest.approx([0.3, 0.09, 0, 0, 0, -0.1, 0])


def test_with_a_joint_space_residual_the_base_controller_follows_and_continues_without_it() -> None:
    rig = Rig(made_for=joint_contract())
    rig.twist = np.array([0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    before = rig.run(0.5).line.sample(rig.now)[0][0]
    rig.run(1.0)
    assert rig.line.sample(rig.now)[0][0] - before > 0.1
    rig.twist = np.zeros(6)  # a twist is not what this bundle's policy sends
    rig.run(0.5)
    assert rig.reasons() == (Reason.RESIDUAL_SHAPE,)
    assert rig.state() is State.ACTIVE


def test_joint_space_actions_must_name_the_arms_joints() -> None:
    with pytest.raises(ValueError, match="expected rad/s"):
        ActionContract(kind="joint_velocity", components=("panda_joint1",), scale=(1,), units=("m/s",), rate_hz=30)
    with pytest.raises(ValueError, match="elbow"):
        ActionContract(components=("elbow",), scale=(1,), units=("m/s",), rate_hz=30)
