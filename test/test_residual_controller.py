"""Tests of supervision: the effect of each fault on state, gain and motion, and how it clears."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.base_controllers.base_controller import Wanted
from rlfp_ros.control.residual_controller import Command, ControllerSettings, Reason, ResidualController, State
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.trajectory_controller import TrajectoryController

ARM = load_arm("panda")
SIMULATED = ControllerSettings(start_enabled=True)
PUSH = np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0])


def joint_contract(base: str = "hold") -> SimpleNamespace:
    """The same for a policy that moves the joints one, two and six."""
    action = ActionContract(
        kind="joint_velocity",
        components=("panda_joint1", "panda_joint6", "panda_joint2"),
        scale=(0.3, 0.2, 0.1),
        units=("rad/s",) * 3,
        rate_hz=30.0,
    )
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name=base))


def contract(base: str = "hold", gripper: bool = False, **parameters: object) -> SimpleNamespace:
    """The part of a bundle's contract that the controller reads."""
    components = ("vx", "vy", "vz") + (("gripper",) if gripper else ())
    action = ActionContract(
        components=components,
        scale=(0.2, 0.2, 0.2) + ((0.04,) if gripper else ()),
        units=("m/s", "m/s", "m/s") + (("m",) if gripper else ()),
        rate_hz=30.0,
    )
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name=base, parameters=parameters))


class Rig:
    """Controller and arm, 240 ticks a second, a residual every eighth. Switches below break parts of it."""

    def __init__(
        self, settings: ControllerSettings = SIMULATED, made_for: SimpleNamespace | None = None, origin_ns: int = 0
    ) -> None:
        self.controller = ResidualController(ARM, made_for or contract(), settings)
        self.line = TrajectoryController(len(ARM.joint_names))
        self.line.reset(np.array(ARM.home))
        self.origin_ns, self.tick = origin_ns, 0
        self.twist: np.ndarray | None = PUSH
        self.joints_alive, self.camera_alive = True, True
        self.offset, self.effort = np.zeros(7), np.zeros(7)
        self.gripper: float | None = None
        self.commands: list[Command] = []
        self.applied = np.zeros(6)
        self.shift = 0.0

    @property
    def now(self) -> int:
        """ns of this tick."""
        return self.origin_ns + self.tick * 1_000_000_000 // 240

    def joint_state(self) -> JointState:
        """What the arm's driver measures now."""
        position, velocity, _ = self.line.sample(self.now)
        return JointState(self.now, position + self.offset, velocity, self.effort, 0.04)

    def run(self, seconds: float) -> Rig:
        """Let time pass."""
        for _ in range(round(seconds * 240)):
            self.tick += 1
            if self.joints_alive:
                self.controller.on_joint_state(self.joint_state(), self.now)
            if self.tick % 8 == 0 and self.twist is not None:
                residual = Residual(self.now - 30_000_000, self.twist, self.gripper)
                self.applied = self.controller.on_residual(residual, self.now)
            if self.tick % 8 == 0 and self.camera_alive:
                self.controller.on_domain_shift(self.shift, self.now, self.now)
            command = self.controller.tick(self.now, self.now)
            self.commands.append(command)
            if command.trajectory is not None:
                self.line.accept(command.trajectory, self.now)
        return self

    def state(self) -> State:
        """Return the controller's state; a call, because mypy takes an asserted attribute to keep its value."""
        return self.controller.state

    def reasons(self) -> tuple[Reason, ...]:
        """Return why the controller is not fully active."""
        return self.controller.reasons

    @property
    def speed(self) -> float:
        """Largest joint speed that the arm is told, rad/s."""
        return float(np.abs(self.line.sample(self.now)[1]).max())

    @property
    def tool(self) -> np.ndarray:
        """[3] m."""
        return self.controller.kinematics.tool_position(self.line.sample(self.now)[0])


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


def test_on_hardware_nothing_is_sent_before_enable() -> None:
    rig = Rig(ControllerSettings()).run(0.5)
    assert rig.state() is State.DISABLED
    assert all(command.trajectory is None for command in rig.commands)
    assert rig.controller.enable() == (True, "enabled")
    rig.run(0.5)
    assert rig.state() is State.ACTIVE
    assert rig.speed > 0.01


def test_a_dead_policy_loses_its_gain_within_100_ms_and_the_base_controller_continues() -> None:
    rig = Rig().run(1.0)
    rig.twist = None
    rig.run(0.105)
    assert rig.controller.gain == 0.0
    rig.run(0.5)
    assert rig.state() is State.ACTIVE
    assert rig.reasons() == (Reason.RESIDUAL_STALE,)
    assert rig.speed < 1e-3
    rig.twist = PUSH
    rig.run(0.3)
    assert rig.controller.gain > 0.5


@pytest.mark.parametrize(
    ("twist", "reason"),
    [
        (np.full(6, np.nan), Reason.RESIDUAL_NOT_FINITE),
        (np.array([np.inf, 0, 0, 0, 0, 0]), Reason.RESIDUAL_NOT_FINITE),
        (np.array([0, 0, 0, 50.0, 0, 0]), Reason.RESIDUAL_RANGE),
        (np.array([2.0, 0, 0, 0, 0, 0]), Reason.RESIDUAL_RANGE),
        (np.zeros(3), Reason.RESIDUAL_SHAPE),
    ],
)
def test_a_bad_residual_is_refused_and_counts_nothing(twist: np.ndarray, reason: Reason) -> None:
    rig = Rig().run(1.0)
    rig.twist = twist
    rig.run(0.05)
    assert rig.applied.tolist() == [0.0] * 6
    assert rig.controller.gain == 0.0
    assert rig.reasons() == (reason,)
    assert rig.state() is State.ACTIVE
    rig.twist = PUSH
    rig.run(0.4)
    assert rig.reasons() == ()


def test_future_and_repeated_stamps_are_refused() -> None:
    rig = Rig().run(1.0)
    controller = rig.controller
    assert not controller.on_residual(Residual(rig.now + 1_000_000_000, PUSH), rig.now).any()
    rig.run(0.3)
    repeated = Residual(rig.now - 100_000_000, PUSH)
    assert not controller.on_residual(repeated, rig.now).any()
    assert controller.supervisor.counts[Reason.RESIDUAL_FUTURE] == 1
    assert controller.supervisor.counts[Reason.RESIDUAL_REPEATED] == 1


def test_one_dropped_frame_does_not_touch_the_gain() -> None:
    rig = Rig().run(1.0)
    rig.twist = None
    rig.run(8 / 240)
    rig.twist = PUSH
    for _ in range(8):
        rig.run(1 / 240)
        assert rig.controller.gain == 1.0


def test_a_dead_camera_holds_and_clears_itself() -> None:
    rig = Rig().run(1.0)
    rig.camera_alive, rig.twist = False, None
    rig.run(1.0)
    assert rig.state() is State.HOLDING
    assert Reason.PERCEPT_STALE in rig.reasons()
    assert rig.speed < 1e-9
    rig.camera_alive, rig.twist = True, PUSH
    rig.run(0.3)
    assert rig.state() is State.ACTIVE
    assert rig.controller.gain > 0.5


def test_a_scene_unlike_training_slows_down_before_it_holds() -> None:
    rig = Rig().run(1.0)
    rig.shift = 0.825
    rig.run(0.2)
    assert rig.controller.gain == pytest.approx(0.5, abs=0.05)
    rig.shift = 1.0
    rig.run(0.2)
    assert rig.controller.gain == 0.0
    assert Reason.DOMAIN_SHIFT in rig.reasons()


def test_one_image_that_looks_odd_changes_nothing() -> None:
    rig = Rig().run(1.0)
    rig.controller.on_domain_shift(1.0, rig.now, rig.now)
    rig.run(0.2)
    assert rig.controller.gain == 1.0
    assert Reason.DOMAIN_SHIFT not in rig.controller.supervisor.counts


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


def test_disable_comes_to_rest_and_then_sends_nothing() -> None:
    rig = Rig().run(1.0)
    rig.controller.disable()
    stopping = rig.run(0.02).commands[-1]
    assert stopping.trajectory is not None
    rig.run(0.4)
    assert rig.state() is State.DISABLED
    assert rig.commands[-1].trajectory is None
    assert rig.speed == 0.0


def test_after_missed_ticks_motion_continues_from_the_stop_that_was_sent() -> None:
    rig = Rig().run(1.0)
    rig.tick += 20
    for _ in range(100):
        before = rig.line.sample(rig.now)
        rig.run(1 / 240)
        after = rig.line.sample(rig.now)
        jerk = np.abs(after[2] - before[2]) * 240
        assert (jerk <= np.array(ARM.limits.jerk)).all()
    assert rig.state() is State.ACTIVE


def test_a_clock_that_jumps_back_stops() -> None:
    rig = Rig().run(1.0)
    rig.origin_ns -= 10_000_000_000
    rig.run(0.1)
    assert Reason.CLOCK_JUMP in rig.reasons()


def test_a_frozen_clock_does_not_disarm_the_watchdogs() -> None:
    rig = Rig().run(1.0)
    stamp, steady = rig.now, rig.now
    for _ in range(100):
        steady += 4_166_667
        assert rig.controller.tick(stamp, steady).trajectory is None
    assert rig.state() is State.STOPPED


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


def test_the_gripper_moves_at_its_own_speed_and_inside_its_range() -> None:
    rig = Rig(made_for=contract(gripper=True))
    rig.gripper = -1.0
    rig.run(1.0)
    widths = [command.gripper_width for command in rig.commands if command.gripper_width is not None]
    assert ARM.gripper is not None
    assert min(np.diff(widths)) >= -ARM.gripper.velocity / 240 - 1e-9
    assert widths[-1] == 0.0


def test_a_fault_inside_stops_the_arm_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig().run(1.0)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(rig.controller.base, "wanted", broken)
    rig.run(0.5)
    assert rig.reasons() == (Reason.INTERNAL_ERROR,)
    assert "ZeroDivisionError" in rig.controller.last_error
    assert rig.speed == 0.0


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


def test_a_residual_that_keeps_jumping_stays_refused_and_a_steady_one_is_admitted_again() -> None:
    rig = Rig(SIMULATED.model_copy(update={"residual_range": 1.5})).run(1.0)
    refused = []
    for swing in range(12):
        rig.twist = np.array([0.28 * (-1) ** swing, 0.0, 0.0, 0.0, 0.0, 0.0])
        refused.append(not rig.run(8 / 240).applied.any())
    assert all(refused[1:])
    assert rig.reasons() == (Reason.RESIDUAL_JUMP,)
    rig.run(0.6)
    assert rig.reasons() == ()
    assert rig.controller.gain == 1.0


def test_a_camera_that_repeats_its_image_is_as_good_as_dead() -> None:
    rig = Rig()
    seen = rig.now
    for tick in range(480):
        if tick % 8 == 0:
            seen = rig.now if tick < 240 else seen
            rig.controller.on_object_pose(np.array([0.5, 0.0, 0.0]), None, seen, rig.now)
        rig.run(1 / 240)
        if tick == 239:
            assert rig.state() is State.ACTIVE
    assert rig.state() is State.HOLDING
    assert rig.reasons() == (Reason.PERCEPT_STALE,)
    assert rig.controller.supervisor.counts[Reason.PERCEPT_REPEATED] >= 20


def test_percepts_that_are_not_finite_hold_the_arm_even_with_a_sound_domain_shift_beside_them() -> None:
    rig = Rig()
    for tick in range(480):
        if tick % 8 == 0:
            place = np.array([0.5, 0.0, 0.0]) if tick < 240 else np.full(3, np.nan)
            rig.controller.on_object_pose(place, None, rig.now, rig.now)
        rig.run(1 / 240)
    assert rig.state() is State.HOLDING
    assert Reason.PERCEPT_BAD in rig.reasons()


@pytest.mark.parametrize("base", ["servo", "mpc"])
@pytest.mark.parametrize("wrong", [1.7e308, -1e5, np.inf])
def test_a_goal_or_an_object_that_no_arm_reaches_does_not_keep_it_from_the_next_one(base: str, wrong: float) -> None:
    for target in (0.0, 1.0):
        rig = Rig(made_for=contract(base, target=target))
        rig.twist = np.zeros(6)
        rig.run(0.3)
        wanted = rig.tool + np.array([0.0, 0.1, 0.0])
        for place in (np.array([wrong, 0.1, -wrong]), wanted):
            for _ in range(90):
                rig.controller.on_goal(place)
                rig.controller.on_object_pose(place, None, rig.now, rig.now)
                rig.run(1 / 30)
        assert rig.tool == pytest.approx(wanted, abs=1e-3)


def test_after_a_clock_that_went_back_a_reset_lets_residuals_and_percepts_in_again() -> None:
    rig = Rig(SIMULATED, origin_ns=1_000_000_000_000).run(1.0)
    rig.origin_ns = 0
    rig.run(0.5)
    assert rig.state() is State.STOPPED
    assert Reason.CLOCK_JUMP in rig.reasons()
    assert rig.controller.reset()[0]
    assert rig.controller.enable()[0]
    rig.run(1.0)
    assert rig.state() is State.ACTIVE
    assert rig.controller.gain == 1.0


@pytest.mark.parametrize("back_ns", [0, 500_000_000_000])
def test_an_arm_that_rests_is_not_told_to_move_by_a_clock_that_stood_still_and_comes_back(back_ns: int) -> None:
    rig = Rig(origin_ns=1_000_000_000_000).run(1.0)
    assert rig.speed > 0.05
    stood, now = rig.now, rig.now
    moving_since_rest = []
    for tick in range(480):  # the clock stands still for a second and then continues, or begins anew
        now += 1_000_000_000 // 240
        stamp = stood if tick < 240 else stood - back_ns + (tick - 239) * 1_000_000_000 // 240
        command = rig.controller.tick(stamp, now)
        if command.trajectory is not None:
            rig.line.accept(replace(command.trajectory, stamp_ns=now), now)
        if tick > 200:
            moving_since_rest.append(np.abs(rig.line.sample(now)[1]).max())
    assert rig.state() is State.STOPPED
    assert max(moving_since_rest) < 1e-6


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


def test_percepts_of_an_old_image_hold_the_arm_although_they_keep_coming() -> None:
    rig = Rig()
    for tick in range(480):
        if tick % 8 == 0:  # newer and newer ones, but from the second second on they fall behind
            behind = 800_000_000 * max(0, tick - 240) // 240
            rig.controller.on_object_pose(np.array([0.5, 0.0, 0.0]), None, rig.now - behind, rig.now)
        rig.run(1 / 240)
        if tick == 240 + 120:
            assert rig.state() is State.ACTIVE
    assert rig.state() is State.HOLDING
    assert rig.reasons() == (Reason.PERCEPT_OLD,)


def test_gaps_and_odd_stamps_are_counted_by_name() -> None:
    rig = Rig().run(1.0)
    counts = rig.controller.supervisor.counts
    assert Reason.RESIDUAL_GAP not in counts
    rig.twist = None
    rig.run(8 / 240)
    rig.twist = PUSH
    rig.run(0.2)
    assert counts[Reason.RESIDUAL_GAP] == 1
    state = rig.joint_state()
    rig.controller.on_joint_state(state, rig.now)
    rig.controller.on_joint_state(replace(state, stamp_ns=rig.now + 10**9), rig.now)
    assert (counts[Reason.JOINT_STATE_REPEATED], counts[Reason.JOINT_STATE_FUTURE]) == (1, 1)
    rig.run(0.1)
    assert rig.state() is State.ACTIVE


def test_denormal_residuals_are_as_good_as_none() -> None:
    rig = Rig()
    rig.twist = np.array([5e-324, -5e-324, 5e-324, 0.0, 0.0, 0.0])
    rig.run(1.0)
    assert rig.reasons() == ()
    assert rig.speed < 1e-6


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


@pytest.mark.parametrize("happens", ["estop", "error", "frozen_clock", "missed_ticks", "disable", "episode"])
@pytest.mark.parametrize("output", ["forward_position", "forward_velocity"])
def test_forward_commands_keep_the_limits_and_play_every_stop_to_its_end(
    output: Literal["forward_position", "forward_velocity"], happens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a controller keeps its last command, so every command must be valid by itself."""
    rig = Rig(ControllerSettings(start_enabled=True, output=output)).run(1.0)
    assert rig.speed > 0.05
    if happens == "estop":
        rig.controller.estop()
    elif happens == "disable":
        rig.controller.disable()
    elif happens == "error":
        monkeypatch.setattr(rig.controller.base, "wanted", lambda *_: 1 / 0)
    elif happens == "missed_ticks":
        rig.tick += 20
    elif happens == "episode":
        rig.controller.on_episode_reset(rig.now + 2_000_000_000)  # no joint state is of the new one yet
    if happens == "frozen_clock":
        stamp, steady = rig.now, rig.now
        for _ in range(240):
            steady += 1_000_000_000 // 240
            rig.commands.append(rig.controller.tick(stamp, steady))
    else:
        rig.run(1.0)
    told = [command.trajectory for command in rig.commands if command.trajectory is not None]
    moving = happens == "missed_ticks"
    states = {"missed_ticks": State.ACTIVE, "disable": State.DISABLED, "episode": State.HOLDING}
    assert rig.state() is states.get(happens, State.STOPPED)
    assert moving or not told[-1].velocities[0].any()
    tolerance = 1 + 1e-6
    if output == "forward_position":
        positions = np.array([trajectory.positions[0] for trajectory in told])
        velocities = 240 * np.diff(positions, axis=0)
    else:
        velocities = np.array([trajectory.velocities[0] for trajectory in told])
    accelerations = 240 * np.diff(velocities, axis=0)
    assert (np.abs(velocities) <= tolerance * np.array(ARM.limits.velocity)).all()
    assert (np.abs(accelerations) <= tolerance * np.array(ARM.limits.acceleration)).all()
    assert (np.abs(240 * np.diff(accelerations, axis=0)) <= tolerance * np.array(ARM.limits.jerk)).all()


def test_under_a_forward_controller_a_new_episode_starts_once_the_arm_is_at_rest() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, output="forward_velocity")).run(1.0)
    rig.controller.on_episode_reset(rig.now)
    first = len(rig.commands)
    rig.run(2.0)
    speeds = [np.abs(command.trajectory.velocities[0]).max() for command in rig.commands[first:] if command.trajectory]
    assert min(speeds) == 0.0
    assert rig.state() is State.ACTIVE
    assert rig.speed > 0.05


def test_inputs_after_a_stall_of_this_process_are_not_rejected_as_future_ones() -> None:
    """Simulated time: the first tick after the stall still has the old /clock, the residual is 100 ms newer."""
    rig = Rig().run(1.0)
    before = rig.now
    rig.tick += 24
    rig.controller.tick(before + 1_000_000_000 // 240, rig.now)
    residual = Residual(rig.now - 30_000_000, PUSH)
    rig.controller.on_sender_clock(rig.now)
    assert rig.controller.on_residual(residual, rig.now).any()
    assert Reason.RESIDUAL_FUTURE not in rig.controller.supervisor.counts
    assert not rig.controller.on_residual(Residual(rig.now + 50_000_000, PUSH), rig.now).any()
    assert rig.controller.supervisor.counts[Reason.RESIDUAL_FUTURE] == 1


@pytest.mark.parametrize("field", ["enabled", "latched", "initialised", "gain", "counts"])
def test_nothing_outside_writes_the_supervisors_state(field: str) -> None:
    supervisor = Rig().controller.supervisor
    with pytest.raises(AttributeError):
        setattr(supervisor, field, getattr(supervisor, field))


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
